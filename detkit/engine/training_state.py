"""The state of a training between two steps: what a checkpoint holds besides the weights."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from detkit.engine.interfaces import Hook, Training
from detkit.structures import Losses
from detkit.utils import distributed, rng_state
from detkit.utils.sharding import distribute_optimizer_state

logger = logging.getLogger(__name__)


def training_state(trainer: Training) -> dict[str, Any]:
    """Everything that the next steps of ``trainer`` depend on: tensors and plain data. All ranks must call it.

    ``ranks`` holds what differs from process to process: random states and the losses.
    """
    hooks: dict[str, Any] = {}
    for key, hook in named_hooks(trainer.hooks):
        with trainer.guard(hook):
            hooks[key] = hook.state_dict()
    ranks = distributed.all_gather_object({"rng": rng_state(), "losses": _plain(trainer.losses)})
    return {
        "finished": trainer.finished,
        "batches": trainer.batches_seen,
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.training_step.scaler.state_dict(),
        "hooks": hooks,
        "metrics": trainer.metrics.state_dict(),
        "pending": list(trainer.pending),
        "ranks": ranks,
    }


def restore(trainer: Training, state: dict[str, Any]) -> dict[str, Any] | None:
    """Puts ``trainer`` where ``state`` was written. Rates, decays and other options stay those of its optimizer.

    Returns:
        The random state that training goes on with; None where this process had no part in the run before.

    Raises:
        ValueError: the state is of an optimizer over other parameters.
    """
    _restore_optimizer(trainer, state["optimizer"])
    if state["scaler"]:  # empty where there was nothing to scale, before a change to fp16
        trainer.training_step.scaler.load_state_dict(state["scaler"])
    hooks = dict(named_hooks(trainer.hooks))
    for key in hooks.keys() & state["hooks"].keys():
        with trainer.guard(hooks[key]):
            hooks[key].load_state_dict(state["hooks"][key])
    trainer.finished = int(state["finished"])
    trainer.batches_seen = int(state["batches"])
    trainer.step = max(trainer.finished - 1, 0)
    trainer.pending = [key for key in state["pending"] if key in hooks]
    trainer.metrics.load_state_dict(state["metrics"])
    number, ranks = distributed.rank(), state["ranks"]
    if len(ranks) != distributed.world_size():
        logger.warning(
            "the run had %d processes before and has %d now: random numbers differ from here",
            *(len(ranks), distributed.world_size()),
        )
    if number >= len(ranks):
        return None
    losses = ranks[number]["losses"]
    trainer.losses = Losses(*({name: v.to(trainer.device) for name, v in losses[part].items()} for part in losses))
    rng: dict[str, Any] = ranks[number]["rng"]
    return rng


def named_hooks(hooks: Sequence[Hook]) -> Iterator[tuple[str, Hook]]:
    """Hooks under their class names, numbered where one occurs again."""
    seen: dict[str, int] = {}
    for hook in hooks:
        name = type(hook).__name__
        seen[name] = seen.get(name, 0) + 1
        yield (name if seen[name] == 1 else f"{name}#{seen[name]}"), hook


def _plain(losses: Losses) -> dict[str, Any]:
    parts = {"terms": losses.terms, "metrics": losses.metrics}
    return {part: {name: value.detach().cpu() for name, value in values.items()} for part, values in parts.items()}


def _restore_optimizer(trainer: Training, state: dict[str, Any]) -> None:
    groups = trainer.optimizer.param_groups
    options = [{k: v for k, v in group.items() if k != "params"} for group in groups]
    try:
        trainer.optimizer.load_state_dict(distribute_optimizer_state(state, trainer.optimizer))
    except ValueError as error:
        raise ValueError(
            f"the optimizer's state is of other parameters ({error}): what is frozen, the parameter groups or the"
            " model have changed since it was written"
        ) from error
    for group, option in zip(trainer.optimizer.param_groups, options):
        group.update(option)
