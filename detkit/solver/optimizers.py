"""Optimizers that build their own parameter groups from a model."""

from typing import Annotated, Any

import torch
from torch import nn

from detkit.config import Interval, NonNegative, Share
from detkit.solver.interfaces import OPTIMIZERS, Optimizer
from detkit.solver.param_groups import GroupRules, check_lr_scale, parameter_groups
from detkit.utils.sharding import is_dtensor

# The role comes first among the bases: torch's constructors call super().__init__, which must reach torch's own base
# class and not the role's placeholder. Each constructor therefore calls torch's by name.


_Decay = Annotated[float, Interval(0, 1, below=True)]


@OPTIMIZERS.register()
class SGD(Optimizer, torch.optim.SGD):
    """Stochastic gradient descent with momentum. The defaults are Detectron2's.

    Args:
        lr: the rate for a batch of ``lr_batch_size`` images.
        momentum: factor on the running sum of gradients.
        nesterov: look ahead along the momentum.
        weight_decay: L2 penalty on weights.
        weight_decay_norm: L2 penalty on the parameters of normalisation layers.
        weight_decay_bias: L2 penalty on biases; null means as ``weight_decay``.
        weight_decay_by_name: last word of a parameter's name to its L2 penalty, before all others, e.g.
            ``{pos_embed: 0}``.
        bias_lr_factor: factor on the rate of biases.
        lr_factors: dotted submodule name to a factor on its rate, e.g. ``{backbone: 0.1}``.
        layer_decay: factor on the rate of a backbone's layer for each layer between it and the backbone's end; null for
            one rate.

    Raises:
        ValueError: nothing is trainable, a negative option, or a submodule or parameter that the model has not.
    """

    def __init__(
        self,
        model: nn.Module,
        lr_scale: float,
        *,
        lr: NonNegative,
        momentum: _Decay = 0.9,
        nesterov: bool = False,
        weight_decay: NonNegative = 1e-4,
        weight_decay_norm: NonNegative = 0.0,
        weight_decay_bias: NonNegative | None = None,
        weight_decay_by_name: dict[str, NonNegative] | None = None,
        bias_lr_factor: NonNegative = 1.0,
        lr_factors: dict[str, NonNegative] | None = None,
        layer_decay: Share | None = None,
    ):
        check_lr_scale(lr_scale)
        rules = GroupRules(
            lr * lr_scale,
            weight_decay,
            weight_decay_norm,
            weight_decay_bias,
            bias_lr_factor,
            lr_factors,
            layer_decay,
            weight_decay_by_name,
        )
        groups = parameter_groups(model, rules)
        torch.optim.SGD.__init__(
            self, groups, lr=rules.lr, momentum=momentum, nesterov=nesterov, fused=_can_fuse(groups)
        )
        self.register_step_pre_hook(_begin_momentum)


@OPTIMIZERS.register()
class AdamW(Optimizer, torch.optim.AdamW):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

    Args:
        lr: the rate for a batch of ``lr_batch_size`` images.
        betas: decay of the running means of the gradient and of its square.
        eps: added to the root of the second, against division by zero.
        weight_decay: decay of weights, multiplied by the rate.
        weight_decay_norm: decay of the parameters of normalisation layers.
        weight_decay_bias: decay of biases; null means as ``weight_decay``.
        weight_decay_by_name: last word of a parameter's name to its decay, before all others, e.g. ``{pos_embed: 0}``.
        lr_factors: dotted submodule name to a factor on its rate, e.g. ``{backbone: 0.1}``.
        layer_decay: factor on the rate of a backbone's layer for each layer between it and the backbone's end; null for
            one rate.

    Raises:
        ValueError: nothing is trainable, a negative option, or a submodule or parameter that the model has not.
    """

    def __init__(
        self,
        model: nn.Module,
        lr_scale: float,
        *,
        lr: NonNegative,
        betas: tuple[_Decay, _Decay] = (0.9, 0.999),
        eps: NonNegative = 1e-8,
        weight_decay: NonNegative = 0.05,
        weight_decay_norm: NonNegative = 0.0,
        weight_decay_bias: NonNegative | None = None,
        weight_decay_by_name: dict[str, NonNegative] | None = None,
        lr_factors: dict[str, NonNegative] | None = None,
        layer_decay: Share | None = None,
    ):
        check_lr_scale(lr_scale)
        rules = GroupRules(
            lr * lr_scale,
            weight_decay,
            weight_decay_norm,
            weight_decay_bias,
            lr_factors=lr_factors,
            layer_decay=layer_decay,
            weight_decay_by_name=weight_decay_by_name,
        )
        groups = parameter_groups(model, rules)
        torch.optim.AdamW.__init__(self, groups, lr=rules.lr, betas=betas, eps=eps, fused=_can_fuse(groups))


def _begin_momentum(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Gives parameters that learn for the first time a running sum of nothing, which changes no step.

    Torch's fused step makes the sums when none of a group has one yet, and fails where only some have: where a part
    of the model begins to learn later than the rest.
    """
    learning = [p for g in optimizer.param_groups if g["momentum"] for p in g["params"] if p.grad is not None]
    for parameter in learning:
        if optimizer.state[parameter].get("momentum_buffer") is None:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _can_fuse(groups: list[dict[str, Any]]) -> bool | None:
    """On the CPU True: one kernel for a whole group's step takes less than half the time. None leaves it to torch.

    Torch has no such kernel for sharded weights.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    return True if all(p.device.type == "cpu" and not is_dtensor(p) for p in parameters) else None
