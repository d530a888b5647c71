"""Semantic maps on the way to the model and back."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from detkit.structures import ImageList, Sample

IGNORED = -1
"""The class of a pixel that nobody knows, in targets."""


def batched_maps(samples: Sequence[Sample], images: ImageList, num_classes: int) -> Tensor:
    """The samples' maps named ``semantic`` as targets: ``(N, H, W)`` int64 in the pixels of the padded batch.

    What is none of the K classes (255, -1) and what is padded is ``IGNORED``. Nothing waits for the device.

    Raises:
        ValueError: a sample without such a map.
    """
    height, width = images.padded_size
    targets = []
    for sample, size in zip(samples, images.image_sizes, strict=True):
        values = sample.maps.get("semantic")
        if values is None:
            raise ValueError(
                f"image {sample.image_id!r} {sample.file_name} has no semantic map to learn from; take a dataset that "
                "has them, such as CocoPanoptic or CocoPanopticFolder"
            )
        values = values.to(images.tensor.device, non_blocking=True).long()
        if tuple(values.shape) != size:  # the model has resized the image
            values = F.interpolate(values[None, None].double(), size, mode="nearest-exact")[0, 0].long()
        values = values.where((values >= 0) & (values < num_classes), IGNORED)
        targets.append(F.pad(values, (0, width - size[1], 0, height - size[0]), value=IGNORED))
    return torch.stack(targets)


def original_logits(logits: Tensor, images: ImageList, samples: Sequence[Sample]) -> Iterator[Tensor]:
    """``(K, height, width)`` logits of each image in its original pixels, one image at a time.

    They are interpolated to the padded batch, then from the image's valid region to its original size.

    Args:
        logits: ``(N, K, H/s, W/s)`` of a semantic head.
        images: the batch that they are of.
        samples: of the same images.
    """
    # Where the stride does not divide a side, the map has a cell too many: the longer the side, the less that counts.
    scale = max(-(-pixels // cells) for pixels, cells in zip(images.padded_size, logits.shape[-2:]))
    for number, sample in enumerate(samples):
        whole = F.interpolate(logits[number : number + 1], scale_factor=scale, mode="bilinear", align_corners=False)
        x1, y1, x2, y2 = images.valid_region(number)
        valid = whole[..., y1:y2, x1:x2]
        yield F.interpolate(valid, sample.original_size, mode="bilinear", align_corners=False)[0]
