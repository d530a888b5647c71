"""A trained model as a function from images to predictions, which know their classes and draw themselves."""

from detkit.predictor.instances import PredictedInstances
from detkit.predictor.predictor import Predictor

__all__ = ["PredictedInstances", "Predictor"]
