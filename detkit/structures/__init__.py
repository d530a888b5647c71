"""What passes between the parts: boxes, masks, instances, image batches, samples and losses."""

from detkit.structures.bit_masks import BitMasks
from detkit.structures.boxes import Boxes
from detkit.structures.class_rows import ClassRows
from detkit.structures.cropped_masks import CroppedMasks
from detkit.structures.image_list import ImageInfo, ImageList
from detkit.structures.instances import Instances
from detkit.structures.keypoint_spec import COCO_PERSON, KeypointSpec
from detkit.structures.keypoints import Keypoints
from detkit.structures.losses import Losses
from detkit.structures.mask_crops import CropMethod
from detkit.structures.masks import Masks
from detkit.structures.plain import from_plain, plain_form, to_plain
from detkit.structures.polygon_masks import PolygonMasks
from detkit.structures.prediction import Panoptic, Prediction, Segment
from detkit.structures.sample import FailedBatch, Sample
from detkit.structures.tiles import Tile, Tiling
from detkit.structures.transforms import Compose, ProjectiveTransform, Region, Transform
from detkit.structures.upright import CropAndPad, Flip, Resize
from detkit.structures.warp import Warp

__all__ = [
    "COCO_PERSON",
    "BitMasks",
    "Boxes",
    "ClassRows",
    "Compose",
    "CropAndPad",
    "CropMethod",
    "CroppedMasks",
    "FailedBatch",
    "Flip",
    "ImageInfo",
    "ImageList",
    "Instances",
    "KeypointSpec",
    "Keypoints",
    "Losses",
    "Masks",
    "Panoptic",
    "PolygonMasks",
    "Prediction",
    "ProjectiveTransform",
    "Region",
    "Resize",
    "Sample",
    "Segment",
    "Tile",
    "Tiling",
    "Transform",
    "Warp",
    "from_plain",
    "plain_form",
    "to_plain",
]
