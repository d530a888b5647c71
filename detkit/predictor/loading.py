"""The model of a run, or of weights and a config, for prediction."""

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from detkit.checkpoint import Checkpoint, Checkpointer, read_checkpoint
from detkit.checkpoint.formats.detectron2 import coco_category_ids, coco_class_names
from detkit.checkpoint.formats.torchvision import NUM_COCO_ROWS, dense_rows
from detkit.data.paths import data_path
from detkit.experiment import Experiment, load_experiment
from detkit.registry import DataError
from detkit.structures import COCO_PERSON, KeypointSpec
from detkit.utils.run_folder import run_file
from detkit.zoo import find

logger = logging.getLogger(__name__)


def files_of_run(run_dir: str | Path, weights: str | Path) -> tuple[str | Path, Path]:
    """Weights and config of a training run; see ``Predictor.from_run``."""
    run = Path(run_dir).expanduser()
    if run.is_file():
        raise DataError(
            f"{run}: is a file, and a run is a folder; Predictor.from_weights (--weights) takes a checkpoint"
        )
    data_path(str(run), "run", folder=True)
    config = run_file(run, "config.yaml")
    if not config.is_file():
        raise DataError(f"{run}: is not the folder of a run, which has a config.yaml; or give config and weights")
    if "://" in str(weights):
        return weights, config
    path = next((p for p in (run / weights, Path(weights)) if p.is_file()), None)
    if path is None and str(weights) == "model_final.pth":
        path = Checkpointer(run).latest()
        if path is not None:
            logger.warning("%s has no %s; taking its newest checkpoint, %s", run, weights, path.name)
    if path is None:
        found = ", ".join(sorted(p.name for p in run.glob("*.pth"))) or "none"
        raise DataError(f"{run}: there is no '{weights}' in it, nor a file of this name; weights there: {found}")
    return path, config


def load_model(
    weights: str | Path, overrides: Sequence[str], config: str | Path | None, trust_imports: bool
) -> tuple[nn.Module, Experiment]:
    """The model, and the experiment that it is of; see ``Predictor.from_weights``."""
    checkpoint, row = read_checkpoint(weights), find(str(weights))
    if config is None and row is not None and row.config is not None:
        logger.info("%s: taking the config %s", row.name, row.config)
        config, *changes = row.config.split()
        overrides = [*changes, *overrides]
    if config is None and checkpoint.config is None:
        raise DataError(f"{checkpoint.source}: carries no config; give the one that it was trained with, as config=...")
    source = checkpoint.config or {} if config is None else config
    experiment = load_experiment(source, overrides, trust_imports=trust_imports)
    names, ids, keypoints = _classes(checkpoint, experiment, named=row is not None)
    model = experiment.filled_model(checkpoint, names, keypoints)
    model.category_ids = ids
    return model, experiment


def _classes(
    checkpoint: Checkpoint, experiment: Experiment, named: bool
) -> tuple[tuple[str, ...], tuple[int, ...] | None, KeypointSpec | None]:
    """Names and ids of the classes, and the keypoints: the checkpoint's, or else the training dataset's.

    torchvision's weights carry neither, and are used where there is no COCO.
    """
    if checkpoint.class_names is not None:
        return checkpoint.class_names, checkpoint.category_ids, checkpoint.keypoints
    rows = len(checkpoint.model.get("roi_heads.box_predictor.cls_score.bias", ())) or dense_rows(checkpoint.model)
    points = len(checkpoint.model.get("roi_heads.keypoint_predictor.kps_score_lowres.bias", ()))
    is_coco = rows == NUM_COCO_ROWS or (rows, points) == (2, len(COCO_PERSON.names))
    number = rows - 1 if points else None  # of COCO's classes, the first of which is person
    try:
        if not (named and is_coco):
            dataset = experiment.data.train_set
            logger.info("%s carries no class names; taking the training dataset's", checkpoint.source)
            return dataset.class_names, dataset.category_ids, dataset.keypoint_spec
    except DataError:
        if not is_coco:
            raise
    logger.info("%s: its %d rows are COCO's classes", checkpoint.source, rows)
    return coco_class_names()[:number], coco_category_ids()[:number], None
