"""RoI heads and the heads that they are made of."""

from detkit.modeling.roi_heads.box_head import ConvBNBoxHead, FastRCNNConvFCHead
from detkit.modeling.roi_heads.fast_rcnn import DetectionRules, FastRCNNHead
from detkit.modeling.roi_heads.mask_head import ConvUpsampleMaskHead, MaskTargets
from detkit.modeling.roi_heads.res5 import Res5RoIHeads
from detkit.modeling.roi_heads.standard import StandardRoIHeads

__all__ = [
    "ConvBNBoxHead",
    "ConvUpsampleMaskHead",
    "DetectionRules",
    "FastRCNNConvFCHead",
    "FastRCNNHead",
    "MaskTargets",
    "Res5RoIHeads",
    "StandardRoIHeads",
]
