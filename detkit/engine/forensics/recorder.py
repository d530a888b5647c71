"""The recorder of a run: keeps what a step began with, so that a failure can be written down and looked into."""

import contextlib
import dataclasses
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import detkit
from detkit.engine.forensics.failure_files import CONFIG, free_folder, write_batches, write_state, write_words
from detkit.engine.forensics.out_of_memory import out_of_memory
from detkit.engine.forensics.suspects import batch_names, find_culprits, target_faults
from detkit.layers import SyncBN
from detkit.structures import Losses, Sample
from detkit.utils import distributed, rng_state, set_rng_state
from detkit.utils.sharding import is_sharded, own_part, whole

logger = logging.getLogger(__name__)

Forward = Callable[[nn.Module, list[Sample]], Losses]
"""The losses of a batch (on the host) by a model in training mode, as a training step computes them."""

MAX_KEPT = 20
"""Steps whose batches are kept on a device that is not waited for; then their losses are looked at."""


@dataclasses.dataclass
class _Step:
    """A step as it began: its number, and of each batch read so far the samples and the random state before it."""

    number: int
    batches: list[tuple[list[Sample], dict[str, Any]]] = dataclasses.field(default_factory=list)

    @property
    def samples(self) -> list[Sample]:
        """The samples of all its batches."""
        return [sample for samples, _ in self.batches for sample in samples]


