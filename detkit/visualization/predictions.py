"""Pictures of a run's predictions."""

import re
from collections.abc import Sequence
from pathlib import Path

from detkit.structures import Instances, Sample
from detkit.visualization.pictures import prediction_picture, write_picture


def write_prediction_pictures(
    pairs: Sequence[tuple[Sample, Instances]], class_names: Sequence[str], folder: str | Path, score_thresh: float = 0.5
) -> list[Path]:
    """Writes ground truth and prediction of each pair side by side, as ``<folder>/<image id>.png``."""
    written = []
    for sample, output in pairs:
        name = re.sub(r"[^\w.-]+", "_", str(sample.image_id))
        picture = prediction_picture(sample, output, class_names, score_thresh=score_thresh)
        written.append(write_picture(picture, Path(folder) / f"{name}.png"))
    return written
