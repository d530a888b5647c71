"""RoI heads and the heads that they are made of."""

from detkit.modeling.roi_heads.box_head import FastRCNNConvFCHead
from detkit.modeling.roi_heads.mask_head import ConvUpsampleMaskHead
from detkit.modeling.roi_heads.standard import StandardRoIHeads

__all__ = ["ConvUpsampleMaskHead", "FastRCNNConvFCHead", "StandardRoIHeads"]
