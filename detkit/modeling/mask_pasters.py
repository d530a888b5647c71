"""Mask pasters: box-sized mask probabilities to masks of the image's size, as different detectors have done it.

Only the pixels inside boxes are computed and kept, so the cost follows the boxes' areas. N masks, each M x M.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from detkit.layers import paste_in_regions
from detkit.modeling.interfaces import MASK_PASTERS, MaskPaster
from detkit.structures import Boxes, CroppedMasks


@MASK_PASTERS.register()
class GridSampleMaskPaster(MaskPaster):
    """Looks each pixel's centre up in the mask, in the box as it is, between the pixels (Detectron2's way)."""

    def __call__(self, probs: Tensor, boxes: Boxes, image_size: tuple[int, int], threshold: float) -> CroppedMasks:
        """See ``MaskPaster.__call__``."""
        return CroppedMasks.of(*paste_in_regions(probs, boxes, image_size, threshold), image_size, probs.device)


@MASK_PASTERS.register()
class ExpandedBoxMaskPaster(MaskPaster):
    """Resizes the mask with a rim of zeros to the box grown by that rim and cut to whole pixels (torchvision's way).

    Equal to torchvision's ``paste_masks_in_image`` bit by bit, at ``>= threshold``. Where torchvision's user takes
    ``> 0.5``, the masks differ in pixels of exactly 0.5.
    """

    def __call__(self, probs: Tensor, boxes: Boxes, image_size: tuple[int, int], threshold: float) -> CroppedMasks:
        """See ``MaskPaster.__call__``."""
        growth = (probs.shape[-1] + 2) / probs.shape[-1]
        corners = torch.as_tensor(boxes)
        half = (corners[:, 2:] - corners[:, :2]) * 0.5 * growth
        centre = (corners[:, 2:] + corners[:, :2]) * 0.5
        places = torch.cat([centre - half, centre + half], dim=1).long().tolist()  # towards zero, as torchvision cuts
        pasted = _InsideImage(image_size, probs.device)
        for mask, (x1, y1, x2, y2) in zip(F.pad(probs, (1, 1, 1, 1)), places):
            size = (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1))  # both end pixels belong to the box
            if pasted.outside(x1, y1, x2 + 1, y2 + 1):
                continue
            value = F.interpolate(mask[None, None], size, mode="bilinear", align_corners=False)[0, 0]
            pasted.add(value >= threshold, x1, y1)
        return pasted.masks()


@MASK_PASTERS.register()
class ResizeMaskPaster(MaskPaster):
    """Resizes the mask as an 8-bit image to the box cut to whole pixels (matterport's Mask R-CNN's way).

    The resize is PIL's bilinear one, which averages where it shrinks.

    Args:
        stretch: whether a mask's lowest and highest probability become 0 and 255 first, so that the threshold lies
            between the two, wherever they are. SciPy's ``imresize`` did that in the PyTorch edition of matterport's
            network, and only so do its masks come out the same; where a mask goes from near 0 to near 1 it makes no
            difference. A mask of one value is not stretched. False takes probabilities for what they are.
    """

    def __init__(self, *, stretch: bool = True):
        super().__init__()
        self.stretch = stretch

    def __call__(self, probs: Tensor, boxes: Boxes, image_size: tuple[int, int], threshold: float) -> CroppedMasks:
        """See ``MaskPaster.__call__``."""
        pasted = _InsideImage(image_size, torch.device("cpu"))
        masks = probs.detach().float().cpu().numpy()
        for mask, (x1, y1, x2, y2) in zip(masks, torch.as_tensor(boxes).long().tolist()):
            if pasted.outside(x1, y1, x2, y2):
                continue
            resized = Image.fromarray(self._bytes(mask)).resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR)
            pasted.add(torch.from_numpy(np.asarray(resized) >= threshold * 255), x1, y1)
        return pasted.masks().to(probs.device)

    def _bytes(self, mask: np.ndarray) -> np.ndarray:
        low, high = (mask.min(), mask.max()) if self.stretch else (0, 1)
        if low == high:
            low, high = 0, 1
        return ((mask - low) * (255 / (high - low)) + 0.5).clip(0, 255).astype(np.uint8)


class _InsideImage:
    """Collects the parts of masks that are inside the image."""

    def __init__(self, image_size: tuple[int, int], device: torch.device):
        self.image_size, self.device = image_size, device
        self._nothing = torch.zeros((0, 0), dtype=torch.bool, device=device)
        self._bitmaps: list[Tensor] = []
        self._regions: list[tuple[int, int, int, int]] = []

    def outside(self, x1: int, y1: int, x2: int, y2: int) -> bool:
        """Whether no pixel of the image lies in that box; its mask is then empty."""
        height, width = self.image_size
        if min(x2, width) > max(x1, 0) and min(y2, height) > max(y1, 0):
            return False
        self._bitmaps.append(self._nothing)
        self._regions.append((0, 0, 0, 0))
        return True

    def add(self, mask: Tensor, left: int, top: int) -> None:
        """Adds a mask whose corner is at (left, top), cut to the image."""
        x, y = max(left, 0), max(top, 0)
        inside = mask[y - top : self.image_size[0] - top, x - left : self.image_size[1] - left]
        self._bitmaps.append(inside)
        self._regions.append((x, y, x + inside.shape[1], y + inside.shape[0]))

    def masks(self) -> CroppedMasks:
        """The collected masks."""
        return CroppedMasks.of(self._bitmaps, self._regions, self.image_size, self.device)
