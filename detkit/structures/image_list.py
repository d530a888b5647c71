"""ImageList: images of different sizes as one padded batch."""

import dataclasses

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class ImageList:
    """A padded batch.

    Args:
        tensor: ``(N, C, H, W)`` float, normalised, padded on the right and at the bottom.
        image_sizes: ``(height, width)`` of each image without its padding.
    """

    tensor: Tensor
    image_sizes: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.image_sizes)
