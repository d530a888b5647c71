"""What a network of timm is like: asked of timm, and of the network, which is run without numbers (meta device)."""

import dataclasses
import functools
import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from detkit.registry import did_you_mean

FLEXIBLE: tuple[dict[str, bool], ...] = ({}, {"dynamic_img_size": True}, {"strict_img_size": False})
"""What makes networks take images of any size: nothing, or an argument of timm's that some of them have."""

Arguments = tuple[tuple[str, Any], ...]
"""Arguments of a network in a form that can be kept in a cache."""


@dataclasses.dataclass(frozen=True)
class Map:
    """A feature map of a network.

    Args:
        index: its number in timm's ``feature_info``.
        channels: of the map.
        stride: input pixels per cell.
        parameters: the names of those that it depends on.
    """

    index: int
    channels: int
    stride: int
    parameters: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of timm as a backbone.

    Args:
        arguments: of ``timm.create_model``, so that it takes images as wanted.
        maps: what it gives, finest first.
        divisibility: sides of images must be multiples of this.
        channels_last: whether its maps are (N, H, W, C).
    """

    arguments: Arguments
    maps: tuple[Map, ...]
    divisibility: int
    channels_last: bool


def timm() -> ModuleType:
    """The package. Raises ValueError where it is not installed."""
    try:
        return importlib.import_module("timm")
    except ImportError:
        raise ValueError("TimmBackbone needs timm: pip install 'detkit[timm]' (or: pip install timm)") from None


def create(model: str, arguments: Mapping[str, Any], out_indices: Sequence[int] | None = None) -> nn.Module:
    """timm's network that gives the maps ``out_indices``, on the current default device; None for timm's own choice.

    Raises:
        ValueError: there is no such network, it gives no maps, or it does not take an argument.
    """
    if not timm().is_model(model):
        known = timm().list_models()
        raise ValueError(
            f"model: timm has no network '{model}'.{did_you_mean(model, known)} timm.list_models('*WORD*') finds names"
        )
    chosen = {} if out_indices is None else {"out_indices": tuple(out_indices)}
    try:
        return timm().create_model(model, features_only=True, **chosen, **arguments)
    except (TypeError, RuntimeError, AssertionError, ValueError, AttributeError, KeyError, IndexError) as error:
        given = f" with {', '.join(f'{k}={v}' for k, v in arguments.items())}" if arguments else ""
        raise ValueError(f"model: timm cannot make a backbone of '{model}'{given}: {error}") from error


class _Options(dict[str, Any]):
    """Nested arguments, in a form that can be kept in a cache."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def as_arguments(values: Mapping[str, Any]) -> Arguments:
    """``values``, sorted and without lists."""
    return tuple(sorted(_hashable(values).items()))


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _Options({key: _hashable(inner) for key, inner in value.items()})
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


@functools.cache
def network(model: str, arguments: Arguments, img_size: int | None, out_indices: tuple[int, ...] | None) -> Network:
    """What ``model`` is like: for images of any size, or for squares of ``img_size``. The random state stays.

    Raises:
        ValueError: see ``create``; or it takes one size alone and none is given, or another.
    """
    own = timm().get_pretrained_cfg(model) if timm().is_model(model) else None
    side = own.input_size[-1] if own else 224
    choices = FLEXIBLE[1:] + FLEXIBLE[:1] if own is not None and own.fixed_input_size else FLEXIBLE
    errors = []
    for more in choices if img_size is None else [{"img_size": img_size}]:
        chosen = as_arguments({**dict(arguments), **more})
        try:
            net = create_on_meta(model, chosen, out_indices).train()
        except ValueError as error:
            errors.append(error)
            continue
        info: Any = net.feature_info
        in_order = tuple(sorted({index % len(info) for index in info.out_indices}))
        if out_indices not in (None, in_order):
            return network(model, arguments, img_size, in_order)
        step = max(info.reduction())
        sizes = {step: (8 * step, 13 * step), side: (side, 2 * side)} if img_size is None else {1: (img_size, img_size)}
        for divisibility, size in sizes.items():
            try:
                return Network(chosen, _maps(net, size, out_indices is not None), divisibility, _is_channels_last(net))
            except ValueError as error:
                errors.append(error)
    create_on_meta(model, arguments, None)  # an unknown model or argument says so
    if out_indices is not None:
        raise _unfit_maps(model, arguments, img_size, out_indices, errors[-1])
    raise _unfit_size(model, img_size, side, errors[0])


