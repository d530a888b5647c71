"""BitMasks: masks as an (N, H, W) bool tensor."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
import torch
from torch import Tensor

from detkit.structures.boxes import Boxes, RowTensor
from detkit.structures.mask_crops import CropMethod, check_pairs, crop_maps, to_bits
from detkit.structures.transforms import Transform

CHUNK_PIXELS = 2**25
"""Pixels that are held as float32 at a time (128 MiB)."""


class BitMasks(RowTensor):
    """``(N, H, W)`` bool masks of one image; implements ``Masks``.

    Args:
        data: N masks of one size; what is not zero is the object.

    Raises:
        ValueError: the data is not of shape (N, H, W).
    """

    def __new__(cls, data: "Tensor | np.ndarray | Sequence[Any]") -> "BitMasks":
        tensor = torch.as_tensor(data)
        if tensor.ndim != 3:
            raise ValueError(f"masks: expected shape (N, H, W), got {tuple(tensor.shape)}")
        return (tensor if tensor.dtype == torch.bool else tensor != 0).as_subclass(cls)

    @property
    def image_size(self) -> tuple[int, int]:
        """``(height, width)``."""
        return self.shape[1], self.shape[2]

    def bitmaps(self) -> "BitMasks":
        """Itself."""
        return self

    def boxes(self) -> Boxes:
        """Tight boxes on the masks' device; an empty mask gives (0, 0, 0, 0)."""
        rows, columns = self.tensor.any(2).to(torch.uint8), self.tensor.any(1).to(torch.uint8)
        present = columns.any(1)
        height, width = self.image_size
        if len(self) == 0 or height * width == 0:
            return Boxes(self.tensor.new_zeros((len(self), 4), dtype=torch.float32))
        x1, y1 = columns.argmax(1), rows.argmax(1)
        x2, y2 = width - columns.flip(1).argmax(1), height - rows.flip(1).argmax(1)
        return Boxes(torch.stack([x1, y1, x2, y2], 1) * present[:, None])

    def areas(self) -> Tensor:
        """``(N,)`` float32 numbers of pixels."""
        counts = [mask.count_nonzero() for mask in self.tensor]  # a sum of all would copy them as int64
        return torch.stack(counts).float() if counts else self.tensor.new_zeros(0, dtype=torch.float32)

    def rle(self) -> list[dict[str, Any]]:
        """COCO compressed RLE, counts as str."""
        encoded = [coco_mask.encode(np.asfortranarray(m)) for m in self.tensor.cpu().numpy().view(np.uint8)]
        return [{"size": [int(n) for n in r["size"]], "counts": r["counts"].decode("ascii")} for r in encoded]

    def transform(self, transform: Transform) -> "BitMasks":
        """The masks where the transform takes them: of each new pixel's centre the nearest pixel."""
        return BitMasks(transform.label_map(self.tensor))

    def covered(self, hidden: Tensor) -> "BitMasks":
        """What is visible of the masks behind something that hides ``(H, W)`` pixels."""
        return BitMasks(self.tensor & ~hidden)

    def nonempty(self) -> Tensor:
        """``(N,)`` bool: some pixel is the object's."""
        return self.tensor.flatten(1).any(1)

    def crop_and_resize(self, boxes: Boxes, size: int, method: CropMethod = "roi_align", binary: bool = True) -> Tensor:
        """``(N, size, size)`` on the boxes' device: mask i inside box i, resampled.

        Args:
            boxes: one a mask, in pixels of the image.
            size: side of the result.
            method: the operator, see ``CropMethod``.
            binary: bool, from one half on (``crop_and_resize`` rounds one half down); else float32, 0..1.

        Raises:
            ValueError: there are not as many boxes as masks.
        """
        check_pairs(len(self), len(boxes))
        height, width = self.image_size
        step = max(1, CHUNK_PIXELS // max(1, height * width))
        regions = boxes.tensor.to(self.device)
        parts = [
            crop_maps(self.tensor[start : start + step], regions[start : start + step], size, method)
            for start in range(0, len(self), step)
        ]
        inside = torch.cat(parts) if parts else regions.new_zeros((0, size, size))
        return (to_bits(inside, method) if binary else inside).to(boxes.device)

    @staticmethod
    def cat(parts: "Sequence[BitMasks]") -> "BitMasks":
        """All masks of ``parts``, in order. Raises ValueError if they differ in size or there are none."""
        sizes = {part.image_size for part in parts}
        if len(sizes) != 1:
            raise ValueError(f"BitMasks.cat: expected masks of one image size, got {sorted(sizes) or 'nothing'}")
        return BitMasks(torch.cat([part.tensor for part in parts]))
