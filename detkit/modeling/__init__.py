"""Models: the roles in ``interfaces.py`` (read it first) and the components that fill them."""

from detkit.modeling import (
    anchors,
    backbones,
    box_coder,
    box_losses,
    class_losses,
    dense_heads,
    input_resize,
    mask_pasters,
    meta_archs,
    necks,
    poolers,
    proposals,
    roi_heads,
    semantic,
    suppression,
)
from detkit.modeling.interfaces import MetaArch
from detkit.modeling.preprocess import Preprocess

__all__ = [
    "MetaArch",
    "Preprocess",
    "anchors",
    "backbones",
    "box_coder",
    "box_losses",
    "class_losses",
    "dense_heads",
    "input_resize",
    "mask_pasters",
    "meta_archs",
    "necks",
    "poolers",
    "proposals",
    "roi_heads",
    "semantic",
    "suppression",
]
