"""Running the batch of a failed step again: what it gives, and which module is the first to give what is not finite."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detkit.engine.failures.suspects import (
    Forward,
    batch_names,
    find_suspects,
    image_name,
    is_not_finite,
    not_finite,
    set_buffers,
    target_problems,
)
from detkit.structures import Instances, Sample
from detkit.utils import set_rng_state

LOSS = "the loss itself (no module's output before it)"


@dataclasses.dataclass
class BatchReplay:
    """What one batch gave when it was run again.

    Args:
        names: its files and annotations.
        values: loss terms and metrics.
        finite: whether the loss is.
        first_output: the innermost module whose output is the first that is not finite; ``LOSS``: none is, and the
            loss is not finite all the same; None: everything is finite.
        first_gradient: the module at whose output the first gradient that is not finite arrives, coming from the loss.
        bad_parameters: parameters whose gradient is not finite.
        images: of each image alone: its name, and its loss terms or the error that it led to.
        suspects: what is known of images and annotations, a sentence each.
    """

    names: str
    values: dict[str, float]
    finite: bool
    first_output: str | None = None
    first_gradient: str | None = None
    bad_parameters: list[str] = dataclasses.field(default_factory=list)
    images: list[tuple[str, dict[str, float] | str]] = dataclasses.field(default_factory=list)
    suspects: list[str] = dataclasses.field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether the loss or a parameter's gradient is not finite."""
        return not self.finite or bool(self.bad_parameters)


def prepare(model: nn.Module, failure: Mapping[str, Any]) -> None:
    """Puts modules and threads into the state in which the step failed: what is frozen, what is not in training."""
    model.train()
    for name, module in model.named_modules():
        module.training = name not in set(failure["not_training"])
    frozen = set(failure["frozen"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    torch.set_num_threads(failure["num_threads"])


def replay(
    forward: Forward, model: nn.Module, batches: Sequence[tuple[list[Sample], dict[str, Any]]]
) -> list[BatchReplay]:
    """Runs the batches of a step in order, each from its own random state, forward and backward; of a batch that fails
    also each image alone, and searches for annotations.

    Args:
        forward: how a step computes losses (``TrainingStep.losses``).
        model: with the weights of the failure, see ``prepare``; its running statistics go on, its weights do not.
        batches: see ``FailedStep``.
    """
    results = []
    for samples, rng in batches:
        before = _buffers(model)
        result = _run(forward, model, samples, rng)
        result.suspects = target_problems(samples, getattr(model, "num_classes", None))
        if result.failed:
            after = _buffers(model)
            set_buffers(model, before)
            result.images = [(image_name(s), _alone(forward, model, s, rng)) for s in samples]
            set_buffers(model, before)
            in_loss = not result.finite
            fails = functools.partial(is_not_finite, forward=forward, model=model, rng=rng, in_loss=in_loss)
            result.suspects += find_suspects(fails, samples)
            set_buffers(model, after)
        results.append(result)
    return results


def _run(forward: Forward, model: nn.Module, samples: list[Sample], rng: dict[str, Any]) -> BatchReplay:
    set_rng_state(rng)
    model.zero_grad(set_to_none=True)
    with _watching(model) as first:
        losses = forward(samples, model)
        total = losses.total()
        if total.requires_grad:
            total.backward()  # type: ignore[no-untyped-call]
    bad = not_finite((name, p.grad) for name, p in model.named_parameters())
    model.zero_grad(set_to_none=True)
    finite = math.isfinite(total.item())
    output = first.get("output") or (None if finite else LOSS)
    return BatchReplay(batch_names(samples), losses.values(), finite, output, first.get("gradient"), bad)


def same_values(ours: Mapping[str, float], theirs: Mapping[str, float]) -> bool:
    """Whether they are the same numbers to the last bit; a NaN is as good as any other."""
    return ours.keys() == theirs.keys() and all(
        a == theirs[name] or (math.isnan(a) and math.isnan(theirs[name])) for name, a in ours.items()
    )


def _alone(forward: Forward, model: nn.Module, sample: Sample, rng: dict[str, Any]) -> dict[str, float] | str:
    set_rng_state(rng)
    try:
        with torch.no_grad():
            return {name: float(value) for name, value in forward([sample], model).terms.items()}
    except Exception as error:  # a batch norm, say, that needs more than one value
        return f"{type(error).__name__}: {error}"


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@contextlib.contextmanager
def _watching(model: nn.Module) -> Iterator[dict[str, str]]:
    """Gathers the first module whose ``output``, and at whose output the first ``gradient``, is not finite."""
    first: dict[str, str] = {}

    def look_at_output(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Checks what a module of this name gave, and later the gradient there."""
        if not _finite(output):
            first.setdefault("output", f"{name}, from inputs that are {'' if _finite(inputs) else 'not '}finite")
        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(functools.partial(look_at_gradient, name))

    def look_at_gradient(name: str, gradient: Tensor) -> None:
        """Checks the gradient at the output of a module of this name."""
        if not _finite(gradient):
            first.setdefault("gradient", name)

    with contextlib.ExitStack() as hooks:
        for name, module in model.named_modules():
            if name:  # a hook on the model itself would see the loss
                look = functools.partial(look_at_output, f"{name} ({type(module).__name__})")
                hooks.enter_context(module.register_forward_hook(look))
        yield first


def _finite(value: Any) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in nested outputs; of losses none, which are looked at by themselves."""
    if isinstance(value, Tensor) and value.is_floating_point():
        yield value
    elif isinstance(value, Instances):
        yield from _tensors(dict(value.fields))
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
