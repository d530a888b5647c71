"""The update of a training step: gradients are clipped, then the optimizer changes the weights."""

import dataclasses

import torch
from torch import Tensor, nn

from detkit.engine.forensics.recorder import Recorder
from detkit.utils.sharding import whole


@dataclasses.dataclass(frozen=True)
class Clipping:
    """How gradients are limited; at most one rule.

    Args:
        norm: all gradients together are scaled down to this L2 norm.
        param_norm: each parameter's gradient is scaled down to this L2 norm of its own.
        value: each number of a gradient is cut to within plus and minus this.

    Raises:
        ValueError: a limit that is not positive, or several.
    """

    norm: float | None = None
    param_norm: float | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        given = {name: limit for name, limit in self.options.items() if limit is not None}
        for name, limit in given.items():
            if not limit > 0:
                raise ValueError(f"{name}: expected a positive limit or none, got {limit}")
        if len(given) > 1:
            raise ValueError(
                f"gradients are clipped by one rule at most, got {', '.join(f'{n} {v}' for n, v in given.items())}; "
                "set the others to null"
            )

    @property
    def options(self) -> dict[str, float | None]:
        """The limits by the names that trainer and config have for them."""
        return {"clip_grad_norm": self.norm, "clip_param_norm": self.param_norm, "clip_grad_value": self.value}

    @torch.no_grad()
    def __call__(self, parameters: list[nn.Parameter], norm: Tensor) -> dict[str, Tensor]:
        """Clips the gradients in place.

        Args:
            parameters: that have gradients.
            norm: 0-d, of all gradients together.

        Returns:
            For the limits of parameters or numbers ``clipped``: the share of them that was over it.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.norm, norm)
        if self.param_norm is not None:
            norms = torch.stack(torch._foreach_norm(gradients))
            torch._foreach_mul_(gradients, list((self.param_norm / (norms + 1e-6)).clamp(max=1).unbind()))
            return {"clipped": (norms > self.param_norm).float().mean()}
        if self.value is not None:
            over = torch.stack([(g.abs() > self.value).sum() for g in gradients]).sum()
            nn.utils.clip_grad_value_(parameters, self.value)
            return {"clipped": over / sum(g.numel() for g in gradients)}
        return {}


class Update:
    """From gradients to weights.

    Args:
        optimizer: over the parameters.
        clipping: the limit of the gradients.
        scaler: of the losses that the gradients are of.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, clipping: Clipping, scaler: torch.amp.GradScaler):
        self.optimizer, self.clipping, self.scaler = optimizer, clipping, scaler

    def __call__(self, recorder: Recorder) -> dict[str, Tensor]:
        """Changes the weights, unless the gradients overflowed in half precision.

        Args:
            recorder: of the run; it ends it at gradients that are not finite, where they are not of scaled losses.

        Returns:
            Figures, each where something asks for it: ``grad_norm``, the norm of all gradients before clipping;
            ``clipped``; ``skipped``: 1 where the step was left out because of an overflow.
        """
        scaled, clips = self.scaler.is_enabled(), any(limit is not None for limit in self.clipping.options.values())
        figures: dict[str, Tensor] = {}
        if scaled:
            self.scaler.unscale_(self.optimizer)
        if scaled or clips or recorder.at_once:
            every = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
            norm = nn.utils.get_total_norm([p.grad for p in every if p.grad is not None])
            if scaled:
                figures["skipped"] = (~torch.isfinite(norm)).float()
            else:
                recorder.check_gradients(norm)
            if clips or scaled:
                figures |= {"grad_norm": norm, **self.clipping(every, norm)}
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {name: whole(figure) for name, figure in figures.items()}
