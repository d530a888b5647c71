"""The progress bar of training, and its log lines."""

import datetime
import logging
import os
import sys
import time

from tqdm import tqdm

from detkit.engine.interfaces import Hook, Training
from detkit.engine.metrics import Line
from detkit.utils import distributed
from detkit.utils.progress import in_terminal

logger = logging.getLogger(__name__)

_OURS = ("data_time", "step_time", "eta_seconds", "max_rss_mb", "max_memory_mb", "lr", "iteration")
_BAR = "{desc}: {percentage:3.0f}%|{bar:6}| {n_fmt}/{total_fmt}{postfix}"
_BEFORE = len("train: 100%||") + 6 + len(" /")


def _in_notebook() -> bool:
    """Whether stderr is a cell of a notebook, which shows one bar as one line, but no bars below each other."""
    return type(sys.stderr).__module__ == "ipykernel.iostream"


class ProgressBar(Hook):
    """A bar with the time left, losses, learning rate, step time and memory; without a terminal, log lines instead.

    A log line comes with every line of metrics, and goes to ``log.txt`` in both cases. What does not fit into the
    terminal's width is left out of the bar, the single losses first. Rank 0 only.

    The time left counts steps and evaluations; ``+`` after it: an evaluation will come, and how long one takes is not
    known before the first.

    Args:
        bar: None shows the bar in a terminal and in a notebook.
    """

    optional = True

    def __init__(self, *, bar: bool | None = None):
        super().__init__()
        self.bar = bar
        self._bar: tqdm | None = None
        self._line: Line | None = None
        self._pace = 0.0  # seconds a step, when the line came
        self._began: tuple[float, int] | None = None  # time and number of the first step that was seen

    def before_train(self, trainer: Training) -> None:
        if not distributed.is_main():
            return
        if self.bar or (self.bar is None and (in_terminal() or _in_notebook())):
            self._bar = tqdm(
                desc="train",
                total=trainer.max_iter,
                initial=trainer.finished,
                dynamic_ncols=True,
                file=sys.stderr,
                bar_format=_BAR,
            )

    def on_metrics(self, trainer: Training, line: Line) -> None:
        if "total_loss" in line and distributed.is_main():
            hooks, more = trainer.hooks_left()
            self._line, eta = line, time_left(line["eta_seconds"], more)
            self._pace = (line["eta_seconds"] - hooks) / max(1, trainer.max_iter - trainer.finished)
            logger.log(logging.INFO if self._bar is None else logging.DEBUG, "%s", log_line(line, trainer, eta))

    def after_step(self, trainer: Training) -> None:
        if self._bar is None:
            return
        (hooks, more), now = trainer.hooks_left(), time.monotonic()
        began, first = self._began = self._began or (now, trainer.finished)
        if self._line is None and trainer.finished > first:  # a line may be minutes away
            self._pace = (now - began) / (trainer.finished - first)
        if self._pace or self._line is not None:
            eta = time_left(self._pace * (trainer.max_iter - trainer.finished) + hooks, more)
            width = _columns_left(trainer.max_iter)
            self._bar.set_postfix_str(bar_words(self._line, eta, width), refresh=False)
        self._bar.update(trainer.finished - self._bar.n)

    def after_train(self, trainer: Training) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _columns_left(max_iter: int) -> int | None:
    """Columns behind the bar in the terminal that stderr is; None where it is none."""
    try:
        width = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return None
    return width - _BEFORE - 2 * len(str(max_iter)) - 1


def time_left(seconds: float, more: bool) -> str:
    """``h:mm:ss``, with days in front where there are any; ``+`` at the end where more will come."""
    return f"{datetime.timedelta(seconds=max(0, round(seconds)))}{'+' * more}"


def bar_words(line: Line | None, eta: str, width: int | None) -> str:
    """What stands behind the bar: the more important words first, as many as fit into ``width`` columns."""
    words = [f"eta {eta.removeprefix('0:')}"]
    if line is not None:
        words += _numbers(line)
    while words and width is not None and sum(len(word) + 2 for word in words) > width:
        words.pop()
    return ", ".join(words)


def _numbers(line: Line) -> list[str]:
    share = line["data_time"] / line["step_time"] if line["step_time"] else 0.0
    words = [f"loss {line['total_loss']:.4g}", f"lr {line['lr']:.3g}"]
    words += [f"{line['step_time']:.3g} s/step", f"data {share:.0%}", *_memory(line, "GB", 2**10)]
    terms = [(name, value) for name, value in line.items() if "loss" in name and name != "total_loss"]
    return words + [f"{name.removeprefix('loss_')} {value:.3g}" for name, value in terms]


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
