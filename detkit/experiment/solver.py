"""How an experiment's weights change."""

import dataclasses

from detkit.config import Count, Positive, Recipe
from detkit.engine.clipping import Clipping
from detkit.engine.loss_mean import LossMean
from detkit.solver.interfaces import LRSchedule, Optimizer


@dataclasses.dataclass(kw_only=True)
class SolverConfig:
    """How weights change, and for how long.

    Args:
        optimizer: from gradients to weights.
        schedule: the learning rate over the run.
        max_iter: training steps; or give ``epochs``.
        epochs: passes over the training dataset; or give ``max_iter``.
        lr_batch_size: the batch size that the optimizer's ``lr`` is given for; with other ``data.batch_size`` times
            ``accumulate`` the rate is scaled in proportion. null: the rate is taken as it stands.
        clip_grad_norm: all gradients together are scaled down to this norm; null for no limit.
        clip_param_norm: each parameter's gradient is scaled down to this norm of its own; null for no limit.
        clip_grad_value: each number of a gradient is cut to within plus and minus this; null for no limit.
        accumulate: batches a step; their gradients are averaged. The step is that of one batch so many times as
            large, in the memory of one; only batch norms (not frozen ones) still look at each batch alone.
        loss_mean: step: losses are means over all of a step, whatever batches and processes it is split into;
            accumulating costs a forward pass more for each batch but the first. batch: means over each batch of each
            process alone, which are then averaged (Detectron2 over several GPUs, matterport).
    """

    optimizer: Recipe[Optimizer]
    schedule: Recipe[LRSchedule]
    max_iter: Count | None = None
    epochs: Positive | None = None
    lr_batch_size: Count | None = 16
    clip_grad_norm: Positive | None = None
    clip_param_norm: Positive | None = None
    clip_grad_value: Positive | None = None
    accumulate: Count = 1
    loss_mean: LossMean = "step"

    def __post_init__(self) -> None:
        if (self.max_iter is None) == (self.epochs is None):
            raise ValueError(
                f"solver: give either max_iter or epochs, got max_iter {self.max_iter} and epochs {self.epochs} "
                "(null removes the one that a base config gives)"
            )
        Clipping(self.clip_grad_norm, self.clip_param_norm, self.clip_grad_value)
