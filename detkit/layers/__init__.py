"""Building blocks that know nothing of detection roles."""

from detkit.layers.shape_spec import ShapeSpec

__all__ = ["ShapeSpec"]
