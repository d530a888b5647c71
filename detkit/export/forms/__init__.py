"""The files that programs are kept in, and the engines that run them. A form is a suffix."""

from detkit.export.forms.interfaces import Calibration, Engine, Form
from detkit.export.forms.onnx import ONNX
from detkit.export.forms.openvino import OPENVINO
from detkit.export.forms.torch import TORCH

FORMS: dict[str, Form] = {form.suffix: form for form in (TORCH, ONNX, OPENVINO)}
"""Suffix of a file -> its form."""

__all__ = ["FORMS", "ONNX", "OPENVINO", "TORCH", "Calibration", "Engine", "Form"]
