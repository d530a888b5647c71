"""The failure recorder: a context around each training step, which writes down what a failed step began with."""

import contextlib
import functools
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import detkit
from detkit.engine.failures.files import CONFIG, FailedStep, free_folder, write_batches, write_state
from detkit.engine.failures.out_of_memory import out_of_memory
from detkit.engine.failures.suspects import (
    batch_names,
    find_suspects,
    is_not_finite,
    not_finite,
    set_buffers,
    target_problems,
)
from detkit.engine.step import NonFinite, TrainingStep
from detkit.layers import SyncBN
from detkit.utils import atomic_write, distributed
from detkit.utils.run_folder import run_file
from detkit.utils.sharding import full_tensors, is_sharded

logger = logging.getLogger(__name__)

MAX_KEPT = 20
"""Steps whose batches are kept on a GPU; then their losses are checked, which synchronises the device."""

_ADVICE = ". If the annotations are right, lower the learning rate, lengthen the warm-up or set solver.clip_grad_norm"


class FailureRecorder:
    """Ends the run at the first loss or gradient that is not finite, with a failure report.

    On the CPU a step checks each loss before its backward pass and the gradients before the update: what is written
    then is the state before the step. On a GPU the losses of several steps are checked together, at the log period
    or after ``MAX_KEPT`` steps. The batch and the random state are then still those of the step that failed, the
    weights and the optimizer are not, and the message says so. With several processes all stop at the same step, and
    each writes its batch. Of any other error in a step the batch is named; out of memory says what to lower.

    Args:
        step: the training's.
        output_dir: failures are written to ``failure_step_<n>`` in it; None: nothing is written.
    """

    def __init__(self, step: TrainingStep, output_dir: Path | None):
        self.step, self.output_dir = step, output_dir
        self._steps: list[tuple[int, FailedStep]] = []
        self._buffers: dict[str, Tensor] = {}

    @property
    def is_full(self) -> bool:
        """Whether the losses should be checked now, because enough batches are kept for that."""
        return len(self._steps) >= MAX_KEPT

    @contextlib.contextmanager
    def watch(self, number: int) -> Iterator[None]:
        """The context of a step.

        Raises:
            FloatingPointError: the step's loss or gradients are not finite.
            OutOfMemory: from an error of that kind.
        """
        if self.step.checks_at_once:
            self._remember_buffers()  # such as the statistics of batch norms, which forward passes change
        try:
            yield
        except NonFinite as error:
            step = FailedStep(self.step.begun, error.batch, error.values)
            raise FloatingPointError(self._report(number, step)) from None
        except Exception as error:
            message = f"step {number} failed on the batch {batch_names(self.step.batch)}"
            logger.error("%s", message)
            explained = out_of_memory(error, number, self.step.batch, self.step.model, self.output_dir)
            if explained is not None:
                raise explained from error
            if sys.version_info >= (3, 11):
                error.add_note(message)
            raise
        if not self.step.checks_at_once:
            self._steps.append((number, FailedStep(self.step.begun)))

    def check_window(self, bad: tuple[int, Mapping[str, float]] | None) -> None:
        """Takes the first step (number, values) since the last check whose loss was not finite, or None.

        All processes must call it after the same step. Raises FloatingPointError.
        """
        if self.step.checks_at_once and bad is None:
            return  # each step has been checked
        numbers = distributed.all_gather_object(None if bad is None else bad[0])
        first = min((number for number in numbers if number is not None), default=None)
        if first is None:
            self._steps.clear()
            return
        batches = dict(self._steps).get(first, FailedStep([])).batches
        values = bad[1] if bad is not None and bad[0] == first else None
        raise FloatingPointError(self._report(first, FailedStep(batches, None, values), late=True))

    def _report(self, number: int, step: FailedStep, late: bool = False) -> str:
        """Writes the failure's folder and gives the message; ``late``: noticed after later steps.

        The order is by what could be lost: state and batches are written before anything is tried.
        """
        sentences = []
        if step.values is not None:
            problem = _problem(step.values, self.step.model)
            sentences.append(f"step {number}: {problem}. The batch: {batch_names(step.samples)}")
            if step.batch:
                sentences.append(f"It is batch {step.batch + 1} of the step's")
        folder, place = self._write(number, step, late)
        if step.values is not None:
            sentences += self._suspects(number, step, late)
        gathered = distributed.all_gather_object(". ".join(sentences))
        named = [f"process {r}: {text}" if len(gathered) > 1 else text for r, text in enumerate(gathered) if text]
        message = ". ".join([*named, place]) + _ADVICE
        if folder is not None and distributed.is_main():
            with contextlib.suppress(OSError), atomic_write(folder / "error.txt", "w") as file:  # the disk may be full
                file.write(f"{message}\n")
        return message

    def _write(self, number: int, step: FailedStep, late: bool) -> tuple[Path | None, str]:
        """Writes the failure's folder. Gives it, None where nothing could be written, and a sentence about that."""
        if self.output_dir is None:
            return None, "Nothing was written, because the run has no folder"
        mine = (free_folder(self.output_dir, number), step.values is not None)
        ranks = distributed.all_gather_object(mine)
        folder: Path = ranks[0][0]
        state = full_tensors(self._state(number, late, [rank for rank, (_, failed) in enumerate(ranks) if failed]))
        try:
            write_batches(folder, distributed.rank(), step)
            if distributed.is_main():
                write_state(folder, state, run_file(self.output_dir, CONFIG))
        except Exception as error:  # a full disk must not hide why training ended
            logger.exception("%s could not be written", folder)
            return None, f"What it began with could not be written to {folder} ({error})"
        held = "The batch and the state before the step"
        if late:
            held = (
                "The batch, and the weights and the optimizer as they are now, after later steps (on a GPU losses are"
                " checked later; the last checkpoint has sound ones),"
            )
        return folder, f"{held} are in {folder}; detkit replay {folder} runs it again"

    def _state(self, number: int, late: bool, ranks: Sequence[int]) -> dict[str, Any]:
        model = distributed.unwrap(self.step.model)
        names, keypoints = getattr(model, "class_names", None), getattr(model, "keypoints", None)
        failure = {
            "step": number,
            "late": late,
            "ranks": ranks,
            "frozen": [name for name, parameter in model.named_parameters() if not parameter.requires_grad],
            "not_training": [name for name, module in model.named_modules() if not module.training],
            "num_threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "world_size": distributed.world_size(),
        }
        return {
            "model": {name: self._buffers.get(name, value) for name, value in model.state_dict().items()},
            "class_names": None if names is None else [str(name) for name in names],
            "keypoints": None if keypoints is None else keypoints.coco(),
            "config": None,
            "detkit_version": detkit.__version__,
            "optimizer": self.step.optimizer.state_dict(),
            "failure": failure,
        }

    def _suspects(self, number: int, step: FailedStep, late: bool) -> list[str]:
        """What is known of the cause, a sentence each."""
        model = distributed.unwrap(self.step.model)
        sentences = target_problems(step.samples, getattr(model, "num_classes", None))
        broken = not_finite(model.named_parameters())
        if broken:
            since = " by now" if late else ", so an earlier step has spoilt them"
            sentences.append(f"{len(broken)} parameters are not finite{since} (the first: {broken[0]})")
        needs_others = is_sharded(model) or any(isinstance(m, SyncBN) for m in model.modules())
        if broken or late or needs_others:
            return sentences  # nothing to try: with these weights, or without the other processes
        logger.info("step %d failed; looking for the image and the annotation", number)
        rng, in_loss = step.batches[step.batch or 0][1], bool(step.values)
        fails = functools.partial(is_not_finite, forward=self.step.losses, model=model, rng=rng, in_loss=in_loss)
        try:
            return sentences + find_suspects(fails, step.samples)
        except Exception:  # no model has promised to train on a part of a batch
            logger.debug("the search for the annotation ended", exc_info=True)
            return sentences
        finally:
            set_buffers(model, self._buffers)

    def _remember_buffers(self) -> None:
        buffers = dict(distributed.unwrap(self.step.model).named_buffers())
        if self._buffers.keys() != buffers.keys():
            self._buffers = {name: buffer.detach().clone() for name, buffer in buffers.items()}
        elif buffers:
            with torch.no_grad():
                torch._foreach_copy_(list(self._buffers.values()), list(buffers.values()))


def _problem(values: Mapping[str, float], model: nn.Module) -> str:
    if values:
        bad = [f"{n} = {v}" for n, v in values.items() if not math.isfinite(v) and n != "total_loss"]
        return f"the loss is not finite ({', '.join(bad) or 'the sum of its terms overflows'})"
    named = list(distributed.unwrap(model).named_parameters())
    bad = not_finite((name, p.grad) for name, p in named)
    which = f"of {len(bad)} of {len(named)} parameters, the first is {bad[0]}" if bad else "their norm overflows"
    return f"the loss is finite and its gradients are not ({which})"
