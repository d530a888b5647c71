"""RoI heads and the heads that they are made of."""

from detkit.modeling.roi_heads.box_head import BoxPredictions, Detection, FastRCNNConvFCHead, FastRCNNHead
from detkit.modeling.roi_heads.cascade import CascadeRoIHeads, CascadeStage
from detkit.modeling.roi_heads.keypoint_head import ConvUpsampleKeypointHead
from detkit.modeling.roi_heads.mask_head import ConvUpsampleMaskHead, MaskTargets
from detkit.modeling.roi_heads.matterport import (
    ConvBNBoxHead,
    MatterportBoxHead,
    MatterportDetections,
    MatterportRoIHeads,
)
from detkit.modeling.roi_heads.pointrend import PointRendMaskHead, Subdivision
from detkit.modeling.roi_heads.res5 import Res5RoIHeads
from detkit.modeling.roi_heads.standard import RefinedBoxRoIHeads, StandardRoIHeads

__all__ = [
    "BoxPredictions",
    "CascadeRoIHeads",
    "CascadeStage",
    "ConvBNBoxHead",
    "ConvUpsampleKeypointHead",
    "ConvUpsampleMaskHead",
    "Detection",
    "FastRCNNConvFCHead",
    "FastRCNNHead",
    "MaskTargets",
    "MatterportBoxHead",
    "MatterportDetections",
    "MatterportRoIHeads",
    "PointRendMaskHead",
    "RefinedBoxRoIHeads",
    "Res5RoIHeads",
    "StandardRoIHeads",
    "Subdivision",
]
