"""Instances: the objects of one image, as fields of equal length."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from detkit.structures.boxes import as_int
from detkit.structures.cropped_masks import CroppedMasks
from detkit.structures.image_list import ImageInfo
from detkit.structures.transforms import Region, Transform

WHOLE_IMAGE = ImageInfo()


class Instances:
    """N objects of one image. Every field has N rows; a field is read as an attribute.

    A field is a tensor, or anything with ``len`` and rows by an index tensor, a bool mask or a slice. It may have
    ``transform(transform)``, which gives the field after a geometric ``Transform``, ``nonempty()``, ``(N,)`` bool, of
    which rows something is left, ``covered(hidden)``, the field behind something that hides ``(H, W)`` bool pixels,
    ``to(device)`` and a static ``cat(parts)``. A plain tensor stays as it is.

    Fields that the project itself uses: ``boxes`` (Boxes, (N, 4)), ``classes`` ((N,) int64), ``scores`` ((N,)),
    ``masks`` (BitMasks, PolygonMasks or CroppedMasks), ``objectness`` ((N,) logits, proposals only), ``gt_boxes`` and
    ``gt_masks`` (what a sampled proposal was matched to), ``mask_probs`` ((N, M, M), before pasting), ``crowd`` ((N,)
    bool, in a target that keeps its crowds), ``annotation_ids`` ((N,) int64, the dataset's, for messages).

    An ``Instances`` is not edited: ``with_fields`` gives a new one, and so does indexing by an int, a slice,
    a bool mask or an index tensor.

    Args:
        image_size: ``(height, width)`` of the image in whose pixels the fields are expressed.
        info: what else is known of the image; every ``Instances`` made from this one has the same.

    Raises:
        ValueError: two fields have different lengths.
    """

    def __init__(self, image_size: tuple[int, int], *, info: ImageInfo = WHOLE_IMAGE, **fields: Any):
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.info = info
        self._fields: dict[str, Any] = fields
        if len({len(v) for v in fields.values()}) > 1:
            raise ValueError(f"Instances: fields of different lengths: { {k: len(v) for k, v in fields.items()} }")

    def _like(
        self, fields: Mapping[str, Any], image_size: tuple[int, int] | None = None, info: ImageInfo | None = None
    ) -> "Instances":
        """What every method makes its result by; a subclass that knows more passes that on here."""
        return Instances(image_size or self.image_size, info=info or self.info, **fields)

    def _classes(self) -> tuple[str, ...] | None:
        """The names of the classes, in a subclass that knows them."""
        return None

    @property
    def fields(self) -> Mapping[str, Any]:
        """name -> value of every field."""
        return self._fields

    @property
    def valid_region(self) -> Region:
        """``(x1, y1, x2, y2)``: the part of the image that is no padding; the whole image where none is known."""
        return self.info.valid_region_in(self.image_size)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_fields", "info"):  # copying and pickling probe for these before __init__
            raise AttributeError(name)
        try:
            return self._fields[name]
        except KeyError:
            raise AttributeError(
                f"Instances has no field '{name}'; it has {', '.join(self._fields) or 'none'}"
            ) from None

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def __len__(self) -> int:
        return len(next(iter(self._fields.values()))) if self._fields else 0

    def __getitem__(self, item: Any) -> "Instances":
        if isinstance(item := as_int(item), int):
            if not -len(self) <= item < len(self):
                raise IndexError(f"index {item} of {len(self)} instances")
            item = slice(item, item + 1 or None)
        return self._like({k: v[item] for k, v in self._fields.items()})

    def with_fields(self, **fields: Any) -> "Instances":
        """A new ``Instances`` with these fields added or replaced."""
        return self._like({**self._fields, **fields})

    def with_info(self, info: ImageInfo) -> "Instances":
        """The same with other knowledge of the image."""
        return self._like(self._fields, info=info)

    def without(self, *names: str) -> "Instances":
        """A new ``Instances`` without these fields."""
        return self._like({k: v for k, v in self._fields.items() if k not in names})

    def transform(self, transform: Transform) -> "Instances":
        """The objects where the transform takes them: every field that has ``transform`` applies it to itself."""
        moved = {
            name: field.transform(transform) if hasattr(field, "transform") else field
            for name, field in self._fields.items()
        }
        info = dataclasses.replace(self.info, valid_region=transform.region(self.info.valid_region))
        if info.crowds is not None:
            info = dataclasses.replace(info, crowds=info.crowds.transform(transform))
        return self._like(moved, transform.output_size, info)

    def nonempty(self) -> Tensor:
        """``(N,)`` bool: the box has an area. Without boxes: something is left of any field that has ``nonempty``."""
        fields = [self.boxes] if "boxes" in self else [f for f in self._fields.values() if hasattr(f, "nonempty")]
        if not fields:
            return torch.ones(len(self), dtype=torch.bool)
        return torch.stack([field.nonempty() for field in fields]).any(0)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Instances":
        """A new ``Instances`` on ``device``."""
        moved = {k: v.to(device, non_blocking=non_blocking) if hasattr(v, "to") else v for k, v in self._fields.items()}
        return self._like(moved, info=self.info.to(device, non_blocking))

    def pin_memory(self) -> "Instances":
        """A new ``Instances`` whose tensors lie in page-locked memory, for asynchronous copies to a GPU."""
        pinned = {k: _pinned(v) for k, v in self._fields.items()}
        return self._like(pinned, info=self.info.pin_memory())

    @staticmethod
    def cat(parts: "Sequence[Instances]") -> "Instances":
        """The rows of all ``parts``, which are of one image and have the same fields; the ``info`` of the first."""
        if not parts:
            raise ValueError("Instances.cat: nothing to concatenate")
        first = parts[0]
        if any(p.image_size != first.image_size or p._fields.keys() != first._fields.keys() for p in parts):
            raise ValueError("Instances.cat: the parts differ in image size or fields")
        if any(p._classes() != first._classes() for p in parts):
            raise ValueError("Instances.cat: the parts have different class names")
        fields = {k: _cat(k, [p._fields[k] for p in parts]) for k in first._fields}
        return first._like(fields)

    def __repr__(self) -> str:
        h, w = self.image_size
        return f"Instances(num={len(self)}, height={h}, width={w}, fields=[{', '.join(self._fields)}])"


def _pinned(value: Any) -> Any:
    if not hasattr(value, "pin_memory"):  # polygons stay on the CPU
        return value
    pinned = value.pin_memory()
    return pinned if type(pinned) is type(value) else type(value)(pinned)  # a tensor's subclass gives a plain tensor


def _cat(name: str, values: Sequence[Any]) -> Any:
    if len({type(value) for value in values}) > 1 and all(hasattr(value, "bitmaps") for value in values):
        values = [CroppedMasks.around(value) for value in values]  # masks of several kinds
    cat = getattr(type(values[0]), "cat", None)
    if cat is None and not isinstance(values[0], Tensor):
        raise TypeError(f"the field '{name}' cannot be joined: give {type(values[0]).__name__} a static cat(parts)")
    return cat(values) if cat is not None else torch.cat(list(values))
