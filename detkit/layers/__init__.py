"""Building blocks that know nothing of detection roles."""

from detkit.layers.box_ops import nms_by_group, pairwise_iou
from detkit.layers.conv import (
    ConvNorm,
    DeformConvNorm,
    c2_msra_fill,
    c2_xavier_fill,
    conv_stack,
    guard_convolutions,
)
from detkit.layers.crop_and_resize import crop_and_resize
from detkit.layers.deformable_attention import deformable_attention
from detkit.layers.init import init_normal
from detkit.layers.norm import BN, GN, LN, NORMS, FrozenBN, Norm, freeze, frozen_copy, make_norm, replace_modules
from detkit.layers.paste import paste_in_regions
from detkit.layers.roi_align import roi_align
from detkit.layers.shapes import SamePad2d, ShapeSpec, choose_features, numbered, same_pad
from detkit.layers.sync_norm import SyncBN

__all__ = [
    "BN",
    "GN",
    "LN",
    "NORMS",
    "ConvNorm",
    "DeformConvNorm",
    "FrozenBN",
    "Norm",
    "SamePad2d",
    "ShapeSpec",
    "SyncBN",
    "c2_msra_fill",
    "c2_xavier_fill",
    "choose_features",
    "conv_stack",
    "crop_and_resize",
    "deformable_attention",
    "freeze",
    "frozen_copy",
    "guard_convolutions",
    "init_normal",
    "make_norm",
    "nms_by_group",
    "numbered",
    "pairwise_iou",
    "paste_in_regions",
    "replace_modules",
    "roi_align",
    "same_pad",
]
