"""Models for prediction alone: the same function, faster, on large images, or from several views."""

from detkit.inference.optimize import Precision, optimized
from detkit.inference.tiled import AnyTiling, TiledModel, augmented
from detkit.inference.views import Views, ViewsModel, as_tested

__all__ = [
    "AnyTiling",
    "Precision",
    "TiledModel",
    "Views",
    "ViewsModel",
    "as_tested",
    "augmented",
    "optimized",
]
