"""The augmentations that come with the package."""

from detkit.data.augmentations.crop import FixedSizeCrop, RandomCrop
from detkit.data.augmentations.flip import RandomFlip
from detkit.data.augmentations.photometric import ColorJitter
from detkit.data.augmentations.resize import Resize, ResizeScale, ResizeShortestEdge
from detkit.data.augmentations.resize_and_pad import ResizeAndPad

__all__ = [
    "ColorJitter",
    "FixedSizeCrop",
    "RandomCrop",
    "RandomFlip",
    "Resize",
    "ResizeAndPad",
    "ResizeScale",
    "ResizeShortestEdge",
]
