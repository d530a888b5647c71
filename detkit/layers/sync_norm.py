"""Batch normalisation over the batches of all processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from detkit.utils.distributed import world_size


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation whose statistics are those of all processes' batches together.

    The processes compute what one would with all images in its batch, forward and backward; a process may have none.
    On a GPU it runs ``nn.SyncBatchNorm``'s code. Torch has none for the CPU, and DistributedDataParallel takes no
    ``nn.SyncBatchNorm`` there, so this is no subclass of it. In evaluation, and in one process, it is plain batch
    normalisation. All processes must come by it in every step.
    """

    process_group = None  # for torch's code: all processes
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"SyncBatchNorm: expected at least 2 dimensions, got {input.dim()}")

    @classmethod
    def of(cls, norm: nn.modules.batchnorm._BatchNorm) -> "SyncBatchNorm":
        """With the options, weights and statistics of a batch norm."""
        sync = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        sync.load_state_dict(norm.state_dict())
        return sync.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, ...)`` -> the same shape."""
        if not self.training or x.device.type != "cpu" or world_size() == 1:
            return nn.SyncBatchNorm.forward(self, x)  # type: ignore[arg-type, misc]
        self._check_input_dim(x)
        out, mean, var, count = _Synchronised.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean), momentum)
            self.running_var.lerp_((var * count / (count - 1).clamp(min=1)).to(self.running_var), momentum)
        return out


class _Synchronised(torch.autograd.Function):
    """``(x - mean) / sqrt(var + eps) * weight + bias``, with mean and variance of all processes' ``x``.

    With ``n`` values a channel over all processes, and ``z`` for the normalised ``x``, the gradient is
    ``weight / sqrt(var + eps) * (dy - sum(dy) / n - z * sum(dy * z) / n)`` (Ioffe and Szegedy 2015, section 3). The
    gradients of weight and bias are those of this process's own ``x``, as for every layer.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        """The normalised ``x``; and mean and variance (biased) a channel and the number of values, of all processes."""
        wide, axes = _wide(x), [d for d in range(x.dim()) if d != 1]
        own = torch.full((1,), wide.numel() // wide.shape[1], dtype=torch.float64)
        mean = wide.sum(axes, dtype=torch.float64) / own.clamp(min=1)
        spread = (wide - _channels(mean, x)).square().sum(axes, dtype=torch.float64)  # not E[x^2] - E[x]^2: it cancels
        every = [torch.empty(2 * len(mean) + 1, dtype=torch.float64) for _ in range(world_size())]
        dist.all_gather(every, torch.cat([mean, spread, own]))
        means, spreads, counts = torch.stack(every).split([len(mean), len(mean), 1], dim=1)
        total = counts.sum().clamp(min=1)
        mean = (means * counts).sum(0) / total
        var = (spreads + counts * (means - mean).square()).sum(0) / total
        scale = (var + eps).rsqrt()
        normalised = (wide - _channels(mean, x)) * _channels(scale, x)
        ctx.save_for_backward(normalised, weight, scale, total)
        out = normalised if weight is None or bias is None else normalised * _channels(weight, x) + _channels(bias, x)
        ctx.mark_non_differentiable(mean, var, total)
        return out.to(x.dtype), mean, var, total

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The gradients of x, weight and bias; none of eps."""
        normalised, weight, scale, total = ctx.saved_tensors
        wide, axes = _wide(grad), [d for d in range(grad.dim()) if d != 1]
        sums = torch.stack([wide.sum(axes, dtype=torch.float64), (wide * normalised).sum(axes, dtype=torch.float64)])
        own_bias, own_weight = sums.clone()
        dist.all_reduce(sums)
        shift, tilt = sums / total
        grad_x = wide - _channels(shift, grad) - normalised * _channels(tilt, grad)
        grad_x = grad_x * _channels(scale if weight is None else scale * weight, grad)
        if weight is None:
            return grad_x.to(grad.dtype), None, None, None
        return grad_x.to(grad.dtype), own_weight.to(weight.dtype), own_bias.to(weight.dtype), None


def _wide(x: Tensor) -> Tensor:
    """In single precision at least, also under autocast."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _channels(value: Tensor, like: Tensor) -> Tensor:
    """``(C,)`` for broadcasting against ``_wide(like)``, in its precision."""
    return value.to(torch.promote_types(like.dtype, torch.float32)).reshape(1, -1, *[1] * (like.dim() - 2))
