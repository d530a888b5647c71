"""The doctor: what is wrong with data, config and weights together, before anything runs."""

from detkit.doctor import anchors, annotation_files, classes, images, machine, objects, resuming, solver, weights
from detkit.doctor.examination import examine, examine_at_start, exit_code
from detkit.doctor.interfaces import CHECKS, Check, Finding
from detkit.doctor.patient import Patient
from detkit.doctor.report import findings_table, write_findings

ROOMS = (annotation_files, images, objects, classes, anchors, solver, weights, resuming, machine)
"""Importing them registers the checks."""

__all__ = [
    "CHECKS",
    "Check",
    "Finding",
    "Patient",
    "examine",
    "examine_at_start",
    "exit_code",
    "findings_table",
    "write_findings",
]
