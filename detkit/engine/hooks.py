"""The hooks of every run: progress, metrics.jsonl, checkpoints, evaluation. Whoever starts the run makes them."""

import datetime
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from detkit.checkpoint import Checkpointer
from detkit.engine.interfaces import Hook
from detkit.engine.metrics import Line, append_line, cut_lines, flatten
from detkit.engine.trainer import Trainer
from detkit.utils import distributed, rng_state, set_rng_state

logger = logging.getLogger(__name__)

_TIMES = ("data_time", "step_time", "eta_seconds", "max_memory_mb")


class ProgressBar(Hook):
    """A bar with the time left, the losses and the rate; where stderr is no terminal, a log line a period instead.

    The line goes to ``log.txt`` in both cases. Rank 0 only.

    Args:
        bar: None shows the bar where stderr is a terminal.
    """

    def __init__(self, *, bar: bool | None = None):
        super().__init__()
        self.bar = bar
        self._bar: tqdm | None = None
        self._total = 0

    def before_train(self, trainer: Trainer) -> None:
        """Opens the bar."""
        if not distributed.is_main():
            return
        self._total = trainer.max_iter
        if self.bar or (self.bar is None and sys.stderr.isatty()):
            self._bar = tqdm(
                desc="train", total=trainer.max_iter, initial=trainer.finished, dynamic_ncols=True, file=sys.stderr
            )
        trainer.metrics.subscribe(self._show)

    def after_step(self, trainer: Trainer) -> None:
        """Moves it on."""
        if self._bar is not None:
            self._bar.update()

    def after_train(self, trainer: Trainer) -> None:
        """Closes it."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, line: Line) -> None:
        if "total_loss" not in line:
            return
        losses = [f"{n} {v:.4g}" for n, v in line.items() if "loss" in n]
        words = "  ".join([*losses, f"lr {line['lr']:.3g}"])
        if self._bar is not None:
            self._bar.set_postfix_str(words, refresh=False)
        eta = datetime.timedelta(seconds=round(line["eta_seconds"]))
        memory = f"  {line['max_memory_mb']} MB" if "max_memory_mb" in line else ""
        others = "".join(
            f"  {n} {v:.4g}" for n, v in line.items() if "loss" not in n and n not in (*_TIMES, "lr", "iteration")
        )
        logger.log(
            logging.INFO if self._bar is None else logging.DEBUG,
            "step %d/%d  eta %s  %s%s  %.3f s/step (data %.3f)%s",
            *(line["iteration"] + 1, self._total, eta, words, others, line["step_time"], line["data_time"], memory),
        )


class MetricsWriter(Hook):
    """Writes every line of metrics to ``metrics.jsonl``.

    On a resume, lines of steps that are done again are cut first; a run from the start begins a new file. Rank 0 only.

    Args:
        path: None is ``metrics.jsonl`` in the trainer's ``output_dir``.
    """

    def __init__(self, path: str | Path | None = None):
        super().__init__()
        self.path = None if path is None else Path(path)

    def before_train(self, trainer: Trainer) -> None:
        """Cuts the file. Raises ValueError where neither hook nor trainer knows a folder."""
        if not distributed.is_main():
            return
        if self.path is None:
            if trainer.output_dir is None:
                raise ValueError("MetricsWriter: give a path, or the trainer an output_dir")
            self.path = trainer.output_dir / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        dropped = cut_lines(self.path, trainer.finished)
        if dropped:
            logger.info("%s: dropped %d lines of steps from %d on", self.path, dropped, trainer.finished)
        trainer.metrics.subscribe(self._write)

    def _write(self, line: Line) -> None:
        assert self.path is not None
        append_line(self.path, line)


class CheckpointHook(Hook):
    """Writes ``checkpoint_<step>.pth`` every period and at the end, and the weights as ``model_final.pth`` at the end.

    Weights after a loss that was not finite are not written: the loss is looked at first, and training ends. Put this
    hook before those that evaluate, so that a failure there costs nothing.

    Args:
        checkpointer: writes them.
        period: steps between checkpoints; None: ``model_final.pth`` only.
        config: the run's complete config as plain data.
        class_names: None takes the model's own.

    Raises:
        ValueError: ``period`` is below 1.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        period: int | None,
        *,
        config: Mapping[str, Any] | None = None,
        class_names: Sequence[str] | None = None,
    ):
        super().__init__()
        self.checkpointer, self.period = checkpointer, _period("checkpoint period", period)
        self.config, self.class_names = config, class_names

    def after_step(self, trainer: Trainer) -> None:
        """Writes where it is time."""
        if self.period is not None and _is_due(trainer, self.period):
            trainer.check_finite()
            self._save(f"checkpoint_{trainer.step:07d}", trainer, trainer.state_dict())
        if trainer.is_last_step:
            trainer.check_finite()
            self._save("model_final", trainer, None)

    def _save(self, name: str, trainer: Trainer, state: dict[str, Any] | None) -> None:
        self.checkpointer.save(
            name, trainer.model, trainer_state=state, config=self.config, class_names=self.class_names
        )


class EvalHook(Hook):
    """Evaluates every period and at the end.

    The results go to ``trainer.results``, and their figures as a line of metrics: ``{"iteration", "box/AP", ...}``.
    Evaluating leaves the random state of training as it was. All ranks evaluate.

    Args:
        evaluate: gives nested results; {} on other ranks than 0.
        period: steps between evaluations; None: at the end only.

    Raises:
        ValueError: ``period`` is below 1.
    """

    def __init__(self, evaluate: Callable[[], dict[str, Any]], period: int | None = None):
        super().__init__()
        self.evaluate, self.period = evaluate, _period("eval period", period)

    def after_step(self, trainer: Trainer) -> None:
        """Evaluates where it is time."""
        if not _is_due(trainer, self.period):
            return
        trainer.check_finite()
        state = rng_state()
        try:
            trainer.results = self.evaluate()
        finally:
            set_rng_state(state)
            trainer.model.train()
        figures = flatten(trainer.results)
        if figures:
            trainer.metrics.publish({"iteration": trainer.step, **figures})


def _period(name: str, period: int | None) -> int | None:
    if period is not None and period < 1:
        raise ValueError(f"{name}: expected at least 1 step (or None, which is the end of training), got {period}")
    return period


def _is_due(trainer: Trainer, period: int | None) -> bool:
    return trainer.is_last_step or (period is not None and trainer.finished % period == 0)
