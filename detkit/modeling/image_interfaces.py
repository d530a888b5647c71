"""The roles that work on images and masks, before and after the network. Import them from ``interfaces.py``."""

from torch import Tensor, nn

from detkit.registry import Registry
from detkit.structures import Boxes, Instances, Masks


class InputResize(nn.Module):
    """Resizes a normalised image on the device, with its target; augmentations of the data resize 8-bit images."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, image: Tensor, target: Instances, *, training: bool) -> tuple[Tensor, Instances]:
        """``(C, H, W)`` float and its target in those pixels (without fields at prediction) -> both at the new size."""
        raise NotImplementedError


class MaskPaster:
    """Box-sized mask probabilities to masks of the image's size."""

    def __call__(self, probs: Tensor, boxes: Boxes, image_size: tuple[int, int], threshold: float) -> Masks:
        """N masks of an image of ``(height, width)``: each of ``probs`` (N, M, M), 0..1, is enlarged to its box, in
        pixels of the image, and the object has the pixels of at least ``threshold``. ``CroppedMasks`` are cheapest."""
        raise NotImplementedError


INPUT_RESIZES: Registry[InputResize] = Registry("input resize", InputResize)
MASK_PASTERS: Registry[MaskPaster] = Registry("mask paster", MaskPaster)
