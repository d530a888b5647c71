"""Backbones: image to feature maps."""

from detkit.modeling.backbones.resnet import ResNet, ResNeXt
from detkit.modeling.backbones.torchvision import TorchvisionBackbone

__all__ = ["ResNeXt", "ResNet", "TorchvisionBackbone"]
