"""Resizing inside the model."""

import math
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from detkit.config import Count, Length
from detkit.modeling.interfaces import INPUT_RESIZES, InputResize
from detkit.structures import Instances, Resize


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

    def __init__(self, *, short_edge: Annotated[tuple[Count, ...], Length(1)] = (800,), max_size: Count = 1333):
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
        return resized, target.transform(_NearestBefore((height, width), size))


class _NearestBefore(Resize):
    """A resize whose maps get, for each new pixel, the pixel at or before its upper left corner, as torch does it."""

    def label_map(self, labels: Any, fill: float = 0) -> Any:
        """See ``Transform.label_map``; of tensors."""
        numbers = (torch.arange(side, dtype=torch.float32, device=labels.device) for side in self.input_size)
        rows, columns = (F.interpolate(n[None, None], new)[0, 0].long() for n, new in zip(numbers, self.output_size))
        return labels.index_select(-2, rows).index_select(-1, columns)
