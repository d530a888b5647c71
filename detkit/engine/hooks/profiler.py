"""Where the time of a step goes."""

import logging

import torch

from detkit.config import Count, CountOrZero
from detkit.engine.hooks.writers import output_folder
from detkit.engine.interfaces import HOOKS, Hook, Training
from detkit.utils import atomic_write, distributed

logger = logging.getLogger(__name__)


@HOOKS.register()
class TorchProfiler(Hook):
    """Profiles a few steps: which operators take the time, as a table in the log and a trace for a trace viewer.

    The trace is ``profile.json`` in the run's folder, in Chrome's trace format. Rank 0 only.

    Args:
        start: steps to wait first, counted from where this process begins, so that caches are warm.
        steps: steps to profile.
        rows: operators in the table.
    """

    optional = True

    def __init__(self, *, start: CountOrZero = 10, steps: Count = 3, rows: Count = 15):
        super().__init__()
        self.start, self.steps, self.rows = start, steps, rows
        self._first = 0
        self._profiler: torch.profiler.profile | None = None

    def before_train(self, trainer: Training) -> None:
        self._first = trainer.finished + self.start

    def before_step(self, trainer: Training) -> None:
        if distributed.is_main() and trainer.step == self._first:
            self._profiler = torch.profiler.profile()
            self._profiler.start()

    def after_step(self, trainer: Training) -> None:
        if self._profiler is not None and trainer.finished >= self._first + self.steps:
            self._report(trainer)

    def after_train(self, trainer: Training) -> None:
        """Reports also where training ended before."""
        if self._profiler is not None:
            self._report(trainer)

    def _report(self, trainer: Training) -> None:
        profiler, self._profiler = self._profiler, None
        assert profiler is not None
        profiler.stop()
        key = "self_device_time_total" if trainer.device.type != "cpu" else "self_cpu_time_total"
        logger.info("profile\n%s", profiler.key_averages().table(sort_by=key, row_limit=self.rows))
        path = output_folder(trainer, self) / "profile.json"
        with atomic_write(path) as file:
            profiler.export_chrome_trace(file.name)
        logger.info("wrote %s; open it at ui.perfetto.dev or chrome://tracing", path)
