"""Building blocks that know nothing of detection roles."""

from detkit.layers.nms import nms_by_group
from detkit.layers.paste import paste_masks
from detkit.layers.shape_spec import ShapeSpec

__all__ = ["ShapeSpec", "nms_by_group", "paste_masks"]
