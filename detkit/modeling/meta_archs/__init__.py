"""Meta-architectures."""

from detkit.modeling.meta_archs.dense import DenseDetector
from detkit.modeling.meta_archs.features import FeatureModel
from detkit.modeling.meta_archs.panoptic import PanopticFPN
from detkit.modeling.meta_archs.rcnn import GeneralizedRCNN
from detkit.modeling.meta_archs.semantic import SemanticSegmentor

__all__ = ["DenseDetector", "FeatureModel", "GeneralizedRCNN", "PanopticFPN", "SemanticSegmentor"]
