"""The datasets that come with the package."""

from detkit.data.datasets.coco import CocoInstances
from detkit.data.datasets.concat import ConcatDataset
from detkit.data.datasets.shapes import Shapes

__all__ = ["CocoInstances", "ConcatDataset", "Shapes"]
