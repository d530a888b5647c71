"""pasting masks into a 1920 x 1080 image and encoding them as RLE"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from benchmarks.options import PasteOptions
from benchmarks.report import Report, Row
from benchmarks.timing import Candidate, measure
from detkit.modeling.interfaces import MaskPaster
from detkit.modeling.mask_pasters import ExpandedBoxMaskPaster, GridSampleMaskPaster, ResizeMaskPaster
from detkit.structures import BitMasks, Boxes, CroppedMasks

SIZE = (1080, 1920)
MASK_SIDE = 28


def boxes_of(kind: str, count: int, rng: np.random.Generator) -> Boxes:
    """Boxes anywhere in the image.

    Their areas are log-normal, as COCO's nearly are: half of them are below 1.2 percent of the image, the mean is 6.
    """
    height, width = SIZE
    share = np.exp(rng.normal(np.log(0.012), 1.9, count)).clip(1e-4, 0.9)
    if kind == "large":
        share = rng.uniform(0.4, 0.95, count)
    aspect = np.exp(rng.normal(0, 0.5, count))
    w = np.sqrt(share * height * width * aspect).clip(4, width)
    h = np.sqrt(share * height * width / aspect).clip(4, height)
    x, y = rng.uniform(0, 1, (2, count)) * np.stack([width - w, height - h])
    return Boxes(torch.from_numpy(np.stack([x, y, x + w, y + h], 1).astype(np.float32)))


def mask_probabilities(count: int) -> Tensor:
    """``(N, 28, 28)``: blobs with smooth, uneven rims."""
    generator = torch.Generator().manual_seed(0)
    place = (torch.arange(MASK_SIDE) + 0.5) / MASK_SIDE - 0.5
    radius = (place[:, None] ** 2 + place[None, :] ** 2).sqrt()
    noise = torch.randn(count, 1, 5, 5, generator=generator)
    uneven = F.interpolate(noise, (MASK_SIDE, MASK_SIDE), mode="bicubic", align_corners=False)[:, 0]
    return torch.sigmoid(12 * (0.42 - radius) + 1.5 * uneven)


def _encoded(paster: MaskPaster, probs: Tensor, boxes: Boxes) -> Callable[[], list[dict[str, Any]]]:
    def run() -> list[dict[str, Any]]:
        """The image's masks as RLE."""
        masks = paster(probs, boxes, SIZE, 0.5)
        assert isinstance(masks, CroppedMasks)
        return masks.rle()

    return run


def run(options: PasteOptions) -> Report:
    """Measures. The baseline is torchvision's paste with pycocotools' encoding; ours must give the same RLE."""
    boxes, probs = boxes_of(options.boxes, options.masks, np.random.default_rng(0)), mask_probabilities(options.masks)

    def theirs() -> list[dict[str, Any]]:
        """As ours, by torchvision and pycocotools."""
        return BitMasks(paste_masks_in_image(probs[:, None], boxes.tensor, SIZE)[:, 0] >= 0.5).rle()

    candidates = [Candidate("torchvision + pycocotools", theirs)]
    for paster in (ExpandedBoxMaskPaster(), GridSampleMaskPaster(), ResizeMaskPaster()):
        candidates.append(Candidate(f"detkit {type(paster).__name__}", _encoded(paster, probs, boxes)))
        bitmaps = paster(probs, boxes, SIZE, 0.5).bitmaps()
        assert candidates[-1].run() == bitmaps.rle(), "pycocotools encodes full-size masks differently"
    assert candidates[1].run() == candidates[0].run(), "the same masks, and the same encoding"
    measured = measure(candidates, rounds=options.rounds, warmup=options.warmup)
    facts = {"megapixels in boxes": float(boxes.area().sum()) / 1e6, "megapixels of the image": SIZE[0] * SIZE[1] / 1e6}
    title = (
        f"pasting and encoding {options.masks} masks, {SIZE[1]} x {SIZE[0]}, {options.boxes} boxes; the RLE are equal"
    )
    return Report(title, [Row.of(m, measured[0]) for m in measured], facts, options.plain())
