"""Samples as plain data, tensors in mappings and lists, and back, bit for bit: what a file may hold without code."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detkit.structures.bit_masks import BitMasks
from detkit.structures.boxes import Boxes
from detkit.structures.image_info import ImageInfo
from detkit.structures.instances import Instances
from detkit.structures.mini_masks import MiniMasks
from detkit.structures.polygon_masks import PolygonMasks
from detkit.structures.sample import Sample

_KIND = "kind"


def to_plain(value: Any) -> Any:
    """A sample, or what one is made of, as tensors (on the CPU, each with memory of its own), mappings, lists,
    numbers and words; ``torch.load(..., weights_only=True)`` reads what ``torch.save`` writes of it.

    Raises:
        TypeError: a field of another type; names the field's type.
    """
    if isinstance(value, Boxes | BitMasks):
        return {_KIND: type(value).__name__, "tensor": _own(value.tensor)}
    if isinstance(value, Tensor):
        return _own(value)
    if isinstance(value, PolygonMasks):
        return _polygons_to_plain(value)
    if isinstance(value, MiniMasks):
        fields = {"tensor": _own(value.tensor), "windows": _own(value.windows.tensor)}
        return {_KIND: "MiniMasks", **fields, "image_size": value.image_size}
    if isinstance(value, Instances):
        rows = {name: to_plain(field) for name, field in value.fields.items()}
        return {_KIND: "Instances", "image_size": value.image_size, "info": to_plain(value.info), "fields": rows}
    if isinstance(value, ImageInfo | Sample):
        return {_KIND: type(value).__name__, **{name: to_plain(field) for name, field in vars(value).items()}}
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
    raise TypeError(f"{type(value).__name__} is no plain data; expected a tensor, masks, Instances, a number or words")


def from_plain(value: Any) -> Any:
    """What ``to_plain`` was given. Raises ValueError for a kind that it does not write."""
    if isinstance(value, list | tuple):
        return type(value)([from_plain(part) for part in value])
    if not isinstance(value, Mapping):
        return value
    kind, rest = value.get(_KIND), {name: from_plain(part) for name, part in value.items() if name != _KIND}
    if kind == "PolygonMasks":
        return _polygons_from_plain(**rest)
    if kind == "MiniMasks":
        return MiniMasks(rest["tensor"], Boxes(rest["windows"]), rest["image_size"])
    if kind == "Instances":
        return Instances(rest["image_size"], info=rest["info"], **rest["fields"])
    if kind == "ndarray":
        return rest["tensor"].numpy()
    if kind is None:
        return rest
    makers: Sequence[type] = (Boxes, BitMasks, ImageInfo, Sample)
    for maker in makers:
        if maker.__name__ == kind:
            return maker(*rest.values()) if issubclass(maker, Tensor) else maker(**rest)
    raise ValueError(f"plain data of the kind {kind!r}: written by another version, or damaged")


def _own(tensor: Tensor) -> Tensor:
    """With memory of its own: a view would be written with all that it is a view of."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _polygons_to_plain(masks: PolygonMasks) -> dict[str, Any]:
    polygons = [points for of_object in masks.polygons for points in of_object]
    points = np.concatenate(polygons) if polygons else np.zeros((0, 2))
    return {
        _KIND: "PolygonMasks",
        "points": torch.from_numpy(np.array(points, np.float64)),
        "sizes": [len(points) for points in polygons],
        "counts": [len(of_object) for of_object in masks.polygons],
        "image_size": masks.image_size,
    }


def _polygons_from_plain(
    points: Tensor, sizes: list[int], counts: list[int], image_size: tuple[int, int]
) -> PolygonMasks:
    pieces = iter([part.numpy() for part in points.split(sizes)] if sizes else [])
    return PolygonMasks([[next(pieces) for _ in range(count)] for count in counts], image_size)
