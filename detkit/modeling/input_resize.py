"""Resizing inside the model."""

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from detkit.modeling.interfaces import INPUT_RESIZES, InputResize
from detkit.structures import BitMasks, Instances, Resize


@INPUT_RESIZES.register()
class BilinearInputResize(InputResize):
    """Bilinear resizing of the normalised image, without antialiasing, as torchvision's detectors do it.

    The shorter side gets a wanted length unless the longer one would exceed its limit; both are rounded down. Masks are
    resized to the pixel above and left of each new pixel.

    Args:
        short_edge: lengths of the shorter side in pixels; training draws one for each image, prediction takes the last.
        max_size: the longer side's limit in pixels.

    Raises:
        ValueError: no length, or one below 1.
    """

    def __init__(self, *, short_edge: tuple[int, ...] = (800,), max_size: int = 1333):
        super().__init__()
        if not short_edge or min(*short_edge, max_size) < 1:
            raise ValueError(f"resize: expected lengths above 0, got short_edge {short_edge}, max_size {max_size}")
        self.short_edge, self.max_size = short_edge, max_size

    def forward(self, image: Tensor, target: Instances, *, training: bool) -> tuple[Tensor, Instances]:
        """See ``InputResize.forward``."""
        wanted = self.short_edge[int(torch.randint(len(self.short_edge), ()))] if training else self.short_edge[-1]
        height, width = image.shape[-2:]
        scale = min(wanted / min(height, width), self.max_size / max(height, width))
        size = (math.floor(height * scale), math.floor(width * scale))
        resized = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
        return resized, _resize_target(target, size)


def _resize_target(target: Instances, size: tuple[int, int]) -> Instances:
    height, width = target.image_size
    scale_y, scale_x = size[0] / height, size[1] / width
    info = target.info
    if info.valid_region is not None:
        x1, y1, x2, y2 = info.valid_region
        region = (round(x1 * scale_x), round(y1 * scale_y), round(x2 * scale_x), round(y2 * scale_y))
        info = dataclasses.replace(info, valid_region=region)
    if info.crowds is not None:
        info = dataclasses.replace(info, crowds=info.crowds.scale(scale_y, scale_x))
    fields = dict(target.fields)
    if "boxes" in fields:
        fields["boxes"] = fields["boxes"].scale(scale_y, scale_x)
    masks = fields.get("masks")
    if isinstance(masks, BitMasks):
        fields["masks"] = BitMasks(F.interpolate(masks.tensor[:, None].float(), size=size)[:, 0] > 0.5)
    elif masks is not None:
        fields["masks"] = masks.transform(Resize(masks.image_size, size))
    return Instances(size, info=info, **fields)
