"""Which modules ``torch.compile`` takes: those that compute the same whatever is in the image."""

from collections.abc import Iterator

from torch import nn

from detkit.modeling.interfaces import Backbone, BoxHead, DenseHead, InstanceHead, Neck, RPNHead
from detkit.registry import ConfigError
from detkit.utils.environment import missing_compiler


def static_parts(model: nn.Module) -> Iterator[nn.Module]:
    """Backbone, neck, RPN head, and the convolutions of the heads."""
    for part in model.modules():
        if isinstance(part, Backbone | Neck | RPNHead):
            yield part
        elif isinstance(part, BoxHead | InstanceHead | DenseHead):
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
    problem = missing_compiler({parameter.device for parameter in model.parameters()})
    if problem is not None:
        raise ConfigError(f"compile: {problem}")
    for part in static_parts(model):
        part.compile(dynamic=True)
