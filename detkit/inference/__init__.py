"""Models for prediction alone: the same function, faster, or on large images."""

from detkit.inference.optimize import Precision, optimized
from detkit.inference.tiled import AnyTiling, TiledModel, augmented

__all__ = ["AnyTiling", "Precision", "TiledModel", "augmented", "optimized"]
