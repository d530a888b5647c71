"""The start of a run: its folder, its log, its seeds, and a look at what it starts from."""

import itertools
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


OUTPUTS = (
    "config.yaml",
    "metrics.jsonl",
    "*.pth",
    "last_checkpoint",
    "evaluation.json",
    "curves.png",
    "predictions",
    "tensorboard",
)
"""What a training leaves in its folder, apart from the log, which goes on."""


def start_run(experiment: Experiment) -> Path:
    """Makes the run's folder, sends the log there and to the console, seeds everything. Returns the folder."""
    folder = Path(experiment.train.output_dir)
    setup_logging(folder)
    seed_everything(experiment.train.seed)
    logger.debug("environment\n%s", environment_report())
    return folder


def claim_folder(experiment: Experiment, *, fresh: bool) -> None:
    """Leaves the complete config as ``config.yaml``; for when all checks have passed and training can begin.

    Args:
        experiment: whose folder it is.
        fresh: a training from the beginning; what an earlier run left in the folder is set aside, so that nothing of
            it is lost or taken for the new run's.
    """
    if not is_main():
        return
    folder = Path(experiment.train.output_dir)
    if fresh:
        _set_aside(folder)
    with atomic_write(folder / "config.yaml", "w") as file:
        file.write(to_yaml(experiment.tree))


def _set_aside(folder: Path) -> None:
    found = [path for pattern in OUTPUTS for path in folder.glob(pattern)]
    if not found:
        return
    numbers = (folder / f"earlier_run_{n}" for n in itertools.count(1))
    target = next(path for path in numbers if not path.exists())
    target.mkdir()
    for path in found:
        path.rename(target / path.name)
    logger.warning("%s held a run already; it is now in %s (--resume would have gone on with it)", folder, target)


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
