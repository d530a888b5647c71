"""Faster copies of a model, for prediction alone."""

from detkit.inference.optimize import Precision, optimized

__all__ = ["Precision", "optimized"]
