"""Heads of one-stage detectors, and the parts that they are made of."""

from detkit.modeling.dense_heads.assigners import CentreAssigner, IoUAssigner
from detkit.modeling.dense_heads.fcos import FCOSHead
from detkit.modeling.dense_heads.normalisers import BatchNormaliser, ImageNormaliser, MovingNormaliser
from detkit.modeling.dense_heads.retinanet import RetinaNetHead

__all__ = [
    "BatchNormaliser",
    "CentreAssigner",
    "FCOSHead",
    "ImageNormaliser",
    "IoUAssigner",
    "MovingNormaliser",
    "RetinaNetHead",
]
