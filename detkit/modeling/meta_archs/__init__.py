"""Meta-architectures."""

from detkit.modeling.meta_archs.rcnn import GeneralizedRCNN

__all__ = ["GeneralizedRCNN"]
