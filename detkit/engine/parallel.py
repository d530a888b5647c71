"""How several processes train one model: each with a copy of it, or each with a part of its weights."""

import logging

from torch import nn

from detkit.engine.interfaces import PARALLELISMS, Parallelism
from detkit.utils import distributed

logger = logging.getLogger(__name__)


@PARALLELISMS.register()
class DDP(Parallelism):
    """Every process has the whole model; gradients are averaged while the backward pass goes on.

    Li et al. 2020, arXiv:2006.15704; torch's ``DistributedDataParallel``. In one process it does nothing.

    Args:
        find_unused_parameters: look in each step for parameters that got no gradient, which takes time; for models of
            which not every part has a share in every loss, and for the hook FreezeSchedule.
        bucket_mb: gradients are averaged in portions of this many MiB.
        static_graph: promise that each step uses the same parameters in the same order, which saves time.
    """

    def __init__(
        self,
        *,
        find_unused_parameters: bool = False,
        bucket_mb: float = 25.0,
        static_graph: bool = False,
    ):
        super().__init__()
        if not bucket_mb > 0:
            raise ValueError(f"bucket_mb: expected above 0, got {bucket_mb}")
        self.find_unused_parameters, self.bucket_mb, self.static_graph = find_unused_parameters, bucket_mb, static_graph

    def wrap(self, model: nn.Module) -> nn.Module:
        """See ``Parallelism.wrap``."""
        if distributed.world_size() == 1 or not any(p.requires_grad for p in model.parameters()):
            return model
        return nn.parallel.DistributedDataParallel(
            model,
            find_unused_parameters=self.find_unused_parameters,
            bucket_cap_mb=self.bucket_mb,  # type: ignore[arg-type]  # torch multiplies it
            gradient_as_bucket_view=True,
            static_graph=self.static_graph,
        )
