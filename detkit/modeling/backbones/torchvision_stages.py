"""Where a torchvision classification network has maps of which stride: found by tracing it, without its weights."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from detkit.registry import did_you_mean

PROBE_SIZE = (256, 384)
"""Size of the traced image. Not square: a network that accepts it takes any size, and channels differ from sides."""


@dataclasses.dataclass(frozen=True)
class Node:
    """What a part of the network gives.

    Args:
        name: of the part, in torchvision's words, e.g. ``features.3``.
        stride: input pixels per cell, a power of two; None where it gives no map (numbers, tokens, vectors, maps whose
            size is no exact fraction of the image's).
        channels: of the map.
        channels_last: whether the map is (N, H, W, C).
    """

    name: str
    stride: int | None = None
    channels: int = 0
    channels_last: bool = False


def new_network(model: str) -> nn.Module:
    """torchvision's network of that name with fresh weights, on the current default device.

    Raises:
        ValueError: torchvision has no classification network of that name.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if model not in known:
        raise ValueError(
            f"model: torchvision has no classification network '{model}'.{did_you_mean(model, known)}"
            " torchvision.models.list_models(module=torchvision.models) names them all"
        )
    try:
        return torchvision.models.get_model(model, weights=None)
    except NotImplementedError:  # RegNet computes with tensors while it is built, which the meta device cannot do
        with torch.device("cpu"):
            network = torchvision.models.get_model(model, weights=None)
        return network.to(torch.empty(0).device)  # torch.get_default_device() of torch 2.6 overlooks a ``with``


@functools.cache
def trace(model: str) -> tuple[Node, ...]:
    """Every node of the network's graph, in the order in which it is computed.

    Raises:
        ValueError: there is no such network, or it takes images of one size only (as vision transformers do).
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network = new_network(model).eval()
        names = get_graph_node_names(network, suppress_diff_warning=True)[1][1:]  # [0] is the image
        extractor = create_feature_extractor(
            network, train_return_nodes=names[:1], eval_return_nodes=names, suppress_diff_warning=True
        ).eval()
        try:
            values = extractor(torch.empty(1, 3, *PROBE_SIZE))
        except (AssertionError, RuntimeError) as e:
            raise ValueError(
                f"model: '{model}' does not take images of any size ({e}), so it cannot be a backbone; choose a"
                " convolutional network or swin"
            ) from e
    return tuple(_node(name, values[name]) for name in names)


def units(nodes: Sequence[Node]) -> list[Node]:
    """The network as a short sequence of parts (blocks or stages), each with what it gives.

    A container such as ``features`` in which the stride more than doubles is opened; a residual block, an inverted
    bottleneck or a whole stage stays one part, so that its map is the one after the addition.
    """
    return _units(nodes, depth=0, stride=1)


def find(nodes: Sequence[Node], name: str) -> Node | None:
    """What the part called ``name`` gives: that of its last node, as torchvision's own extraction takes it."""
    inside = [n for n in nodes if n.name == name or n.name.startswith(name + ".")]
    return dataclasses.replace(inside[-1], name=name) if inside else None


def position(nodes: Sequence[Node], part: Node) -> int:
    """Which of the nodes gives what the part gives: that of its last node."""
    return max(i for i, n in enumerate(nodes) if n.name == part.name or n.name.startswith(part.name + "."))


def _units(nodes: Sequence[Node], depth: int, stride: int) -> list[Node]:
    found = []
    for prefix, group in itertools.groupby(nodes, key=lambda n: ".".join(n.name.split(".")[: depth + 1])):
        inside = list(group)
        strides = [n.stride for n in inside if n.stride is not None]
        if strides and max(strides) > 2 * stride and len(inside) > 1:
            found += _units(inside, depth + 1, stride)
        else:
            found.append(dataclasses.replace(inside[-1], name=prefix))
        stride = max([stride, *strides])
    return found


def _node(name: str, value: object) -> Node:
    if isinstance(value, Tensor) and value.dim() == 4 and value.shape[0] == 1:
        for channels_last, (channels, h, w) in ((False, value.shape[1:]), (True, value.permute(0, 3, 1, 2).shape[1:])):
            stride = PROBE_SIZE[0] // h
            if (h * stride, w * stride) == PROBE_SIZE and stride & (stride - 1) == 0:
                return Node(name, stride, channels, channels_last)
    return Node(name)
