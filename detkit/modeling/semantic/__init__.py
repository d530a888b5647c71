"""Semantic segmentation: the class of each pixel, and what joins it with objects."""

from detkit.modeling.semantic.fpn_head import SemanticFPNHead
from detkit.modeling.semantic.maps import IGNORED, batched_maps, original_logits
from detkit.modeling.semantic.merge import PanopticMerge

__all__ = ["IGNORED", "PanopticMerge", "SemanticFPNHead", "batched_maps", "original_logits"]
