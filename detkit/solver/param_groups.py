"""Parameter groups: which rate and which weight decay a parameter gets."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from detkit.layers import Norm
from detkit.solver.interfaces import Layered

_NORMS = (Norm, _NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)  # _NormBase: all batch and instance norms


@dataclasses.dataclass(frozen=True)
class GroupRules:
    """Which learning rate and weight decay each parameter has.

    Args:
        lr: the base rate, already scaled.
        weight_decay: for everything that has no rule of its own.
        weight_decay_norm: for the parameters of normalisation layers, their biases included.
        weight_decay_bias: for all other biases; None: as ``weight_decay``.
        bias_lr_factor: factor on the rate of biases (not those of normalisation layers).
        lr_factors: dotted name of a submodule -> factor on the rate of all its parameters. The longest name wins.
        layer_decay: factor on the rate for each layer that lies between a layer of the backbone and its end, the last
            layer counted as one: what comes after the backbone has the full rate, its last layer ``layer_decay`` times
            that, the one before ``layer_decay ** 2`` times (Clark et al. 2020, ELECTRA). None: one rate for all.
        weight_decay_by_name: last word of a parameter's name -> its decay, whatever the rules above say.

    Raises:
        ValueError: a number that is negative or not finite, or a ``layer_decay`` that is not above 0 and at most 1.
    """

    lr: float
    weight_decay: float
    weight_decay_norm: float = 0.0
    weight_decay_bias: float | None = None
    bias_lr_factor: float = 1.0
    lr_factors: Mapping[str, float] | None = None
    layer_decay: float | None = None
    weight_decay_by_name: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                raise ValueError(f"{field.name}: expected a finite number of at least 0, got {value}")
        for option in ("lr_factors", "weight_decay_by_name"):
            for name, number in (getattr(self, option) or {}).items():
                if not 0 <= number < math.inf:
                    raise ValueError(f"{option}: expected a finite number of at least 0 for '{name}', got {number}")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay: expected a factor above 0 and at most 1, got {self.layer_decay}")


def parameter_groups(model: nn.Module, rules: GroupRules) -> list[dict[str, Any]]:
    """The trainable parameters of ``model`` as groups for a torch optimizer.

    Parameters with the same rate and decay share one group, so that torch's multi-tensor kernels see long lists.
    Frozen parameters are left out and a shared one counts once, where it is first met. Each group has ``params``,
    ``param_names``, ``lr``, ``initial_lr`` (the base rate that the schedule multiplies) and ``weight_decay``; the group
    with the most weights comes first, and its rate is the one that is logged. By its names a checkpoint's state finds
    its parameters again.

    Raises:
        ValueError: nothing is trainable, ``lr_factors`` names a submodule or ``weight_decay_by_name`` a parameter that
            the model has not, or there is a ``layer_decay`` and no part of the model has layers.
    """
    own_decays = _decays_by_name(model, rules.weight_decay_by_name or {})
    factors = _factors_by_module(model, rules.lr_factors or {})
    decays = {} if rules.layer_decay is None else _layer_factors(model, rules.layer_decay)
    groups: dict[tuple[float, float], dict[str, nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            lr, decay = rules.lr * _factor(module_name, factors) * decays.get(parameter, 1.0), rules.weight_decay
            if isinstance(module, _NORMS):
                decay = rules.weight_decay_norm
            elif name.endswith("bias"):  # also in_proj_bias of attention
                lr *= rules.bias_lr_factor
                decay = decay if rules.weight_decay_bias is None else rules.weight_decay_bias
            decay = own_decays.get(name, decay)
            groups.setdefault((lr, decay), {})[f"{module_name}.{name}" if module_name else name] = parameter
    if not groups:
        raise ValueError(
            f"{type(model).__name__} has no trainable parameter; lower freeze_at, or set requires_grad of what is to"
            " be trained"
        )
    by_size = sorted(groups.items(), key=lambda item: -sum(p.numel() for p in item[1].values()))
    return [
        {"params": [*named.values()], "param_names": [*named], "lr": lr, "initial_lr": lr, "weight_decay": decay}
        for (lr, decay), named in by_size
    ]


def _factors_by_module(model: nn.Module, factors: Mapping[str, float]) -> Mapping[str, float]:
    unknown = factors.keys() - dict(model.named_modules()).keys()
    if unknown:
        children = ", ".join(name for name, _ in model.named_children()) or "none"
        raise ValueError(f"lr_factors: the model has no submodule '{min(unknown)}'; its children are {children}")
    return factors


def _decays_by_name(model: nn.Module, decays: Mapping[str, float]) -> Mapping[str, float]:
    unknown = decays.keys() - {name.rpartition(".")[2] for name, _ in model.named_parameters()}
    if unknown:
        raise ValueError(f"weight_decay_by_name: no parameter of the model is called '{min(unknown)}'")
    return decays


def _layer_factors(model: nn.Module, layer_decay: float) -> dict[nn.Parameter, float]:
    """The factors of all parameters that lie in layers."""
    factors: dict[nn.Parameter, float] = {}
    for part in model.modules():
        if not isinstance(part, Layered):
            continue
        layers, added = part.layers(), part.added_layers()
        for name, parameter in part.named_parameters():
            covering = (i for i, names in enumerate(layers) if _lies_in(name, names))
            layer = len(layers) if _lies_in(name, added) else next(covering, 0)
            factors[parameter] = layer_decay ** (len(layers) - layer)
    if not factors:
        raise ValueError(f"layer_decay: no part of {type(model).__name__} has layers; a backbone has")
    return factors


def _lies_in(name: str, parts: Sequence[str]) -> bool:
    """Whether a parameter is one of these or belongs to one."""
    return any(f"{name}.".startswith(f"{part}.") for part in parts)


def _factor(module_name: str, factors: Mapping[str, float]) -> float:
    """The factor of the innermost named module that holds ``module_name``."""
    holders = [name for name in factors if f"{module_name}.".startswith(f"{name}." if name else "")]
    return factors[max(holders, key=len)] if holders else 1.0


def check_lr_scale(lr_scale: float) -> None:
    """Raises ValueError unless the scale of the rate is a positive number."""
    if not lr_scale > 0 or not torch.isfinite(torch.tensor(lr_scale)):
        raise ValueError(f"lr_scale: expected a positive factor (batch size over lr_batch_size), got {lr_scale}")
