"""The state dict in what a file holds: where it stands, whether a model can take it, and its plain names."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from detkit.registry import DataError

_ANYWHERE = "module|model|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module"
_WRAPPERS = re.compile(rf"^(net|network|detector)\.|(^|(?<=\.))({_ANYWHERE})\.")
"""What is added to names by DistributedDataParallel, torch.compile and the like, wherever the wrapped part stands, and
by modules of Lightning and the like before every name."""

_KEYS = ("model", "state_dict", "blobs")
"""What the weights usually stand under; else they stand at the top, or under the one key that holds a state dict."""


def find_state_dict(
    content: Mapping[Any, Any], source: str, place: str = ""
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights under their plain names, and the keys under which others of these names stand; see ``as_checkpoint``.

    Raises DataError where there are none, none at ``place``, or some that are no plain tensors under plain names.
    """
    places = _places(content)
    key = place or _usual_place(content, places)
    if place and place not in places:
        places |= _behind_prefix(content, place)
    if place and place not in places:
        raise DataError(
            f"{source}: has no weights under '{place}'; there are some under {', '.join(places) or 'no key'}"
        )
    state = places[key] if key else _usual_content(content)
    _check_state(state, content, source)
    model = _without_wrappers(state, source)
    names = {other: {plain_name(str(name)) for name in values} for other, values in places.items() if other != key}
    return model, tuple(other for other, found in names.items() if 2 * len(found & model.keys()) > len(model))


def _places(content: Mapping[Any, Any]) -> dict[str, Mapping[Any, Any]]:
    """The state dicts under one key or two of a file, by those keys."""
    places: dict[str, Mapping[Any, Any]] = {}
    for key, value in content.items():
        if not isinstance(value, Mapping) or not isinstance(key, str):
            continue
        if _is_state(value):
            places[key] = value
        inner = {name: v for name, v in value.items() if isinstance(name, str) and _is_state(v)}
        places |= {f"{key}.{name}": inner[name] for name in ("module", *_KEYS) if name in inner}
    return places


def _usual_keys(content: Mapping[Any, Any]) -> list[str]:
    return [key for key in _KEYS if isinstance(content.get(key), Mapping)]


def _usual_place(content: Mapping[Any, Any], places: Mapping[str, Any]) -> str:
    """Where the weights are taken from that nobody names: rather those of training than their averages.

    "" is the first usual key, whatever it holds, or else the top.
    """
    usual = _usual_keys(content)
    if usual:
        return next((place for key in usual for place in places if place.partition(".")[0] == key), "")
    return next((key for key in places if "ema" not in key and "averag" not in key), next(iter(places), ""))


def _usual_content(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    return next((content[key] for key in _usual_keys(content)), content)


def _behind_prefix(content: Mapping[Any, Any], prefix: str) -> dict[str, Mapping[Any, Any]]:
    """The tensors whose names begin with a word, such as ``student``, under it and without it; empty for none."""
    flat = {plain_name(str(name)): value for name, value in _usual_content(content).items()}
    behind = {name.removeprefix(f"{prefix}."): v for name, v in flat.items() if name.startswith(f"{prefix}.")}
    return {prefix: behind} if behind else {}


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _check_state(state: Mapping[Any, Any], content: Mapping[Any, Any], source: str) -> None:
    """Raises DataError unless this is a state dict of tensors that a model can take."""
    others = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        what = f"'{others[0]}' is not a tensor" if others else "it is empty"
        raise DataError(
            f"{source}: is not a checkpoint ({what}); expected a state dict at the top or under one of"
            f" {', '.join(map(repr, _KEYS))}. Its keys are {', '.join(map(str, list(content)[:6])) or 'none'}"
        )
    for name, value in state.items():
        if not isinstance(name, str):
            raise DataError(f"{source}: a tensor's name is {name!r:.40}; expected text, as model.state_dict() has it")
        kind = _unusual(value)
        if kind:
            raise DataError(
                f"{source}: the tensor '{name}' is {kind}; expected a plain one. Save what to_dense() or dequantize()"
                " makes of it"
            )


def _unusual(tensor: Tensor) -> str:
    """What keeps a tensor from being copied into a weight; "" where nothing does."""
    if tensor.is_meta:
        return "without values (meta)"
    if tensor.layout is not torch.strided or tensor.is_nested:
        return "sparse or nested"
    if tensor.numel() * tensor.element_size() > max(tensor.untyped_storage().nbytes(), 1 << 26):
        return f"of shape {tuple(tensor.shape)} with the values of fewer"
    return "quantised" if tensor.is_quantized else ""


def plain_name(name: str) -> str:
    """A tensor's name without what wrappers of a model, or of a part of it, have added."""
    while (shorter := _WRAPPERS.sub("", name)) != name:
        name = shorter
    return name


def under_names_of(names: Iterable[str], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict that was read, with a model's own ``names`` where they differ from their ``plain_name``: a part of
    the model may be compiled, or called "model"."""
    own = {plain_name(name): name for name in names}
    return {own.get(name, name): tensor for name, tensor in state.items()}


def _without_wrappers(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    names: dict[str, Tensor] = {}
    for name, tensor in state.items():
        first = names.setdefault(plain_name(name), tensor)
        if first is not tensor and not (first.shape == tensor.shape and torch.equal(first, tensor)):
            raise DataError(f"{source}: has two tensors for '{plain_name(name)}', as of two models; save one's alone")
    names.pop("n_averaged", None)  # AveragedModel's counter
    return names
