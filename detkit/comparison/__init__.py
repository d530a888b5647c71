"""Parity reports: detkit's model against the reference that its weights come from, stage by stage."""

from detkit.comparison.fixtures import Fixture, read_fixture
from detkit.comparison.images import read_images
from detkit.comparison.report import Difference, Report, Row
from detkit.comparison.torchvision_reference import (
    TORCHVISION_MODELS,
    Settings,
    build_torchvision,
    load_torchvision,
    num_classes_of,
    published_norm_eps,
)
from detkit.comparison.weights import calibrate, weights_by_name
from detkit.comparison.with_fixture import compare_with_fixture
from detkit.comparison.with_torchvision import compare_with_torchvision

__all__ = [
    "TORCHVISION_MODELS",
    "Difference",
    "Fixture",
    "Report",
    "Row",
    "Settings",
    "build_torchvision",
    "calibrate",
    "compare_with_fixture",
    "compare_with_torchvision",
    "load_torchvision",
    "num_classes_of",
    "published_norm_eps",
    "read_fixture",
    "read_images",
    "weights_by_name",
]
