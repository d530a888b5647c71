"""Running the batch of a failed step again: what it gives, and which module is the first to give what is not finite."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detkit.engine.failures.suspects import (
    Forward,
    batch_names,
    find_suspects,
    image_name,
    is_not_finite,
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
    forward: Forward, model: nn.Module, batches: Sequence[tuple[list[Sample], dict[str, Any]]], look_closer: bool = True
) -> list[BatchReplay]:
    """Runs the batches of a step in order, each from its own random state, forward and backward.

    Args:
        forward: how a step computes losses (``TrainingStep.losses``).
        model: with the weights of the failure, see ``prepare``; its running statistics go on, its weights do not.
        batches: see ``read_batches``.
        look_closer: also runs each image of a batch that fails alone, and searches for annotations.
    """
    results = []
    for samples, rng in batches:
        buffers = [buffer.clone() for buffer in model.buffers()]
        result = _run(forward, model, samples, rng)
        result.suspects = target_problems(samples, getattr(model, "num_classes", None))
        if look_closer and result.failed:
            after = [buffer.clone() for buffer in model.buffers()]
            in_loss = not result.finite
            _set_buffers(model, buffers)
            result.images = [(image_name(s), _alone(forward, model, s, rng)) for s in samples]
            _set_buffers(model, buffers)
            result.suspects += find_suspects(lambda part: is_not_finite(forward, model, part, rng, in_loss), samples)  # noqa: B023
            _set_buffers(model, after)
        results.append(result)
    return results


def _run(forward: Forward, model: nn.Module, samples: list[Sample], rng: dict[str, Any]) -> BatchReplay:
    set_rng_state(rng)
    model.zero_grad(set_to_none=True)
    with _watching(model) as watch:
        losses = forward(samples, model)
        total = losses.total()
        if total.requires_grad:
            total.backward()  # type: ignore[no-untyped-call]
    bad = [n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    model.zero_grad(set_to_none=True)
    finite = math.isfinite(total.item())
    output = watch.output or (None if finite else LOSS)
    return BatchReplay(batch_names(samples), losses.values(), finite, output, watch.gradient, bad)


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


def _set_buffers(model: nn.Module, values: Iterable[Tensor]) -> None:
    with torch.no_grad():
        for buffer, value in zip(model.buffers(), values):
            buffer.copy_(value)


@dataclasses.dataclass
class _Watch:
    """The first module whose output, and at whose output the first gradient, is not finite."""

    output: str | None = None
    gradient: str | None = None

    def saw_output(self, name: str, inputs: Any, output: Any) -> None:
        """Looks at what a module of this name gave, and later at the gradient there."""
        if self.output is None and not _finite(output):
            self.output = f"{name}, from inputs that are {'' if _finite(inputs) else 'not '}finite"
        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(self._gradient_hook(name))

    def _gradient_hook(self, name: str) -> Callable[[Tensor], None]:
        def look(gradient: Tensor) -> None:
            """Notes the name if this gradient is the first that is not finite."""
            if self.gradient is None and not torch.isfinite(gradient).all():
                self.gradient = name

        return look


@contextlib.contextmanager
def _watching(model: nn.Module) -> Iterator[_Watch]:
    watch = _Watch()

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], None]:
        """The forward hook of the module of this name."""
        return lambda module, inputs, output: watch.saw_output(name, inputs, output)

    handles = [
        module.register_forward_hook(hook_of(f"{name} ({type(module).__name__})"))
        for name, module in model.named_modules()
        if name  # a hook on the model itself would see the loss
    ]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def _finite(value: Any) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in nested outputs; of losses none, which are looked at by themselves."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Instances):
        yield from _tensors(dict(value.fields))
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