class Recorder:
    """Keeps what steps began with and ends the run at the first loss or gradient that is not finite.

    On the CPU each loss is looked at before its backward pass, and the gradients before the update: what is written
    then is the state before the step. A GPU would have to be waited for; there the losses of a window of steps are
    looked at together, at the log period or after ``MAX_KEPT`` steps. The batch and the random state are then still
    those of the step that failed, the weights and the optimizer are not, and the message says so.

    With several processes all stop at the same step, and each writes its batch.

    Args:
        model: the training's, wrapped or not.
        optimizer: the training's.
        forward: how a step computes losses.
        device: where the model is.
        output_dir: failures are written to ``failure_step_<n>`` in it; None: nothing is written.

    Attributes:
        at_once: whether losses are looked at before anything else happens (the CPU).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        forward: Forward,
        device: torch.device,
        output_dir: Path | None,
    ):
        self.model, self.optimizer, self.forward, self.output_dir = model, optimizer, forward, output_dir
        self.at_once = device.type == "cpu"
        self._steps: list[_Step] = []
        self._buffers: dict[str, Tensor] = {}

    @property
    def is_full(self) -> bool:
        """Whether losses ought to be looked at now, because enough batches wait for it."""
        return len(self._steps) >= MAX_KEPT

    def begin_step(self, number: int) -> None:
        """A step begins: remembers the buffers, such as the statistics of batch norms, which forward passes change."""
        if self.at_once:
            self._steps.clear()
            self._remember_buffers()
        self._steps.append(_Step(number))

    def begin_batch(self, samples: list[Sample]) -> None:
        """A batch is about to go through the model."""
        self._steps[-1].batches.append((samples, rng_state()))

    @contextlib.contextmanager
    def naming(self, batch: list[Sample]) -> Iterator[None]:
        """Says of an error in this context which batch it came with.

        Raises:
            OutOfMemory: from an error of that kind; it says what to lower.
        """
        try:
            yield
        except FloatingPointError:
            raise  # has said it
        except Exception as error:
            step = self._steps[-1].number
            words = f"step {step} failed on the batch {batch_names(batch)}"
            logger.error("%s", words)
            explained = out_of_memory(error, step, batch, self.model, self.output_dir)
            if explained is not None:
                raise explained from error
            if sys.version_info >= (3, 11):
                error.add_note(words)
            raise

    def check_loss(self, losses: Losses) -> None:
        """On the CPU, after a forward pass. All processes must call it. Raises FloatingPointError."""
        if not self.at_once:
            return
        bad = not math.isfinite(losses.total().item())
        if distributed.any_process(bad):
            step = self._steps[-1]
            figures = {name: float(value.detach()) for name, value in {**losses.terms, **losses.metrics}.items()}
            self._fail(step, figures if bad else None, len(step.batches) - 1)

    def check_gradients(self, norm: Tensor) -> None:
        """On the CPU, before an update; ``norm`` is the gradients' norm, the same on all processes, before clipping.

        Raises FloatingPointError."""
        if not self.at_once:
            return
        if not math.isfinite(whole(norm).item()):  # of weights in parts it is a sum over processes
            self._fail(self._steps[-1], {}, None)

    def judge(self, found: "tuple[int, Mapping[str, float]] | None") -> None:
        """Takes the first step (number, figures) of a window whose loss was not finite, or None.

        All processes must call it after the same step. Raises FloatingPointError.
        """
        if self.at_once and found is None:
            return  # each step has been looked at
        numbers = distributed.all_gather_object(None if found is None else found[0])
        first = min((number for number in numbers if number is not None), default=None)
        if first is None:
            self._steps.clear()
            return
        step = next((s for s in self._steps if s.number == first), _Step(first))
        self._fail(step, found[1] if found is not None and found[0] == first else None, None, late=True)

    def _fail(self, step: _Step, figures: Mapping[str, float] | None, batch: int | None, late: bool = False) -> None:
        """Ends the run. ``figures`` of this process's loss; none: its gradients; None: another process has failed.

        The order is by what could be lost: state and batches are written before anything is tried.
        """
        samples = step.samples if batch is None else step.batches[batch][0]
        what = "" if figures is None else _what(figures, self.model)
        words = [f"step {step.number}: {what}. The batch: {batch_names(samples)}"] if figures is not None else []
        if batch:
            words[1:] = [f"It is batch {batch + 1} of the step's"]
        folder, trouble = self._write(step, figures, batch, late)
        if figures is not None:
            words += self._blame(samples, step, bool(figures), batch, late)
        every = distributed.all_gather_object(". ".join(words))
        told = [f"process {r}: {w}" if len(every) > 1 else w for r, w in enumerate(every) if w]
        message = ". ".join([*told, trouble or _where(folder, late)]) + _ADVICE
        if folder is not None and not trouble and distributed.is_main():
            write_words(folder, message)
        raise FloatingPointError(message)

    def _write(
        self, step: _Step, figures: Mapping[str, float] | None, batch: int | None, late: bool
    ) -> tuple[Path | None, str]:
        """The folder, if there is one to write to, and what went wrong with it."""
        if self.output_dir is None:
            return None, ""
        folder = distributed.all_gather_object(free_folder(self.output_dir, step.number))[0]
        failed = distributed.all_gather_object(figures is not None)
        ranks = [number for number, flag in enumerate(failed) if flag]
        about: dict[str, Any] = {"step": step.number, "late": late, "ranks": ranks}
        state = whole(self._state(about))
        try:
            write_batches(folder, distributed.rank(), step.batches, batch, figures or {})
            if distributed.is_main():
                write_state(folder, state, self.output_dir / CONFIG)
        except Exception as error:  # a full disk must not hide why training ended
            logger.exception("%s could not be written", folder)
            return folder, f"What it began with could not be written to {folder} ({error})"
        return folder, ""

    def _state(self, about: Mapping[str, Any]) -> dict[str, Any]:
        model = distributed.unwrap(self.model)
        weights = {name: self._buffers.get(name, value) for name, value in model.state_dict().items()}
        names = getattr(model, "class_names", None)
        failure = {
            **about,
            "frozen": [name for name, parameter in model.named_parameters() if not parameter.requires_grad],
            "not_training": [name for name, module in model.named_modules() if not module.training],
            "num_threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "world_size": distributed.world_size(),
        }
        return {
            "model": weights,
            "class_names": None if names is None else [str(name) for name in names],
            "config": None,
            "detkit_version": detkit.__version__,
            "optimizer": self.optimizer.state_dict(),
            "failure": failure,
        }

    def _blame(self, samples: Sequence[Sample], step: _Step, in_loss: bool, batch: int | None, late: bool) -> list[str]:
        """What can be told of the culprit, a sentence each."""
        model = distributed.unwrap(self.model)
        found = target_faults(samples, getattr(model, "num_classes", None))
        broken = [name for name, p in model.named_parameters() if not torch.isfinite(own_part(p)).all()]
        if broken:
            since = " by now" if late else ", so an earlier step has spoilt them"
            found.append(f"{len(broken)} parameters are not finite{since} (the first: {broken[0]})")
        needs_others = is_sharded(model) or any(isinstance(m, SyncBN) for m in model.modules())
        if broken or late or needs_others:
            return found  # nothing to try: with these weights, or without the other processes
        logger.info("step %d failed; looking for the image and the annotation", step.number)
        rng = step.batches[batch or 0][1]
        try:
            return found + find_culprits(lambda part: fails(self.forward, model, part, rng, in_loss), samples)
        except Exception:  # parts of a batch are no batches that anybody has promised to train on
            logger.debug("the search for the annotation ended", exc_info=True)
            return found
        finally:
            self._restore_buffers()

    def _remember_buffers(self) -> None:
        buffers = dict(distributed.unwrap(self.model).named_buffers())
        if self._buffers.keys() != buffers.keys():
            self._buffers = {name: buffer.detach().clone() for name, buffer in buffers.items()}
        elif buffers:
            with torch.no_grad():
                torch._foreach_copy_(list(self._buffers.values()), list(buffers.values()))

    def _restore_buffers(self) -> None:
        with torch.no_grad():
            for name, buffer in distributed.unwrap(self.model).named_buffers():
                if name in self._buffers:
                    buffer.copy_(self._buffers[name])


_ADVICE = ". If the annotations are right, lower the learning rate, lengthen the warm-up or set solver.clip_grad_norm"


def _what(figures: Mapping[str, float], model: nn.Module) -> str:
    if figures:
        bad = [f"{n} = {v}" for n, v in figures.items() if not math.isfinite(v) and n != "total_loss"]
        return f"the loss is not finite ({', '.join(bad) or 'the sum of its terms overflows'})"
    named = list(distributed.unwrap(model).named_parameters())
    bad = [name for name, p in named if p.grad is not None and not torch.isfinite(own_part(p.grad)).all()]
    which = f"of {len(bad)} of {len(named)} parameters, the first is {bad[0]}" if bad else "their norm overflows"
    return f"the loss is finite and its gradients are not ({which})"


def _where(folder: Path | None, late: bool) -> str:
    if folder is None:
        return "Nothing was written, because the run has no folder"
    held = "The batch and the state before the step"
    if late:
        held = (
            "The batch, and the weights and the optimizer as they are now, after later steps (a GPU is not waited for;"
            " the last checkpoint has sound ones),"
        )
    return f"{held} are in {folder}; python tools/replay_batch.py {folder} runs it again"


def fails(forward: Forward, model: nn.Module, samples: list[Sample], rng: dict[str, Any], in_loss: bool) -> bool:
    """Whether the loss of these samples (``in_loss``), or else a gradient of it, is not finite, from a random state."""
    set_rng_state(rng)
    with torch.set_grad_enabled(not in_loss):
        total = forward(model, samples).total()
    if in_loss or not total.requires_grad:
        return not math.isfinite(total.item())
    model.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return not all(torch.isfinite(gradient).all() for gradient in gradients)
