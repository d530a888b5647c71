"""The augmentations that come with the package."""

from detkit.data.augmentations.crop import FixedSizeCrop, RandomCrop
from detkit.data.augmentations.flip import RandomFlip
from detkit.data.augmentations.one_of import OneOf
from detkit.data.augmentations.photometric import ColorJitter
from detkit.data.augmentations.resize import Resize, ResizeScale, ResizeShortestEdge
from detkit.data.augmentations.resize_and_pad import ResizeAndPad
from detkit.data.augmentations.several_images import CopyPaste, MixUp, Mosaic
from detkit.data.augmentations.torchvision_v2 import TorchvisionV2

__all__ = [
    "ColorJitter",
    "CopyPaste",
    "FixedSizeCrop",
    "MixUp",
    "Mosaic",
    "OneOf",
    "RandomCrop",
    "RandomFlip",
    "Resize",
    "ResizeAndPad",
    "ResizeScale",
    "ResizeShortestEdge",
    "TorchvisionV2",
]
