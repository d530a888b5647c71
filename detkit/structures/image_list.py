"""ImageList: images of different sizes as one padded batch."""

import dataclasses

from torch import Tensor

from detkit.structures.image_info import ImageInfo
from detkit.structures.transforms import Region


@dataclasses.dataclass(frozen=True)
class ImageList:
    """A padded batch.

    Args:
        tensor: ``(N, C, H, W)`` float, normalised, padded on the right and at the bottom.
        image_sizes: ``(height, width)`` of each image without its padding.
        infos: what else is known of each image; None: nothing.
    """

    tensor: Tensor
    image_sizes: list[tuple[int, int]]
    infos: list[ImageInfo] | None = None

    @property
    def padded_size(self) -> tuple[int, int]:
        """``(H, W)`` of the batch, padding included."""
        return self.tensor.shape[-2], self.tensor.shape[-1]

    def info(self, index: int) -> ImageInfo:
        """What else is known of an image."""
        return ImageInfo() if self.infos is None else self.infos[index]

    def valid_region(self, index: int) -> Region:
        """``(x1, y1, x2, y2)``: the part of an image that is no padding; the whole image where none is known."""
        return self.info(index).valid_region_in(self.image_sizes[index])

    def __len__(self) -> int:
        return len(self.image_sizes)
