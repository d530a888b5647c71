"""Mistakes of a config that torch meets in the midst of a step, in words of the config."""

import contextlib
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from detkit.registry import ConfigError
from detkit.utils import distributed


@contextlib.contextmanager
def explained(model: nn.Module) -> Iterator[None]:
    """Within it, a norm that sees a single value a channel raises ConfigError, which names it and what helps."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error) and "more than 1 spatial element" not in str(error):
            raise
        trace, found = error.__traceback__, None
        while trace is not None:
            called = trace.tb_frame.f_locals.get("self")
            found, trace = called if isinstance(called, _NormBase | nn.GroupNorm) else found, trace.tb_next
        names = [name for name, module in distributed.unwrap(model).named_modules() if module is found]
        raise ConfigError(
            f"model.{names[0] if names else 'norm'}: a norm cannot learn from one value a channel, which is all that"
            " this batch leaves it. Raise data.batch_size or the size of the images, or take norms that do not look at"
            " the batch, such as model.backbone.norm=GN or FrozenBN"
        ) from error


def check_gradients(model: nn.Module) -> None:
    """After a backward pass: raises ConfigError where DistributedDataParallel waits for gradients that do not come.

    Torch notices in the next step, by numbers, after weights were changed by gradients that were not averaged.
    """
    ddp = nn.parallel.DistributedDataParallel
    if not isinstance(model, ddp) or model.find_unused_parameters or model.static_graph:
        return
    named = distributed.unwrap(model).named_parameters()
    unused = [name for name, parameter in named if parameter.requires_grad and parameter.grad is None]
    if unused:
        raise ConfigError(
            f"train.parallel: {len(unused)} parameters had no share in the losses of this step, such as"
            f" {', '.join(unused[:4])}, and the processes would wait for their gradients. Leave that part out of the"
            " model, or set train.parallel.find_unused_parameters=true"
        )
