"""The progress bar of training, and its log lines."""

import datetime
import logging
import sys

from tqdm import tqdm

from detkit.engine.interfaces import Hook
from detkit.engine.metrics import Line
from detkit.engine.trainer import Trainer
from detkit.utils import distributed

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
