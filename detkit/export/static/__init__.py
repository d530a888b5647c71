"""Detectors with fixed counts: every tensor has the same number of rows whatever is in the image."""

from detkit.export.static.boxes import Batch, Rows, clipped, static_anchors
from detkit.export.static.detector import StaticDetector, static_dense, static_outputs
from detkit.export.static.heads import (
    static_candidates,
    static_described,
    static_detections,
    static_fields,
    static_proposals,
)
from detkit.export.static.nms import static_suppression
from detkit.export.static.poolers import static_pooler

__all__ = [
    "Batch",
    "Rows",
    "StaticDetector",
    "clipped",
    "static_anchors",
    "static_candidates",
    "static_dense",
    "static_described",
    "static_detections",
    "static_fields",
    "static_outputs",
    "static_pooler",
    "static_proposals",
    "static_suppression",
]
