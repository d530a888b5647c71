"""Which modules ``torch.compile`` compiles: those that compute the same whatever is in the image."""

import importlib.util
import os
import shutil
from collections.abc import Iterator

from torch import nn

from detkit.modeling.interfaces import Backbone, BoxHead, MaskHead, Neck, RPNHead
from detkit.registry import ConfigError


def static_parts(model: nn.Module) -> Iterator[nn.Module]:
    """Backbone, neck, RPN head, and the convolutions of the heads."""
    for part in model.modules():
        if isinstance(part, Backbone | Neck | RPNHead):
            yield part
        elif isinstance(part, BoxHead | MaskHead):
            yield from (child for child in part.children() if isinstance(child, nn.Sequential) and len(child))


def compile_parts(model: nn.Module) -> None:
    """Puts the static parts through ``torch.compile``, in place; names and weights stay as they are.

    Sides of images are variables of what is compiled: after a landscape and a portrait other sizes compile nothing.
    The first passes in training and in evaluation take a minute or more each.

    Args:
        model: a meta-architecture, on its device.

    Raises:
        ConfigError: the compiler that torch calls is not there.
    """
    _look_for_a_compiler({parameter.device.type for parameter in model.parameters()})
    for part in static_parts(model):
        part.compile(dynamic=True)


def _look_for_a_compiler(devices: set[str]) -> None:
    if "cpu" in devices and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise ConfigError("compile: on the CPU torch.compile needs a C++ compiler; install g++, or go without compile")
    if "cuda" in devices and importlib.util.find_spec("triton") is None:
        raise ConfigError("compile: on a GPU torch.compile needs triton; pip install triton, or go without compile")
