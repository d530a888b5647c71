"""Meta-architectures."""

from detkit.modeling.meta_archs.dense import DenseDetector
from detkit.modeling.meta_archs.features import FeatureModel
from detkit.modeling.meta_archs.rcnn import GeneralizedRCNN

__all__ = ["DenseDetector", "FeatureModel", "GeneralizedRCNN"]
