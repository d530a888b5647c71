"""Samples as plain data, tensors in mappings and lists, and back, bit for bit: what a file may hold without code."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detkit.structures.bit_masks import BitMasks
from detkit.structures.boxes import Boxes
from detkit.structures.cropped_masks import CroppedMasks
from detkit.structures.image_list import ImageInfo
from detkit.structures.instances import Instances
from detkit.structures.keypoints import Keypoints
from detkit.structures.polygon_masks import PolygonMasks
from detkit.structures.sample import Sample

_KIND = "kind"
_FORMS: dict[str, tuple[type, tuple[str, ...], Callable[..., Any]]] = {}


def plain_form(kind: type, attributes: tuple[str, ...], make: Callable[..., Any] | None = None) -> None:
    """Declares of which attributes objects of a class consist, so that a field of a user's own is plain data, too.

    Args:
        kind: the class; it is known by its name, and has to be declared where the file is read as well.
        attributes: each of them plain data, or made of such.
        make: makes the object of the attributes, in that order; None: the class does.
    """
    _FORMS[kind.__name__] = (kind, attributes, make or kind)


def to_plain(value: Any) -> Any:
    """A sample, or what one is made of, as tensors (on the CPU, each with memory of its own), mappings, lists,
    numbers and words; ``torch.load(..., weights_only=True)`` reads what ``torch.save`` writes of it.

    Raises:
        TypeError: a field of another type; names the field's type.
    """
    form = _FORMS.get(type(value).__name__)
    if form is not None and isinstance(value, form[0]):
        return {_KIND: type(value).__name__, **{name: to_plain(getattr(value, name)) for name in form[1]}}
    if isinstance(value, Tensor):  # a view would be written with all that it is a view of
        return value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if isinstance(value, np.ndarray):
        return {_KIND: "ndarray", "tensor": torch.from_numpy(np.array(value))}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {name: to_plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([to_plain(part) for part in value])
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} is no plain data; declare what it consists of by structures.plain_form")


def from_plain(value: Any) -> Any:
    """What ``to_plain`` was given. Raises ValueError for a kind that is not declared."""
    if isinstance(value, list | tuple):
        return type(value)([from_plain(part) for part in value])
    if not isinstance(value, Mapping):
        return value
    kind, parts = value.get(_KIND), {name: from_plain(part) for name, part in value.items() if name != _KIND}
    if kind is None:
        return parts
    if kind == "ndarray":
        return parts["tensor"].numpy()
    if kind not in _FORMS:
        raise ValueError(f"plain data of the kind {kind!r}: not declared by plain_form, of another version, or damaged")
    return _FORMS[kind][2](*parts.values())


plain_form(Boxes, ("tensor",))
plain_form(BitMasks, ("tensor",))
plain_form(PolygonMasks, ("polygons", "image_size"))
plain_form(CroppedMasks, ("bits", "regions", "image_size", "size"))
plain_form(Keypoints, ("tensor", "flip_pairs", "skeleton"))
plain_form(ImageInfo, tuple(ImageInfo.__dataclass_fields__))
plain_form(Instances, ("image_size", "info", "fields"), lambda size, info, fields: Instances(size, info=info, **fields))
plain_form(Sample, tuple(Sample.__dataclass_fields__))
