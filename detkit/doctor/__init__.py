"""The doctor: what is wrong with data, config and weights together, before anything runs."""

from detkit.doctor import (
    anchors,
    classes,
    images,
    keypoints,
    left_out,
    machine,
    nothing,
    objects,
    resuming,
    solver,
    weights,
)
from detkit.doctor.interfaces import CHECKS, Check, CheckContext, Finding
from detkit.doctor.runner import check_at_start, exit_code, findings_table, run_checks, write_findings

FILES_OF_CHECKS = (images, objects, keypoints, nothing, left_out, classes, anchors, solver, weights, resuming, machine)
"""Importing them registers the checks."""

__all__ = [
    "CHECKS",
    "Check",
    "CheckContext",
    "Finding",
    "check_at_start",
    "exit_code",
    "findings_table",
    "run_checks",
    "write_findings",
]
