"""Building blocks that know nothing of detection roles."""

from detkit.layers.conv import ConvNorm, c2_msra_fill, c2_xavier_fill
from detkit.layers.crop_and_resize import crop_and_resize, crop_and_resize_levels
from detkit.layers.deform_conv import DeformConvNorm
from detkit.layers.host_copy import HostCopy, to_device
from detkit.layers.iou import columns_at_once, pairwise_iou
from detkit.layers.nms import nms_best, nms_by_group
from detkit.layers.norm import FrozenBatchNorm2d, NormName, freeze, frozen_copy, make_norm, replace_modules
from detkit.layers.paste import paste_in_windows, paste_masks
from detkit.layers.roi_align import roi_align
from detkit.layers.same_pad import SamePad2d, same_pad
from detkit.layers.shape_spec import ShapeSpec
from detkit.layers.sync_norm import SyncBatchNorm
from detkit.layers.waits import filled, waits_for

__all__ = [
    "ConvNorm",
    "DeformConvNorm",
    "FrozenBatchNorm2d",
    "HostCopy",
    "NormName",
    "SamePad2d",
    "ShapeSpec",
    "SyncBatchNorm",
    "c2_msra_fill",
    "c2_xavier_fill",
    "columns_at_once",
    "crop_and_resize",
    "crop_and_resize_levels",
    "filled",
    "freeze",
    "frozen_copy",
    "make_norm",
    "nms_best",
    "nms_by_group",
    "pairwise_iou",
    "paste_in_windows",
    "paste_masks",
    "replace_modules",
    "roi_align",
    "same_pad",
    "to_device",
    "waits_for",
]
