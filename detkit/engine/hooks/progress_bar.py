"""The progress bar of training, and its log lines."""

import datetime
import logging
import os
import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from detkit.engine.interfaces import Hook, Training
from detkit.engine.metrics import Line
from detkit.utils import distributed

logger = logging.getLogger(__name__)

_OURS = ("data_time", "step_time", "eta_seconds", "max_rss_mb", "max_memory_mb", "lr", "iteration")
_BAR = "{desc}: {percentage:3.0f}%|{bar:6}| {n_fmt}/{total_fmt}{postfix}"
_BEFORE = len("train: 100%||") + 6 + len(" /")


class ProgressBar(Hook):
    """A bar with the time left, losses, learning rate, step time and memory; without a terminal, log lines instead.

    A log line comes with every line of metrics, and goes to ``log.txt`` in both cases. What does not fit into the
    terminal's width is left out of the bar, the single losses first. Rank 0 only.

    The time left counts steps and evaluations; ``+`` after it: an evaluation will come, and how long one takes is not
    known before the first.

    Args:
        bar: None shows the bar where stderr is a terminal.
    """

    optional = True

    def __init__(self, *, bar: bool | None = None):
        super().__init__()
        self.bar = bar
        self._bar: tqdm | None = None
        self._line: Line | None = None
        self._came = 0.0
        self._fresh = False

    def before_train(self, trainer: Training) -> None:
        """Opens the bar."""
        if not distributed.is_main():
            return
        if self.bar or (self.bar is None and sys.stderr.isatty()):
            self._bar = tqdm(
                desc="train",
                total=trainer.max_iter,
                initial=trainer.finished,
                dynamic_ncols=True,
                file=sys.stderr,
                bar_format=_BAR,
            )
        trainer.metrics.subscribe(self._take)

    def after_step(self, trainer: Training) -> None:
        """Moves it on."""
        if self._line is None:
            if self._bar is not None:
                self._bar.update(trainer.finished - self._bar.n)
            return
        eta = time_left(self._line["eta_seconds"], trainer.hooks_left()[1])
        if self._fresh:
            self._fresh = False
            logger.log(logging.INFO if self._bar is None else logging.DEBUG, "%s", log_line(self._line, trainer, eta))
        if self._bar is not None:
            gone = time.monotonic() - self._came
            left = time_left(self._line["eta_seconds"] - gone, eta.endswith("+"))
            self._bar.set_postfix_str(bar_words(self._line, left, self._width(trainer)), refresh=False)
            self._bar.update(trainer.finished - self._bar.n)

    def after_train(self, trainer: Training) -> None:
        """Closes it."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _take(self, line: Line) -> None:
        if "total_loss" in line:
            self._line, self._came, self._fresh = line, time.monotonic(), True

    def _width(self, trainer: Training) -> int | None:
        width = terminal_width()
        return None if width is None else width - _BEFORE - 2 * len(str(trainer.max_iter)) - 1


def terminal_width() -> int | None:
    """Columns of the terminal that stderr is; None where it is none."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return None


def time_left(seconds: float, more: bool) -> str:
    """``h:mm:ss``, with days in front where there are any; ``+`` at the end where more will come."""
    return f"{datetime.timedelta(seconds=max(0, round(seconds)))}{'+' * more}"


def bar_words(line: Line, eta: str, width: int | None) -> str:
    """What stands behind the bar: the more important words first, as many as fit into ``width`` columns."""
    share = line["data_time"] / line["step_time"] if line["step_time"] else 0.0
    words = [f"eta {eta.removeprefix('0:')}", f"loss {line['total_loss']:.4g}", f"lr {line['lr']:.3g}"]
    words += [f"{line['step_time']:.3g} s/step", f"data {share:.0%}", *_memory(line, "GB", 2**10)]
    words += [f"{_short(name)} {value:.3g}" for name, value in line.items() if _is_term(name)]
    return ", ".join(_fitting(words, width))


def log_line(line: Line, trainer: Training, eta: str) -> str:
    """Everything in a line, for a log."""
    losses = [f"{name} {value:.4g}" for name, value in line.items() if "loss" in name]
    rest = [f"{name} {value:.4g}" for name, value in line.items() if "loss" not in name and name not in _OURS]
    times = f"{line['step_time']:.3f} s/step (data {line['data_time']:.3f})"
    words = [f"eta {eta}", *losses, f"lr {line['lr']:.3g}", times, *_memory(line, "MB", 1), *rest]
    return "  ".join([f"step {line['iteration'] + 1}/{trainer.max_iter}", *words])


def _memory(line: Line, unit: str, divisor: int) -> list[str]:
    """Resident memory of the process and, on a GPU, what tensors take there."""
    digits = 1 if divisor > 1 else 0
    named = (("max_rss_mb", "rss"), ("max_memory_mb", "gpu"))
    return [f"{word} {line[name] / divisor:.{digits}f} {unit}" for name, word in named if name in line]


def _fitting(words: Sequence[str], width: int | None) -> list[str]:
    if width is None:
        return list(words)
    taken, kept = 0, []
    for word in words:
        taken += len(word) + 2
        if taken > width:
            break
        kept.append(word)
    return kept


def _is_term(name: str) -> bool:
    return "loss" in name and name != "total_loss"


def _short(name: str) -> str:
    return name.removeprefix("loss_")
