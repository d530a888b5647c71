"""The start of a run: its folder, its log, its seeds, and a look at what it starts from."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detkit.config import to_yaml
from detkit.experiment import Experiment
from detkit.modeling import MetaArch
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


def warn_of_frozen_noise(experiment: Experiment, model: MetaArch) -> None:
    """Warns where layers are frozen at random values, because the config names no weights to start from."""
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    if frozen and experiment.train.init_weights is None and not _names_weights(experiment.tree["model"]):
        logger.warning(
            "%s parameters are frozen at their random start: give train.init_weights or the backbone's own 'weights', "
            "or train from scratch with model.backbone.norm=BN model.backbone.freeze_at=0",
            f"{frozen:,}",
        )


def _names_weights(node: Mapping[str, Any]) -> bool:
    return any(
        _names_weights(value) if isinstance(value, Mapping) else key == "weights" and isinstance(value, str)
        for key, value in node.items()
    )
