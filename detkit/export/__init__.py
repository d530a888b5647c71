"""Programs: a detector for engines besides torch, and running them in its place."""

from detkit.export.description import Description
from detkit.export.forms import FORMS, Form
from detkit.export.program import (
    NO_VIEWS,
    Program,
    ProgramModel,
    description_of,
    export,
    form_of,
    form_to_write,
    is_program,
    read_config,
)
from detkit.export.static import (
    Batch,
    Rows,
    StaticDetector,
    static_anchors,
    static_candidates,
    static_dense,
    static_described,
    static_detections,
    static_fields,
    static_outputs,
    static_pooler,
    static_proposals,
    static_suppression,
)
from detkit.export.tracing import InputShape

__all__ = [
    "FORMS",
    "NO_VIEWS",
    "Batch",
    "Description",
    "Form",
    "InputShape",
    "Program",
    "ProgramModel",
    "Rows",
    "StaticDetector",
    "description_of",
    "export",
    "form_of",
    "form_to_write",
    "is_program",
    "read_config",
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
