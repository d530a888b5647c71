"""What passes between the parts: boxes, masks, instances, image batches, samples and losses."""

from detkit.structures.box_masks import BoxMasks
from detkit.structures.boxes import Boxes
from detkit.structures.class_rows import ClassRows
from detkit.structures.image_info import ImageInfo
from detkit.structures.image_list import ImageList
from detkit.structures.instances import Instances
from detkit.structures.keypoints import Keypoints
from detkit.structures.losses import Losses
from detkit.structures.masks import BitMasks, CropMethod, Masks, PolygonMasks
from detkit.structures.mini_masks import MiniMasks
from detkit.structures.plain import from_plain, to_plain
from detkit.structures.prediction import Panoptic, Prediction, Segment
from detkit.structures.sample import Sample
from detkit.structures.transforms import Compose, CropAndPad, Flip, ProjectiveTransform, Region, Resize, Transform

__all__ = [
    "BitMasks",
    "BoxMasks",
    "Boxes",
    "ClassRows",
    "Compose",
    "CropAndPad",
    "CropMethod",
    "Flip",
    "ImageInfo",
    "ImageList",
    "Instances",
    "Keypoints",
    "Losses",
    "Masks",
    "MiniMasks",
    "Panoptic",
    "PolygonMasks",
    "Prediction",
    "ProjectiveTransform",
    "Region",
    "Resize",
    "Sample",
    "Segment",
    "Transform",
    "from_plain",
    "to_plain",
]
