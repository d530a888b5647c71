"""The start of a run: its folder, its log, its seeds."""

import logging
from pathlib import Path

from detkit.config import to_yaml
from detkit.experiment import Experiment
from detkit.utils import atomic_write, environment_report, seed_everything, setup_logging
from detkit.utils.distributed import is_main

logger = logging.getLogger(__name__)


def start_run(experiment: Experiment, write_config: bool = True) -> Path:
    """Makes the run's folder, sends the log there and to the console, seeds everything.

    Args:
        experiment: whose ``train`` section says where and with which seed.
        write_config: leave the complete config in the folder as ``config.yaml``.

    Returns:
        The folder.
    """
    folder = Path(experiment.train.output_dir)
    setup_logging(folder)
    seed_everything(experiment.train.seed)
    logger.info("environment\n%s", environment_report())
    if write_config and is_main():
        with atomic_write(folder / "config.yaml", "w") as file:
            file.write(to_yaml(experiment.tree))
    return folder
