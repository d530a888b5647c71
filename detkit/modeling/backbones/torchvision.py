"""Any torchvision classification network as a backbone."""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from detkit.config import FilePath, Interval, NonNegative
from detkit.layers import ShapeSpec, SyncBN, freeze, frozen_copy, numbered, replace_modules
from detkit.modeling.backbones.torchvision_stages import Node, find, new_network, position, trace, units
from detkit.modeling.interfaces import BACKBONES, Backbone, Features
from detkit.modeling.weights import read_state_dict
from detkit.registry import did_you_mean
from detkit.zoo import shown

STAGES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
"""Name of a map -> its stride, as in a ResNet."""


@BACKBONES.register()
class TorchvisionBackbone(Backbone):
    """A classification network of torchvision without its classifier: ``mobilenet_v3_large``, ``convnext_tiny``, ...

    Its maps are called ``res2`` .. ``res5`` after a ResNet's of the same stride (4, 8, 16, 32), so that backbones can
    be exchanged. Each is what the last part of that stride gives; what does not lead to a map is dropped. Several maps
    of one stride may be asked for by their parts: they are called ``res5``, ``res5_2``, ... in the network's order.
    Weights keep torchvision's names under ``body``. Networks for one size of image (vision transformers) and those
    whose maps do not line up with the image (AlexNet, SqueezeNet, Inception) are refused.

    Args:
        model: the network's name in ``torchvision.models.list_models(module=torchvision.models)``.
        out_features: the maps to give, by name, or parts of the network such as ``features.3``, which are called after
            their stride as well; null for all.
        weights: torchvision's state dict of the network: a file, an address or a name such as
            ``torchvision://ResNet50_Weights.IMAGENET1K_V2``; null for random weights. Read when the model is built,
            except on the meta device.
        norm: what batch norms are: BN as they are, FrozenBN with fixed statistics and weights, SyncBN over all ranks.
            Other norms stay.
        norm_eps: added to the variance of every batch norm; null for the network's own (0.001 in MobileNetV3, which
            torchvision's detectors change to 0.00001).
        freeze_at: how much of the network does not learn: 0 nothing, 1 all up to the last map of stride 2, 2 all up to
            that of stride 4, up to 5. Batch norms of that part become FrozenBN.

    Raises:
        ValueError: unknown or unfit network, unknown map, a map asked for twice, ``norm_eps`` below 0 or without a
            batch norm, ``freeze_at`` outside 0..5, or weights that are missing, unreadable or another network's.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        model: str,
        out_features: tuple[str, ...] | None = None,
        weights: FilePath | None = None,
        norm: Literal["BN", "FrozenBN", "SyncBN"] = "BN",
        norm_eps: NonNegative | None = None,
        freeze_at: Annotated[int, Interval(0, 5)] = 0,
    ):
        super().__init__(input_shape)
        self.model = model
        if not 0 <= freeze_at <= 5:
            raise ValueError(f"freeze_at: expected 0 (nothing) to 5 (everything), got {freeze_at}")
        if norm not in ("BN", "FrozenBN", "SyncBN"):
            raise ValueError(f"norm: expected BN, FrozenBN or SyncBN, got {norm!r}")
        maps = _choose(model, out_features)
        self.output_shape = {
            name: ShapeSpec(channels=node.channels, stride=(node.stride or 1) * input_shape.stride)
            for name, node in maps.items()
        }
        self._channels_last = frozenset(name for name, node in maps.items() if node.channels_last)
        network = new_network(model)
        _set_in_channels(network, input_shape.channels)
        names = set(network.state_dict())
        self.body = create_feature_extractor(
            network, {node.name: name for name, node in maps.items()}, suppress_diff_warning=True
        )
        if weights is not None:
            _load(self.body, weights, names)
        if norm_eps is not None:
            _set_norm_eps(self.body, model, norm_eps)
        if norm == "FrozenBN":
            replace_modules(self.body, nn.modules.batchnorm._BatchNorm, frozen_copy)
        elif norm == "SyncBN":
            replace_modules(self.body, nn.modules.batchnorm._BatchNorm, SyncBN.of)
        _freeze_up_to(self.body, units(trace(model)), 2**freeze_at)

    def layers(self) -> list[list[str]]:
        """See ``Backbone.layers``. A layer is what has one stride, so that of a ResNet the layers are its stages."""
        layers, largest = {1: list[str]()}, 1
        for part in units(trace(self.model)):
            largest = max(largest, part.stride or 1)
            layers.setdefault(largest, []).append(f"body.{part.name}")
        held = [name for name, _ in self.named_parameters()]
        return [n for n in layers.values() if any(h.startswith(tuple(f"{name}." for name in n)) for h in held)]

    def forward(self, images: Tensor) -> Features:
        """``(N, C, H, W)`` -> map's name -> ``(N, C', H/s, W/s)``."""
        maps = self.body(images)
        return {
            name: maps[name].permute(0, 3, 1, 2) if name in self._channels_last else maps[name]
            for name in self.output_shape
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> "TorchvisionBackbone":
        # a copy of the traced body is always in training mode, with the graph and the norms of that mode
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        new.body.train(self.body.training)
        modes = {name: module.training for name, module in self.named_modules()}
        for name, module in new.named_modules():
            module.training = modes[name]
        return new


def _choose(model: str, out_features: tuple[str, ...] | None) -> dict[str, Node]:
    """Map name -> the part that gives it, finest first."""
    nodes = trace(model)
    by_stride = {unit.stride: unit for unit in units(nodes)}  # the last one of a stride wins
    stages = {name: by_stride[stride] for name, stride in STAGES.items() if stride in by_stride}
    if not stages:
        raise ValueError(f"model: '{model}' has no map of stride 4, 8, 16 or 32 that lines up with the image")
    chosen: dict[str, Node] = {}
    for wanted in stages if out_features is None else out_features:
        node = _find_map(model, nodes, stages, wanted)
        for other, same in chosen.items():
            if position(nodes, same) == position(nodes, node):
                raise ValueError(f"out_features: '{wanted}' and '{other}' are the same map of {model}")
            if same.stride == node.stride and (wanted in stages or other in stages):
                raise ValueError(
                    f"out_features: '{wanted}' and '{other}' have the same stride {node.stride}; to have both, name"
                    f" their parts of the network: '{node.name}' and '{same.name}'"
                )
        chosen[wanted] = node
    if not chosen:
        raise ValueError(f"out_features: expected some of {', '.join(stages)}, got none")
    names = {stride: name for name, stride in STAGES.items()}
    maps = sorted(chosen.values(), key=lambda node: (node.stride, position(nodes, node)))
    return dict(zip(numbered(names[node.stride or 0] for node in maps), maps))


def _find_map(model: str, nodes: Sequence[Node], stages: Mapping[str, Node], wanted: str) -> Node:
    """What the network gives at one of its ``stages``, or at a part of that name."""
    node = stages.get(wanted) or find(nodes, wanted)
    if node is not None and node.stride in STAGES.values():
        return node
    what = f"gives no map of stride {list(STAGES.values())}" if node else "does not exist"
    hint = did_you_mean(wanted, [*stages, *(unit.name for unit in units(nodes))])
    listed = ", ".join(f"{name} ({stage.name})" for name, stage in stages.items())
    raise ValueError(f"out_features: '{wanted}' {what} in {model}.{hint} Its maps are {listed}")


def _set_norm_eps(body: nn.Module, model: str, norm_eps: float) -> None:
    norms = [m for m in body.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if norm_eps < 0 or not norms:
        has = f"'{model}' has no batch norm; leave it out" if not norms else f"expected at least 0, got {norm_eps}"
        raise ValueError(f"norm_eps: {has}")
    for norm in norms:
        norm.eps = norm_eps


def _set_in_channels(network: nn.Module, channels: int) -> None:
    """Puts a fresh first convolution in the place of one for RGB, where the images have other channels."""
    name, conv = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    if conv.in_channels == channels:
        return
    new = nn.Conv2d(
        channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, new)


def _freeze_up_to(body: nn.Module, parts: list[Node], stride: int) -> None:
    """Stops everything up to the last part of at most that stride from learning; a stride of 1 freezes nothing."""
    last = max((i for i, part in enumerate(parts) if part.stride and part.stride <= stride), default=-1)
    for part in parts[: last + 1 if stride > 1 else 0]:
        *path, child = part.name.split(".")
        parent: object = body
        for step in path:
            parent = getattr(parent, step, None)
        module = getattr(parent, child, None)
        if isinstance(module, nn.Module):
            setattr(parent, child, freeze(module))
        elif isinstance(module, nn.Parameter):
            module.requires_grad_(False)


def _load(body: nn.Module, file: str, names: set[str]) -> None:
    """Loads torchvision's state dict; ``names`` are those of the whole network, classifier included."""
    if any(p.is_meta for p in body.parameters()):
        return
    source, state = shown(file), read_state_dict(file)
    # DenseNet's published files are from a time when its layers were called norm.1, conv.1
    state = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", name): value for name, value in state.items()}
    own = body.state_dict()
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    foreign = [n for n in state if n not in names]
    wrong = [n for n in own if n in state and state[n].shape != own[n].shape]
    if missing or foreign or wrong:
        if wrong:
            shapes = tuple(state[wrong[0]].shape), tuple(own[wrong[0]].shape)
            example = f"'{wrong[0]}' is {shapes[0]} there and {shapes[1]} in the network"
        else:
            example = f"'{missing[0]}' is missing" if missing else f"'{foreign[0]}' is not a tensor of the network"
        raise ValueError(
            f"weights: '{source}' is another network's: {len(missing)} tensors missing, {len(foreign)} unknown,"
            f" {len(wrong)} of another shape; for example {example}"
        )
    body.load_state_dict({n: state[n] for n in own if n in state}, strict=False)
