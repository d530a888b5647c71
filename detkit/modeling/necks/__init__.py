"""Necks: feature maps to feature maps."""

from detkit.modeling.necks.bifpn import BiFPN
from detkit.modeling.necks.fpn import FPN, PAFPN
from detkit.modeling.necks.simple_pyramid import SimpleFeaturePyramid
from detkit.modeling.necks.top_blocks import LastLevelMaxPool, LastLevelP6P7

__all__ = ["FPN", "PAFPN", "BiFPN", "LastLevelMaxPool", "LastLevelP6P7", "SimpleFeaturePyramid"]
