"""The datasets that come with the package."""

from detkit.data.datasets.coco import CocoInstances

__all__ = ["CocoInstances"]
