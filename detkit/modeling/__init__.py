"""Models: the roles in ``interfaces.py`` (read it first) and the components that fill them."""

from detkit.modeling import (
    backbones,
    box_losses,
    input_resize,
    mask_pasters,
    meta_archs,
    necks,
    poolers,
    proposals,
    roi_heads,
)
from detkit.modeling.anchors import GridAnchorGenerator
from detkit.modeling.box_coder import BoxCoder
from detkit.modeling.interfaces import (
    ANCHOR_GENERATORS,
    BACKBONES,
    BOX_HEADS,
    BOX_LOSSES,
    INPUT_RESIZES,
    KEYPOINT_HEADS,
    MASK_HEADS,
    MASK_PASTERS,
    META_ARCHS,
    NECKS,
    PROPOSAL_GENERATORS,
    ROI_HEADS,
    ROI_POOLERS,
    RPN_HEADS,
    MetaArch,
)
from detkit.modeling.matcher import Matcher
from detkit.modeling.preprocess import PREPROCESSES, Preprocess

__all__ = [
    "ANCHOR_GENERATORS",
    "BACKBONES",
    "BOX_HEADS",
    "BOX_LOSSES",
    "INPUT_RESIZES",
    "KEYPOINT_HEADS",
    "MASK_HEADS",
    "MASK_PASTERS",
    "META_ARCHS",
    "NECKS",
    "PREPROCESSES",
    "PROPOSAL_GENERATORS",
    "ROI_HEADS",
    "ROI_POOLERS",
    "RPN_HEADS",
    "BoxCoder",
    "GridAnchorGenerator",
    "Matcher",
    "MetaArch",
    "Preprocess",
    "backbones",
    "box_losses",
    "input_resize",
    "mask_pasters",
    "meta_archs",
    "necks",
    "poolers",
    "proposals",
    "roi_heads",
]