def _unfit_maps(
    model: str, arguments: Arguments, img_size: int | None, out_indices: tuple[int, ...], error: ValueError
) -> ValueError:
    try:
        known = network(model, arguments, img_size, None).maps
    except ValueError:
        return error
    return ValueError(
        f"out_indices: expected some that '{model}' has, such as {[m.index for m in known]} of strides "
        f"{[m.stride for m in known]}, got {list(out_indices)} ({error})"
    )


def _unfit_size(model: str, img_size: int | None, side: int, error: ValueError) -> ValueError:
    """``side`` is what the network is made for."""
    if img_size is None:
        return ValueError(
            f"img_size: '{model}' takes images of one size alone; give it, such as img_size: {side}, its own, and "
            "resize images to at most that in data.train_augmentations and data.test_augmentations"
        )
    if "unexpected keyword" in str(error):
        return ValueError(f"img_size: '{model}' has no such argument; leave it out: images of any size will do")
    return ValueError(f"img_size: {img_size} does not suit '{model}'; its own is {side} ({error})")


def create_on_meta(model: str, arguments: Arguments, out_indices: Sequence[int] | None) -> nn.Module:
    """``create`` on the meta device, where nothing is computed, with the random state as it was."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return create(model, dict(arguments), out_indices)


def _is_channels_last(net: nn.Module) -> bool:
    return "NHWC" in str(getattr(net, "output_fmt", ""))


def _maps(net: nn.Module, size: tuple[int, int], all_must_fit: bool) -> tuple[Map, ...]:
    """What the network gives of an image of that size. Raises ValueError where it does not take one."""
    try:
        values = net(torch.empty(2, 3, *size, device="meta"))
    except Exception as error:  # each family has its own way to refuse a size
        raise ValueError(f"the network does not take images of {size[0]} x {size[1]}: {error}") from error
    info: Any = net.feature_info
    maps, names = [], {id(parameter): name for name, parameter in net.named_parameters()}
    for index, channels, value in zip(info.out_indices, info.channels(), values):
        stride = _stride(value, channels, _is_channels_last(net), size)
        if stride is not None:
            maps.append(Map(index, channels, stride, _parameters(value, names)))
        elif all_must_fit:
            raise ValueError(f"out_indices: map {index}, {tuple(value.shape)}, does not line up with the image")
    if not maps:
        raise ValueError("no map of the network lines up with the image")
    return tuple(sorted(maps, key=lambda m: m.stride))  # stable: those of one stride in the network's order


def _stride(value: Any, channels: int, channels_last: bool, size: tuple[int, int]) -> int | None:
    if not isinstance(value, Tensor) or value.dim() != 4:
        return None
    height, width = value.shape[1:3] if channels_last else value.shape[2:]
    stride = size[0] // height
    fits = (height * stride, width * stride) == size and value.shape[3 if channels_last else 1] == channels
    return stride if fits else None


def _parameters(value: Tensor, names: Mapping[int, str]) -> frozenset[str]:
    """The names of the parameters in the graph of operations that gave ``value``; ``names`` are by their ``id``."""
    seen, todo, found = set(), [value.grad_fn], set()
    while todo:
        node: Any = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [below for below, _ in node.next_functions]
            found.add(names.get(id(getattr(node, "variable", None)), ""))
    return frozenset(found - {""})
