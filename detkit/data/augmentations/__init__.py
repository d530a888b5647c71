"""The augmentations that come with the package."""

from detkit.data.augmentations.crop import FixedSizeCrop, RandomCrop
from detkit.data.augmentations.flip import RandomFlip
from detkit.data.augmentations.photometric import ColorJitter
from detkit.data.augmentations.resize import Resize, ResizeScale, ResizeShortestEdge

__all__ = ["ColorJitter", "FixedSizeCrop", "RandomCrop", "RandomFlip", "Resize", "ResizeScale", "ResizeShortestEdge"]
