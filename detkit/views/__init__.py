"""Models that look at an image several times, in tiles or at other sizes and mirrored, and predict it once."""

from detkit.views.tiled import AnyTiling, TiledModel, augmented
from detkit.views.views import Views, ViewsModel, as_tested

__all__ = ["AnyTiling", "TiledModel", "Views", "ViewsModel", "as_tested", "augmented"]
