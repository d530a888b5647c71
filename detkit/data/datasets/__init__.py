"""The datasets that come with the package, and what one of one's own is made of."""

from detkit.data.datasets.coco import CocoInstances
from detkit.data.datasets.coco_results import CocoIds, CocoResults
from detkit.data.datasets.concat import ConcatDataset
from detkit.data.datasets.shapes import Shapes
from detkit.data.datasets.table import AnnotationTable
from detkit.data.datasets.table_dataset import TableDataset
from detkit.data.datasets.tiled_dataset import TiledDataset

__all__ = [
    "AnnotationTable",
    "CocoIds",
    "CocoInstances",
    "CocoResults",
    "ConcatDataset",
    "Shapes",
    "TableDataset",
    "TiledDataset",
]
