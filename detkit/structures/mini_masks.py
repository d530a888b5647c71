"""MiniMasks: masks as small bitmaps, each inside its own box."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.structures.bit_masks import BitMasks
from detkit.structures.boxes import Boxes
from detkit.structures.mask_crops import CropMethod, check_pairs, crop_maps, to_bits
from detkit.structures.masks import Masks
from detkit.structures.transforms import CropAndPad, Transform


class MiniMasks:
    """N objects of one image, each a bitmap of S x S that fills its own box; implements ``Masks``.

    The mini-masks of matterport's Mask R-CNN: a thousand objects take the memory of a few whole bitmaps, and what is
    finer than a cell of the box is lost. ``of`` makes them; it is not edited. Indexing rows by a slice, an index
    tensor or array, or a bool mask gives ``MiniMasks``; an int gives that object's ``(S, S)`` bitmap.

    Args:
        tensor: ``(N, S, S)`` bool.
        windows: the N boxes that the bitmaps fill, in pixels of the image; (0, 0, 0, 0) for an empty mask.
        image_size: ``(height, width)``.

    Raises:
        ValueError: the shapes do not fit.
    """

    def __init__(self, tensor: Tensor, windows: Boxes, image_size: tuple[int, int]):
        if tensor.ndim != 3 or tensor.shape[1] != tensor.shape[2] or len(tensor) != len(windows):
            raise ValueError(f"MiniMasks: expected (N, S, S) and N boxes, got {tuple(tensor.shape)} and {len(windows)}")
        self.tensor = tensor if tensor.dtype == torch.bool else tensor != 0
        self.windows = windows
        self._image_size = (int(image_size[0]), int(image_size[1]))

    @staticmethod
    def of(masks: Masks, size: int = 56) -> "MiniMasks":
        """Other masks, each cut to its tight box of whole pixels and resized to ``size`` by ``size``.

        The filter is bilinear and widens where it shrinks; a cell belongs to the object from one half on. Raises
        ValueError for a size below 1.
        """
        if size < 1:
            raise ValueError(f"MiniMasks: expected a size of at least 1, got {size}")
        none = masks[:0].bitmaps()
        rows, windows = [none.tensor.new_zeros((0, size, size))], [none.boxes()]
        for i in range(len(masks)):  # one at a time: all bitmaps of an image may take gigabytes
            bitmap = masks[i : i + 1].bitmaps()
            windows.append(bitmap.boxes())
            x1, y1, x2, y2 = windows[-1].int()[0].tolist()
            rows.append(_resized(bitmap.tensor[0, y1:y2, x1:x2], (size, size))[None])
        return MiniMasks(torch.cat(rows), Boxes.cat(windows), masks.image_size)

    @property
    def image_size(self) -> tuple[int, int]:
        """``(height, width)``."""
        return self._image_size

    @property
    def size(self) -> int:
        """S, the side of the bitmaps."""
        return self.tensor.shape[-1]

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, int):
            return self.tensor[item]
        item = torch.from_numpy(item) if isinstance(item, np.ndarray) else item
        return MiniMasks(self.tensor[item], self.windows[item], self.image_size)

    def __repr__(self) -> str:
        return f"MiniMasks(num={len(self)}, size={self.size}, image_size={self.image_size})"

    def to(self, *args: Any, **kwargs: Any) -> "MiniMasks":
        """As ``Tensor.to``; masks stay bool."""
        return MiniMasks(self.tensor.to(*args, **kwargs), self.windows.to(*args, **kwargs), self.image_size)

    def pin_memory(self) -> "MiniMasks":
        """The same in page-locked memory."""
        return MiniMasks(self.tensor.pin_memory(), Boxes(self.windows.tensor.pin_memory()), self.image_size)

    def bitmaps(self) -> BitMasks:
        """As bitmaps: each resized back into its box, rounded to whole pixels, and cut to the image."""
        out = self.tensor.new_zeros((len(self), *self.image_size))
        for bitmap, (x, y, part) in zip(out, self._parts()):
            bitmap[y : y + part.shape[0], x : x + part.shape[1]] = part
        return BitMasks(out)

    def boxes(self) -> Boxes:
        """Tight boxes of the bitmaps; an empty mask gives (0, 0, 0, 0)."""
        tight = self.windows.tensor.new_zeros((len(self), 4))
        for row, (x, y, part) in zip(tight, self._parts()):
            if part.any():
                row.copy_(BitMasks(part[None]).boxes()[0] + row.new_tensor([x, y, x, y]))
        return Boxes(tight)

    def areas(self) -> Tensor:
        """``(N,)`` float32 numbers of pixels of the bitmaps."""
        areas = [part.sum().float() for _, _, part in self._parts()]
        return torch.stack(areas) if areas else self.windows.tensor.new_zeros(0)

    def rle(self) -> list[dict[str, Any]]:
        """COCO compressed RLE of the bitmaps, counts as str."""
        out = []
        for x, y, part in self._parts():
            whole = np.zeros(self.image_size, np.uint8, order="F")
            whole[y : y + part.shape[0], x : x + part.shape[1]] = part.cpu().numpy()
            out.append({"size": list(self.image_size), "counts": coco_mask.encode(whole)["counts"].decode("ascii")})
        return out

    def transform(self, transform: Transform) -> "MiniMasks":
        """The masks where the transform takes them; what it cuts or turns is made small again, in its new box."""
        masks = self
        for step in transform.steps:
            masks = masks._after(step)
        return masks

    def nonempty(self) -> Tensor:
        """``(N,)`` bool: some cell is the object's."""
        return self.tensor.flatten(1).any(1) & self.windows.nonempty()

    def _after(self, step: Transform) -> "MiniMasks":
        present, moved = self.windows.nonempty(), self.windows.outlines(step)
        windows = torch.where(present[:, None], moved.tensor, 0.0)
        if not step.keeps_boxes or step.matrix is None or step.matrix[0, 0] == 0:
            again = torch.ones(len(self), dtype=torch.bool)
            tensor = self.tensor.clone()
        else:
            mirrored = [axis for axis, sign in ((2, step.matrix[0, 0]), (1, step.matrix[1, 1])) if sign < 0]
            tensor = self.tensor.flip(mirrored) if mirrored else self.tensor.clone()
            again = self._cut_by(step)
        for i in torch.nonzero(again).flatten().tolist():
            cut = MiniMasks.of(self[i : i + 1].bitmaps().transform(step), self.size)
            tensor[i], windows[i] = cut.tensor[0], cut.windows.tensor[0] if present[i] else 0.0
        return MiniMasks(tensor, Boxes(windows), step.output_size)

    def _cut_by(self, step: Transform) -> Tensor:
        """``(N,)`` bool: which masks a crop cuts through, or has cut away."""
        if not isinstance(step, CropAndPad):
            return torch.zeros(len(self), dtype=torch.bool)
        x1, y1, x2, y2 = self.windows.tensor.round().unbind(1)
        left, top, right, bottom = step.visible
        return (x1 < left) | (y1 < top) | (x2 > right) | (y2 > bottom)

    def crop_and_resize(self, boxes: Boxes, size: int, method: CropMethod = "roi_align", binary: bool = True) -> Tensor:
        """``(N, size, size)`` on the boxes' device: mask i inside box i, resampled in the mini-mask's own cells.

        Box i is first expressed in the coordinates of the mini-mask's box, as matterport does; beyond that box there
        is no object.

        Args:
            boxes: one a mask, in pixels of the image.
            size: side of the result.
            method: the operator, see ``CropMethod``.
            binary: bool, see ``BitMasks.crop_and_resize``; else float32, 0..1.

        Raises:
            ValueError: there are not as many boxes as masks.
        """
        check_pairs(len(self), len(boxes))
        windows = self.windows.tensor
        corner, sides = windows[:, :2].repeat(1, 2), (windows[:, 2:] - windows[:, :2]).clamp(min=1e-3).repeat(1, 2)
        cells = (boxes.tensor.to(windows.device) - corner) / sides * self.size
        if method == "crop_and_resize":
            inside = crop_maps(self.tensor, cells, size, method)
        else:  # RoIAlign repeats the map's rim; a rim of zeros ends the object where its box ends
            samples = max(1, -(-self.size // size))  # not by the box's size: a huge box would take forever
            inside = crop_maps(F.pad(self.tensor, (1, 1, 1, 1)), cells + 1, size, method, samples)
        return (to_bits(inside, method) if binary else inside).to(boxes.device)

    @staticmethod
    def cat(parts: "Sequence[MiniMasks]") -> "MiniMasks":
        """All masks of ``parts``, in order. Raises ValueError if they differ in a size or there are none."""
        sizes = {(part.image_size, part.size) for part in parts}
        if len(sizes) != 1:
            raise ValueError(f"MiniMasks.cat: expected masks of one image size and S, got {sorted(sizes) or 'nothing'}")
        windows = Boxes.cat([part.windows for part in parts])
        return MiniMasks(torch.cat([part.tensor for part in parts]), windows, parts[0].image_size)

    def _parts(self) -> "list[tuple[int, int, Tensor]]":
        """Of each mask x, y and the bitmap of its box, as far as that lies in the image."""
        height, width = self.image_size
        parts = []
        for mini, (x1, y1, x2, y2) in zip(self.tensor, self.windows.round().int().tolist()):
            whole = _resized(mini, (max(0, y2 - y1), max(0, x2 - x1)))
            left, top = min(max(x1, 0), width), min(max(y1, 0), height)
            parts.append((left, top, whole[max(0, -y1) : max(0, height - y1), max(0, -x1) : max(0, width - x1)]))
        return parts


def _resized(bitmap: Tensor, size: tuple[int, int]) -> Tensor:
    """An ``(H, W)`` bool bitmap at another size, bilinearly with a filter that widens where it shrinks."""
    if 0 in bitmap.shape or 0 in size:
        return bitmap.new_zeros(size)
    values = F.interpolate(bitmap[None, None].float(), size, mode="bilinear", align_corners=False, antialias=True)
    return values[0, 0] >= 0.5 - 1e-6  # the weights are sums: a half may come out a little less
