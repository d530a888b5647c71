"""How several processes train one model: each with a copy of it, or each with a shard of its weights."""

import logging
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from detkit.config import Count, Positive
from detkit.engine.interfaces import PARALLELISMS, Parallelism
from detkit.utils import distributed
from detkit.utils.sharding import RESHARDS

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

    def __init__(self, *, find_unused_parameters: bool = False, bucket_mb: Positive = 25.0, static_graph: bool = False):
        super().__init__()
        self.find_unused_parameters, self.bucket_mb, self.static_graph = find_unused_parameters, bucket_mb, static_graph

    def wrap(self, model: nn.Module) -> nn.Module:
        if distributed.world_size() == 1 or not any(p.requires_grad for p in model.parameters()):
            return model
        return nn.parallel.DistributedDataParallel(
            model,
            find_unused_parameters=self.find_unused_parameters,
            bucket_cap_mb=self.bucket_mb,  # type: ignore[arg-type]  # torch multiplies it
            gradient_as_bucket_view=True,
            static_graph=self.static_graph,
        )


@PARALLELISMS.register()
class FSDP(Parallelism):
    """Every process has a shard of the weights, gradients and optimizer's state; for models too large for one device.

    Rajbhandari et al. 2019, arXiv:1910.02054 (ZeRO, stage 3); torch's ``fully_shard`` (FSDP2). A unit is gathered
    when its forward or backward pass comes, and given up after it. Units are the smallest modules with
    ``unit_parameters`` weights or more that are called as a whole (a bottleneck, a stage, a neck), and what encloses
    them; the rest belongs to the model itself. In one process it does nothing.

    Args:
        unit_parameters: the least number of weights of a unit. Smaller units need less memory and communicate more.
        reshard_after_forward: give a unit's weights up after its forward pass and gather them again for the backward
            pass; false (ZeRO, stage 2) needs more memory and communicates less.
        gather_dtype: fp32, or bf16: weights are gathered and used in half precision, which halves the traffic, while
            the shards, and gradients' means, stay in fp32; for ``train.precision: bf16``.
    """

    def __init__(
        self,
        *,
        unit_parameters: Count = 1_000_000,
        reshard_after_forward: bool = True,
        gather_dtype: Literal["fp32", "bf16"] = "fp32",
    ):
        super().__init__()
        self.unit_parameters, self.reshard_after_forward = unit_parameters, reshard_after_forward
        self.gather_dtype = gather_dtype

    def wrap(self, model: nn.Module) -> nn.Module:
        if distributed.world_size() == 1:
            return model
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        device = next(model.parameters()).device
        mesh = init_device_mesh(device.type, (distributed.world_size(),))
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if self.gather_dtype == "bf16" else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,  # autocast does that
        )
        for parameter in model.parameters():  # as fully_shard takes no other
            parameter.data = parameter.data.contiguous()
        units = list(_units(model, self.unit_parameters))
        for unit in units:
            fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=self.reshard_after_forward)
        fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        setattr(model, RESHARDS, self.reshard_after_forward)
        number = distributed.world_size()
        logger.info("FSDP: the weights are sharded over %d processes, in %d units", number, len(units))
        return model


def _units(module: nn.Module, least: int) -> Iterator[nn.Module]:
    """The descendants that are gathered as units, inner ones first."""
    for child in module.children():
        inner = list(_units(child, least))
        yield from inner
        rest = _size(child) - sum(map(_size, inner))
        # A leaf's weights are often used without calling it, and a mere container is never called.
        if rest >= least and type(child).forward is not nn.Module.forward and any(True for _ in child.children()):
            yield child


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
