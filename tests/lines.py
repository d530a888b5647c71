"""The lines of metrics of a training."""

from detkit.engine import Hook


class KeepLines(Hook):
    def __init__(self):
        super().__init__()
        self.lines = []

    def on_metrics(self, trainer, line):
        self.lines.append(line)


def lines_of(trainer):
    """A list that gets all lines of metrics of a trainer, from now on."""
    hook = KeepLines()
    trainer.hooks.append(hook)
    return hook.lines
