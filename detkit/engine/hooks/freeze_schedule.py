"""Which parts of a model learn in which part of a run."""

import bisect
import dataclasses
import itertools
import logging
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from detkit.config import Share
from detkit.engine.interfaces import HOOKS, Hook, Training
from detkit.registry import ConfigError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class FreezeStage:
    """A part of the run.

    Args:
        until: where it ends, as a fraction of the run; the last stage ends at 1.
        train: dotted names of the submodules (or parameters) that learn, with all that is in them; or ``all``.

    Raises:
        ValueError: nothing learns.
    """

    until: Share
    train: tuple[str, ...] | Literal["all"] = "all"

    def __post_init__(self) -> None:
        if not self.train or (isinstance(self.train, str) and self.train != "all"):
            raise ValueError(f"train: expected names of what learns in the stage, or all; got {self.train!r}")

    def holds(self, name: str) -> bool:
        """Whether the module or parameter ``name`` learns in this stage."""
        return self.train == "all" or any(f"{name}.".startswith(f"{prefix}.") for prefix in self.train)


@HOOKS.register()
class FreezeSchedule(Hook):
    """Trains parts of the model by turns, such as the heads first and the backbone later.

    What does not learn stands still to the last bit: it has no gradient, so neither momentum nor weight decay move
    it, and its batch norms stay in evaluation mode, so their statistics do not change. A stage depends on the step
    alone, so a resumed run is in the stage that it would be in. The stage after ``until`` begins at the same step as
    the rate after a milestone of ``WarmupMultiStepLR`` at that fraction.

    The optimizer must be built over everything that learns in any stage: let the model freeze nothing of that
    itself (``freeze_at: 0``). In several processes ``train.parallel.find_unused_parameters`` must be true.

    Args:
        stages: the parts of the run, in order.

    Raises:
        ValueError: no stage, stages that are not in order, or a last one that does not end at 1.
        ConfigError: (as training begins) a name that the model has not, or a parameter that should learn and that
            the model or the optimizer keeps from it.
    """

    def __init__(self, *, stages: tuple[FreezeStage, ...]):
        super().__init__()
        ends = [stage.until for stage in stages]
        if not ends or ends[-1] != 1 or any(b <= a for a, b in itertools.pairwise(ends)):
            raise ValueError(f"FreezeSchedule.stages: expected increasing 'until', the last one 1, got {ends}")
        self.stages = tuple(stages)
        self._stage: FreezeStage | None = None
        self._before: dict[nn.Parameter, bool] = {}
        self._still: list[nn.Module] = []  # batch norms of what does not learn

    def stage_at(self, step: int, max_iter: int) -> FreezeStage:
        """The stage of the step numbered ``step`` (0-based)."""
        ends = [round(stage.until * max_iter) for stage in self.stages]
        return self.stages[bisect.bisect_right(ends, step)]

    def before_train(self, trainer: Training) -> None:
        for stage in self.stages:
            _check_names(trainer.unwrapped_model, stage)
        _check_learners(trainer, self.stages)
        self._before = {parameter: parameter.requires_grad for parameter in trainer.unwrapped_model.parameters()}
        self._stage = None

    def before_step(self, trainer: Training) -> None:
        stage = self.stage_at(trainer.step, trainer.max_iter)
        if stage is not self._stage:
            self._begin(stage, trainer)
        for norm in self._still:  # in each step, as an evaluation has set the model to training mode again
            norm.eval()

    def after_train(self, trainer: Training) -> None:
        for parameter, learned in self._before.items():
            parameter.requires_grad_(learned)
        for norm in self._still:
            norm.train(trainer.model.training)
        self._before, self._still, self._stage = {}, [], None

    def _begin(self, stage: FreezeStage, trainer: Training) -> None:
        model = trainer.unwrapped_model
        for norm in self._still:
            norm.train()
        self._stage, self._still = stage, []
        learning = _learners(model, stage)
        for parameter in self._before:
            parameter.requires_grad_(parameter in learning)
            if parameter not in learning:
                parameter.grad = None
        for name, module in model.named_modules():
            if isinstance(module, _NormBase) and not stage.holds(name) and learning.isdisjoint(module.parameters()):
                self._still.append(module)
        logger.info(
            "step %d: stage %d of %d begins: %s of %s parameters learn: %s",
            *(trainer.step, self.stages.index(stage) + 1, len(self.stages)),
            *(f"{sum(p.numel() for p in group):,}" for group in (learning, self._before)),
            stage.train if isinstance(stage.train, str) else ", ".join(stage.train),
        )


def _learners(model: nn.Module, stage: FreezeStage) -> set[nn.Parameter]:
    """What learns; a parameter with two names does where either is named."""
    return {p for name, p in model.named_parameters(remove_duplicate=False) if stage.holds(name)}


def _check_names(model: nn.Module, stage: FreezeStage) -> None:
    modules = dict(model.named_modules())
    known = modules.keys() | dict(model.named_parameters()).keys()
    for name in () if isinstance(stage.train, str) else stage.train:
        if name in known and name:  # "" is the model itself
            continue
        holder = name
        while holder not in known:
            holder = holder.rpartition(".")[0]
        inside = modules[holder].named_children() if holder in modules else ()
        children = ", ".join(f"{holder}.{child}".lstrip(".") for child, _ in inside)
        raise ConfigError(
            f"train.hooks: FreezeSchedule: the model has no submodule or parameter '{name}'; "
            f"there are {children or 'none'}"
        )


def _check_learners(trainer: Training, stages: tuple[FreezeStage, ...]) -> None:
    model, wrapper = trainer.unwrapped_model, trainer.model
    learning = {parameter for stage in stages for parameter in _learners(model, stage)}
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter in learning]
    optimized = {parameter for group in trainer.optimizer.param_groups for parameter in group["params"]}
    for words, bad in (
        ("were frozen when the model was built", [name for name, p in named if not p.requires_grad]),
        ("are not the optimizer's", [name for name, p in named if p not in optimized]),
    ):
        if bad:
            raise ConfigError(
                f"train.hooks: FreezeSchedule: {len(bad)} parameters are to learn in some stage and {words}: "
                f"{', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''}. "
                "Build the model with nothing frozen (backbone.freeze_at: 0)"
            )
    if isinstance(wrapper, nn.parallel.DistributedDataParallel) and not wrapper.find_unused_parameters:
        raise ConfigError("train.hooks: FreezeSchedule needs train.parallel.find_unused_parameters=true")
