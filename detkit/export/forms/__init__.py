"""The files that programs are kept in, and the engines that run them."""

from detkit.export.forms.interfaces import FORMS, Calibration, Engine, Form
from detkit.export.forms.onnx import OnnxForm
from detkit.export.forms.openvino import OpenVinoForm
from detkit.export.forms.torch import TorchForm

__all__ = ["FORMS", "Calibration", "Engine", "Form", "OnnxForm", "OpenVinoForm", "TorchForm"]
