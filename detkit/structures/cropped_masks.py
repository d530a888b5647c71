"""CroppedMasks: bitmaps of which only the part inside a region around each object is kept."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.structures.bit_masks import CHUNK_PIXELS, BitMasks
from detkit.structures.boxes import Boxes, as_int
from detkit.structures.mask_crops import CropMethod, check_pairs, crop_maps, to_bits
from detkit.structures.masks import Masks
from detkit.structures.rle import region_of_rle, rle_of_region
from detkit.structures.transforms import Region, Transform
from detkit.structures.upright import CropAndPad


class CroppedMasks:
    """N objects of one image, each a bitmap that fills a region of its own; implements ``Masks``.

    Without ``size`` a bitmap has a value for each pixel of its region, as pasted predictions have (``of``). With
    ``size`` S every bitmap has S x S cells, whatever its region: the mini-masks of matterport's Mask R-CNN (``mini``).
    A thousand objects then take the memory of a few whole bitmaps, and what is finer than a cell is lost.

    Rows, areas, tight boxes and RLE cost what the regions' area costs, whatever the image's is. ``bitmaps`` lays
    whole masks out, as indexing by an int does, ``(H, W)``; rows by a slice, an index tensor or array, or a bool mask
    are ``CroppedMasks``. It is not edited.

    Args:
        bits: bool, the bitmaps of all regions one after the other, each column by column.
        regions: ``(N, 4)`` x1, y1, x2, y2: without ``size`` whole pixels within the image, int64 on the CPU; with it
            boxes in pixels of the image, (0, 0, 0, 0) for an empty mask.
        image_size: ``(height, width)``.
        size: S.

    Raises:
        ValueError: the bits do not fill the regions.
    """

    def __init__(self, bits: Tensor, regions: Tensor, image_size: tuple[int, int], size: int | None = None):
        self.bits, self.regions, self.size = bits if bits.dtype == torch.bool else bits != 0, regions, size
        self.image_size = (int(image_size[0]), int(image_size[1]))
        pixels = len(regions) * size**2 if size is not None else int(self._sides().prod(1).sum())
        if len(bits) != pixels:
            raise ValueError(f"CroppedMasks: {len(bits)} bits do not fill regions of {pixels} pixels")

    @staticmethod
    def of(
        bitmaps: Sequence[Tensor], regions: Sequence[Region], image_size: tuple[int, int], device: torch.device
    ) -> "CroppedMasks":
        """From N bitmaps ``(h, w)`` bool and the regions ``(x1, y1, x2, y2)`` that they fill, on ``device``."""
        bits = torch.empty(sum(bitmap.numel() for bitmap in bitmaps), dtype=torch.bool, device=device)
        for place, bitmap in zip(bits.split([bitmap.numel() for bitmap in bitmaps]), bitmaps):
            place.view(bitmap.shape[::-1]).copy_(bitmap.t())
        return CroppedMasks(bits, torch.tensor(regions, dtype=torch.int64).reshape(-1, 4), image_size)

    @staticmethod
    def of_rle(counts: Iterable[bytes], image_size: tuple[int, int]) -> "CroppedMasks":
        """From compressed RLE strings; each is decoded inside its tight box."""
        found = [region_of_rle(text, image_size[0]) for text in counts]
        bitmaps = [torch.from_numpy(bitmap) for bitmap, _ in found]
        return CroppedMasks.of(bitmaps, [region for _, region in found], image_size, torch.device("cpu"))

    @staticmethod
    def around(masks: Masks) -> "CroppedMasks":
        """Other masks, each in a region around it, with a bit for each pixel of that. Whole bitmaps are not made."""
        if isinstance(masks, CroppedMasks):
            return masks._at_full_size()
        if not isinstance(masks, BitMasks):
            return CroppedMasks.of_rle((rle["counts"].encode() for rle in masks.rle()), masks.image_size)
        regions = masks.boxes().tensor.int().tolist()
        bitmaps = [bitmap[y1:y2, x1:x2] for bitmap, (x1, y1, x2, y2) in zip(masks.tensor, regions)]
        return CroppedMasks.of(bitmaps, regions, masks.image_size, masks.device)

    @staticmethod
    def mini(masks: Masks, size: int = 56) -> "CroppedMasks":
        """Other masks, each cut to its tight box of whole pixels and resized to ``size`` by ``size``.

        The filter is bilinear and widens where it shrinks; a cell belongs to the object from one half on. Raises
        ValueError for a size below 1.
        """
        if size < 1:
            raise ValueError(f"CroppedMasks.mini: expected a size of at least 1, got {size}")
        whole = CroppedMasks.around(masks)
        regions, rows = whole.boxes().tensor, [whole.bits[:0]]
        for bitmap, (x, y, _, _), tight in zip(whole.crops(), whole.regions.tolist(), regions.int().tolist()):
            x1, y1, x2, y2 = tight
            inside = bitmap[y1 - y : y2 - y, x1 - x : x2 - x] if x2 > x1 else bitmap[:0]
            rows.append(_resized(inside, (size, size)).t().reshape(-1))
        return CroppedMasks(torch.cat(rows), regions, masks.image_size, size)

    @property
    def shape(self) -> torch.Size:
        """``(N, H, W)``, of the whole bitmaps."""
        return torch.Size((len(self), *self.image_size))

    @property
    def cells(self) -> Tensor:
        """``(N, S, S)`` bool, of masks with a ``size``."""
        assert self.size is not None
        return self.bits.view(len(self), self.size, self.size).transpose(1, 2)

    def __len__(self) -> int:
        return len(self.regions)

    def __repr__(self) -> str:
        return f"CroppedMasks(num={len(self)}, size={self.size}, image_size={self.image_size})"

    def _with(self, bits: Tensor, regions: Tensor) -> "CroppedMasks":
        return CroppedMasks(bits, regions, self.image_size, self.size)

    def _sides(self) -> Tensor:
        """``(N, 2)`` width and height of the bitmaps, as they are kept."""
        if self.size is None:
            return self.regions[:, 2:] - self.regions[:, :2]
        return torch.full((len(self), 2), self.size)

    def crops(self) -> list[Tensor]:
        """The N bitmaps ``(h, w)`` of the regions, as they are kept."""
        sides = self._sides().tolist()
        return [part.view(w, h).t() for part, (w, h) in zip(self.bits.split([w * h for w, h in sides]), sides)]

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item := as_int(item), int):
            return self[item : item + 1 or None].tensor[0]
        if self.size is not None:
            item = torch.from_numpy(item) if isinstance(item, np.ndarray) else item
            return self._with(self.bits.view(len(self), self.size**2)[item].flatten(), self.regions[item])
        rows = torch.arange(len(self))[item.cpu() if isinstance(item, Tensor) else item]
        pieces = self.bits.split(self._sides().prod(1).tolist())
        return self._with(torch.cat([self.bits[:0], *(pieces[row] for row in rows.tolist())]), self.regions[rows])

    def to(self, *args: Any, **kwargs: Any) -> "CroppedMasks":
        """As ``Tensor.to``; masks stay bool."""
        regions = self.regions if self.size is None else self.regions.to(*args, **kwargs)
        return self._with(self.bits.to(*args, **kwargs), regions)

    def pin_memory(self) -> "CroppedMasks":
        """The same in page-locked memory."""
        return self._with(self.bits.pin_memory(), self.regions if self.size is None else self.regions.pin_memory())

    @property
    def tensor(self) -> Tensor:
        """``(N, H, W)`` bool: whole bitmaps, laid out each time. Masks of a ``size`` are resized into their regions."""
        pasted = self._at_full_size()
        out = torch.zeros(self.shape, dtype=torch.bool, device=self.bits.device)
        for whole, bitmap, (x1, y1, x2, y2) in zip(out, pasted.crops(), pasted.regions.tolist()):
            whole[y1:y2, x1:x2] = bitmap
        return out

    def bitmaps(self) -> BitMasks:
        """As bitmaps."""
        return BitMasks(self.tensor)

    def numpy(self) -> np.ndarray:
        """The whole bitmaps as an array ``(N, H, W)``."""
        return self.tensor.numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def boxes(self) -> Boxes:
        """Tight boxes on the masks' device; an empty mask gives (0, 0, 0, 0)."""
        pasted, boxes = self._at_full_size(), [Boxes([]).to(self.bits.device)]
        for bitmap, (x, y, _, _) in zip(pasted.crops(), pasted.regions.tolist()):
            tight = BitMasks(bitmap[None]).boxes().tensor
            boxes.append(Boxes(tight + tight.new_tensor([x, y, x, y]) * bitmap.any()))
        return Boxes.cat(boxes)

    def areas(self) -> Tensor:
        """``(N,)`` float32 numbers of pixels."""
        areas = [bitmap.count_nonzero().float() for bitmap in self._at_full_size().crops()]
        return torch.stack(areas) if areas else self.bits.new_zeros(0, dtype=torch.float32)

    def union(self) -> Tensor:
        """``(H, W)`` bool: the pixels of any object."""
        pasted = self._at_full_size()
        out = torch.zeros(self.image_size, dtype=torch.bool, device=self.bits.device)
        for bitmap, (x1, y1, x2, y2) in zip(pasted.crops(), pasted.regions.tolist()):
            out[y1:y2, x1:x2] |= bitmap
        return out

    def covered(self, hidden: Tensor) -> "CroppedMasks":
        """See ``BitMasks.covered``."""
        pasted = self._at_full_size()
        places = pasted.regions.tolist()
        seen = [bitmap & ~hidden[y1:y2, x1:x2] for bitmap, (x1, y1, x2, y2) in zip(pasted.crops(), places)]
        return CroppedMasks.of(seen, places, self.image_size, self.bits.device)

    def nonempty(self) -> Tensor:
        """``(N,)`` bool: some pixel is the object's."""
        if self.size is None:
            return self.areas() > 0
        return self.cells.flatten(1).any(1) & Boxes(self.regions).nonempty()

    def rle(self) -> list[dict[str, Any]]:
        """COCO compressed RLE, counts as str."""
        pasted = self.to("cpu")._at_full_size()
        places = zip(pasted.crops(), pasted.regions.tolist())
        return [rle_of_region(bitmap.numpy(), x, y, self.image_size) for bitmap, (x, y, _, _) in places]

    def _at_full_size(self) -> "CroppedMasks":
        """The same masks with a bit for each pixel of their regions, as far as those lie in the image."""
        if self.size is None:
            return self
        height, width = self.image_size
        bitmaps, regions = [], []
        for cells, (x1, y1, x2, y2) in zip(self.cells, self.regions.round().int().tolist()):
            whole = _resized(cells, (max(0, y2 - y1), max(0, x2 - x1)))
            part = whole[max(0, -y1) : max(0, height - y1), max(0, -x1) : max(0, width - x1)]
            left, top = min(max(x1, 0), width), min(max(y1, 0), height)
            bitmaps.append(part)
            regions.append((left, top, left + part.shape[1], top + part.shape[0]))
        return CroppedMasks.of(bitmaps, regions, self.image_size, self.bits.device)

    def transform(self, transform: Transform) -> "CroppedMasks":
        """The masks where the transform takes them.

        Mini-masks that are only scaled and moved keep their cells; any others are made again, in their new regions.
        """
        matrix = transform.matrix
        if self.size is None:
            return self._cropped(transform) if isinstance(transform, CropAndPad) else self._resampled(transform)
        if matrix is None or not transform.keeps_boxes or matrix[0, 0] <= 0 or matrix[1, 1] <= 0 or transform.cuts:
            return CroppedMasks.mini(self._at_full_size()._resampled(transform), self.size)
        boxes = Boxes(self.regions)
        regions = torch.where(boxes.nonempty()[:, None], boxes.outlines(transform).tensor, 0.0)
        return CroppedMasks(self.bits, regions, transform.output_size, self.size)

    def _cropped(self, crop: CropAndPad) -> "CroppedMasks":
        moved = self.regions - self.regions.new_tensor([crop.x, crop.y, crop.x, crop.y])
        regions = Boxes(moved).clip(crop.output_size).tensor.long()
        places = zip(self.crops(), (regions - moved[:, [0, 1, 0, 1]]).tolist())
        bitmaps = [bitmap[y1:y2, x1:x2] for bitmap, (x1, y1, x2, y2) in places]
        return CroppedMasks.of(bitmaps, regions.tolist(), crop.output_size, self.bits.device)

    def _resampled(self, transform: Transform) -> "CroppedMasks":
        """Of each new pixel's centre the nearest pixel, as ``Transform.label_map`` of whole bitmaps has it."""
        (height, width), size, device = self.image_size, transform.output_size, self.bits.device
        numbers = torch.arange(height * width, dtype=torch.int32, device=device).view(height, width)
        sources = transform.label_map(numbers, -1)
        rows, columns = torch.div(sources, width, rounding_mode="floor"), sources % width
        reach = Boxes(self.regions).outlines(transform).tensor + self.regions.new_tensor([-1, -1, 1, 1])
        bounded = transform.matrix is not None and not transform.matrix[2, :2].any()  # by the region's corners
        if not bounded:
            reach = reach.new_tensor([0, 0, size[1], size[0]]).expand_as(reach)
        reach = Boxes(reach).clip(size).tensor.int()
        bitmaps, regions = [], []
        for bitmap, (left, top, _, _), (x1, y1, x2, y2) in zip(self.crops(), self.regions.tolist(), reach.tolist()):
            y, x = rows[y1:y2, x1:x2] - top, columns[y1:y2, x1:x2] - left
            bitmap = bitmap if bitmap.numel() else bitmap.new_zeros(1, 1)
            nearest = y.clamp(0, bitmap.shape[0] - 1), x.clamp(0, bitmap.shape[1] - 1)
            moved = bitmap[nearest] & (nearest[0] == y) & (nearest[1] == x)
            if not bounded:
                left, top, right, bottom = BitMasks(moved[None]).boxes().tensor.int()[0].tolist()
                moved = moved[top:bottom, left:right]
                x1, y1, x2, y2 = x1 + left, y1 + top, x1 + right, y1 + bottom
            bitmaps.append(moved)
            regions.append((x1, y1, x2, y2))
        return CroppedMasks.of(bitmaps, regions, size, device)

    def crop_and_resize(self, boxes: Boxes, size: int, method: CropMethod = "roi_align", binary: bool = True) -> Tensor:
        """``(N, size, size)`` on the boxes' device: mask i inside box i, resampled, see ``BitMasks.crop_and_resize``.

        Masks with a ``size`` are resampled in their own cells: box i is first expressed in the coordinates of the
        mask's region, as matterport does; beyond that region there is no object.
        """
        check_pairs(len(self), len(boxes))
        if self.size is None:
            step = max(1, CHUNK_PIXELS // max(1, self.image_size[0] * self.image_size[1]))
            chunks = [slice(i, i + step) for i in range(0, max(1, len(self)), step)]
            parts = [self[c].bitmaps().crop_and_resize(Boxes(boxes[c]), size, method, binary) for c in chunks]
            return torch.cat(parts)
        corner = self.regions[:, :2].repeat(1, 2)
        sides = (self.regions[:, 2:] - self.regions[:, :2]).clamp(min=1e-3).repeat(1, 2)
        places = (boxes.tensor.to(self.regions.device) - corner) / sides * self.size
        if method == "crop_and_resize":
            inside = crop_maps(self.cells, places, size, method)
        else:  # RoIAlign repeats the map's rim; a rim of zeros ends the object where its region ends
            samples = max(1, -(-self.size // size))  # not by the box's size: a huge box would take forever
            inside = crop_maps(F.pad(self.cells, (1, 1, 1, 1)), places + 1, size, method, samples)
        return (to_bits(inside, method) if binary else inside).to(boxes.device)

    @staticmethod
    def cat(parts: "Sequence[CroppedMasks]") -> "CroppedMasks":
        """All masks of ``parts``, in order. Raises ValueError if they differ in a size or there are none."""
        sizes = {(part.image_size, part.size) for part in parts}
        if len(sizes) != 1:
            raise ValueError(f"CroppedMasks.cat: expected masks of one image size and S, got {sizes or 'nothing'}")
        return parts[0]._with(torch.cat([part.bits for part in parts]), torch.cat([part.regions for part in parts]))


def _resized(bitmap: Tensor, size: tuple[int, int]) -> Tensor:
    """An ``(H, W)`` bool bitmap at another size, bilinearly with a filter that widens where it shrinks."""
    if 0 in bitmap.shape or 0 in size:
        return bitmap.new_zeros(size)
    values = F.interpolate(bitmap[None, None].float(), size, mode="bilinear", align_corners=False, antialias=True)
    return values[0, 0] >= 0.5 - 1e-6  # the weights are sums: a half may come out a little less
