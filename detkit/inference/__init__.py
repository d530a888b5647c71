"""Models for prediction alone: the same function, faster."""

from detkit.inference.optimize import Precision, optimized

__all__ = ["Precision", "optimized"]
