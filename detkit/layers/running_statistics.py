"""Running statistics of batch norms: letting a model run without changing them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


@contextmanager
def keep_running_statistics(model: nn.Module) -> Iterator[None]:
    """Within it, norms in training mode normalise as ever, by the batch, and leave their running statistics alone."""
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
