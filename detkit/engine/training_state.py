"""The state of a training between two steps: what a checkpoint holds besides the weights."""

import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from detkit.engine.interfaces import Hook, Training
from detkit.registry import ConfigError
from detkit.structures import Losses
from detkit.utils import distributed, rng_state
from detkit.utils.sharding import distribute_optimizer_state

logger = logging.getLogger(__name__)

_PLAIN = (int, float, bool, str, bytes, type(None))


def training_state(trainer: Training) -> dict[str, Any]:
    """Everything that the next steps of ``trainer`` depend on: tensors and plain data. All ranks must call it.

    ``ranks`` holds what differs from process to process: random states and the losses. ``data`` and ``owner`` say what
    the rest belongs to.

    Raises:
        ConfigError: a hook's state is something else, which no resume could read.
    """
    hooks: dict[str, Any] = {}
    for key, hook in named_hooks(trainer.hooks):
        with trainer.guard(hook):
            hooks[key] = hook.state_dict()
            _check_plain(hooks[key], f"train.hooks: {key}.state_dict")
    ranks = distributed.all_gather_object({"rng": rng_state(), "losses": _plain(trainer.losses)})
    return {
        "finished": trainer.finished,
        "batches": trainer.batches_seen,
        "earlier": [list(pair) for pair in trainer.earlier],
        "accumulate": trainer.training_step.accumulate,
        "data": None if trainer.data is None else dataclasses.asdict(trainer.data),
        "optimizer": _optimizer_state(trainer),
        "owner": _owner(trainer),
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
        ValueError: the state is of another optimizer, or of one over other parameters.
    """
    _restore_optimizer(trainer, state["optimizer"], state.get("owner"))
    if state["scaler"]:  # empty where there was nothing to scale, before a change to fp16
        trainer.training_step.scaler.load_state_dict(state["scaler"])
    hooks = dict(named_hooks(trainer.hooks))
    gone = [key for key, content in state["hooks"].items() if content and key not in hooks]
    if gone:
        logger.warning(
            "the checkpoint has the state of %s, which are no hooks of the run now: it is lost", ", ".join(gone)
        )
    for key in hooks.keys() & state["hooks"].keys():
        with trainer.guard(hooks[key]):
            hooks[key].load_state_dict(state["hooks"][key])
    trainer.finished = int(state["finished"])
    trainer.batches_seen = int(state["batches"])
    trainer.step = max(trainer.finished - 1, 0)
    _restore_position(trainer, state)
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
    on_device = {part: {n: v.to(trainer.device) for n, v in values.items()} for part, values in losses.items()}
    trainer.losses = Losses(**on_device)
    rng: dict[str, Any] = ranks[number]["rng"]
    return rng


def named_hooks(hooks: Sequence[Hook]) -> Iterator[tuple[str, Hook]]:
    """Hooks under their class names, numbered where one occurs again."""
    seen: dict[str, int] = {}
    for hook in hooks:
        name = type(hook).__name__
        seen[name] = seen.get(name, 0) + 1
        yield (name if seen[name] == 1 else f"{name}#{seen[name]}"), hook


def _check_plain(value: Any, place: str) -> None:
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_plain(item, f"{place}[{key!r}]")
    elif not isinstance(value, Tensor) and type(value) not in _PLAIN:
        raise ConfigError(
            f"{place}: expected tensors, numbers and texts, in dicts and lists, which a resume can read; got"
            f" {type(value).__module__}.{type(value).__qualname__}"
        )


def _plain(losses: Losses) -> dict[str, Any]:
    parts = {"terms": losses.terms, "metrics": losses.metrics}
    return {part: {name: value.detach().cpu() for name, value in values.items()} for part, values in parts.items()}


def _restore_position(trainer: Training, state: dict[str, Any]) -> None:
    """Where the stream of batches goes on: after the images that were seen, whatever batches they are in now."""
    trainer.earlier = [(int(number), int(size)) for number, size in state.get("earlier", ())]
    now, before = trainer.data, state.get("data")
    if now is None or before is None:
        if now is not None and trainer.finished:
            logger.warning("the checkpoint does not say what data and batch size it is of: both are taken to be as now")
        return
    if (now.num_images, now.identity) != (before["num_images"], before["identity"]):
        logger.warning(
            "the training data or their order (data.train_dataset, data.sampler, train.seed) are others than before:"
            " %d images, now %d. Some may be seen again and others later; weights and optimizer go on",
            *(before["num_images"], now.num_images),
        )
    batch_size = before["batch_size"]
    of_other_sizes = sum(number for number, _ in trainer.earlier)
    batches = trainer.batches_seen - of_other_sizes
    seen = sum(number * size for number, size in (*trainer.earlier, (batches, batch_size)))
    if now.batch_size != batch_size and batches:
        trainer.earlier.append((batches, batch_size))
    per_step = now.batch_size * trainer.training_step.accumulate
    per_step_before = batch_size * state["accumulate"]
    if now.epochs is not None and seen != trainer.finished * per_step:
        left = max(now.epochs * now.num_images - seen, 0)
        trainer.max_iter = trainer.finished + math.ceil(left / per_step)
    if per_step != per_step_before or now.batch_size != batch_size:
        logger.warning(
            "%d images a step (data.batch_size, solver.accumulate) before and %d now: the run goes on after the %d"
            " images that it has seen, and ends after step %d; the learning rate follows the new number of steps",
            *(per_step_before, per_step, seen, trainer.max_iter),
        )


def _optimizer_state(trainer: Training) -> dict[str, Any]:
    """The optimizer's state dict, numbers and tensors alone; ``_owner`` says what it is of."""
    state = trainer.optimizer.state_dict()
    for group in state["param_groups"]:
        group.pop("param_names", None)
    return state


def _owner(trainer: Training) -> dict[str, Any]:
    """What an optimizer's state is of: the class, and the names of the parameters in each of its groups."""
    return {"optimizer": type(trainer.optimizer).__name__, "names": _parameter_names(trainer)}


def _parameter_names(trainer: Training) -> list[list[str]]:
    """The names of each group's parameters; detkit's optimizers know them, for others the model does."""
    groups = trainer.optimizer.param_groups
    if all("param_names" in group for group in groups):
        return [list(group["param_names"]) for group in groups]
    names = {parameter: name for name, parameter in trainer.unwrapped_model.named_parameters()}
    return [[names.get(parameter, "") for parameter in group["params"]] for group in groups]


def _restore_optimizer(trainer: Training, state: dict[str, Any], owner: dict[str, Any] | None = None) -> None:
    """Gives each parameter the state of its name; the groups' options stay."""
    optimizer, owner = trainer.optimizer, owner or {}
    before = owner.get("optimizer")
    if before not in (None, type(optimizer).__name__):
        raise ValueError(
            f"The optimizer (solver.optimizer) was {before} and is {type(optimizer).__name__} now, which cannot go on"
            " with its state"
        )
    own = optimizer.state_dict()["param_groups"]
    names = [name for group in _parameter_names(trainer) for name in group]
    numbers = _saved_numbers(names, own, state["param_groups"], owner.get("names"))
    places = {number: place for place, number in enumerate(numbers)}
    values = {places[number]: entry for number, entry in state["state"].items() if number in places}
    optimizer.load_state_dict(distribute_optimizer_state({"state": values, "param_groups": own}, optimizer))


def _saved_numbers(
    names: Sequence[str],
    own: Sequence[Mapping[str, Any]],
    saved: Sequence[Mapping[str, Any]],
    saved_names: Sequence[Sequence[str]] | None,
) -> list[int]:
    """The number that each of our parameters has in a saved state.

    By its name where all have one there, else by its place, in groups of the same sizes.

    Args:
        names: of our parameters, in order.
        own, saved: the ``param_groups`` of our state dict and of the saved one.
        saved_names: of the parameters of each saved group; None: the groups themselves may have them.
    """
    numbers = [number for group in saved for number in group["params"]]
    groups = saved_names or [group.get("param_names", ()) for group in saved]
    theirs = [name for group in groups for name in group]
    if len(set(theirs)) == len(numbers) and "" not in theirs:
        if set(names) != set(theirs):
            raise _other_parameters(f"{min(set(names) ^ set(theirs))} is on one side only")
        by_name = dict(zip(theirs, numbers))
        return [by_name[name] for name in names]
    if [len(group["params"]) for group in own] != [len(group["params"]) for group in saved]:
        raise _other_parameters("there are more or fewer in a group")
    return numbers


def _other_parameters(words: str) -> ValueError:
    return ValueError(
        f"the optimizer's state is of other parameters ({words}): what is frozen, the parameter groups or the model"
        " have changed since it was written"
    )
