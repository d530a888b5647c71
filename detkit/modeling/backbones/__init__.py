"""Backbones: image to feature maps."""

from detkit.modeling.backbones.residual import BottleneckStage, DeformConv
from detkit.modeling.backbones.resnet import ResNet, ResNeXt
from detkit.modeling.backbones.swin import Swin
from detkit.modeling.backbones.timm import TimmBackbone
from detkit.modeling.backbones.torchvision import TorchvisionBackbone
from detkit.modeling.backbones.vit import ViT

__all__ = [
    "BottleneckStage",
    "DeformConv",
    "ResNeXt",
    "ResNet",
    "Swin",
    "TimmBackbone",
    "TorchvisionBackbone",
    "ViT",
]
