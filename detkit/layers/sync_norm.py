"""Batch normalisation over the batches of all processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detkit.layers.norm import NORMS, Norm
from detkit.ranges import NonNegative
from detkit.utils.distributed import world_size


@NORMS.register()
class SyncBN(Norm, nn.BatchNorm2d):
    """Batch normalisation whose statistics are those of all processes' batches together.

    The processes compute what one would with all images in its batch, forward and backward; a process may have none.
    In evaluation, and in one process, it is ordinary batch normalisation. All processes must call it in every step.
    ``nn.SyncBatchNorm`` computes the same on GPUs alone, and DistributedDataParallel refuses it elsewhere.

    Args:
        eps: added to the variance.
    """

    def __init__(self, num_channels: int, *, eps: NonNegative = 1e-5):
        nn.BatchNorm2d.__init__(self, num_channels, eps=eps)

    @classmethod
    def of(cls, norm: _BatchNorm) -> "SyncBN":
        """With the options, weights and statistics of a batch norm, on its device; what is frozen there is frozen."""
        sync = cls(norm.num_features, eps=norm.eps).to(norm.weight)
        sync.momentum = norm.momentum
        sync.load_state_dict(norm.state_dict())
        for new, old in zip(sync.parameters(), norm.parameters()):
            new.requires_grad_(old.requires_grad)
        return sync.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> the same shape."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # also under autocast
        number = wide.numel() // wide.shape[1]
        mean = var = wide.sum((0, 2, 3))  # zeros, for a process without images
        if number:
            var, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
        mean, var = mean.double(), var.double()
        sums = torch.cat([mean * number, (var + mean.square()) * number, mean.new_full((1,), number)])
        *moments, total = _AllReduce.apply(sums).split([len(mean), len(mean), 1])
        mean, square = (moment / total.clamp(min=1) for moment in moments)
        var = (square - mean.square()).clamp(min=0)
        self._update(mean, var * total / (total - 1).clamp(min=1))
        scale = (var + self.eps).rsqrt()
        scale = scale if self.weight is None else self.weight * scale
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        scale, shift = (values.to(wide.dtype)[:, None, None] for values in (scale, shift))
        return (wide * scale + shift).to(x.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, var: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        self.running_var.lerp_(var.to(self.running_var), momentum)


class _AllReduce(torch.autograd.Function):
    """The sum over all processes. Each learns from what all make of it, so its gradient is summed up as well."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """The sum."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        """The sum of the gradients."""
        return _AllReduce.forward(ctx, grad.contiguous())
