"""Pictures of a run's predictions."""

import re
from collections.abc import Sequence
from pathlib import Path

from detkit.structures import Instances, Sample
from detkit.utils.distributed import is_main
from detkit.visualization.pictures import prediction_picture, write_picture


def write_prediction_pictures(
    pairs: Sequence[tuple[Sample, Instances]],
    class_names: Sequence[str],
    folder: str | Path,
    *,
    score_thresh: float = 0.5,
) -> list[Path]:
    """A PNG of ground truth and prediction for each pair, ``<folder>/<image id>.png``. Only rank 0 writes.

    Args:
        pairs: samples and predictions, e.g. those that ``FirstPredictions`` kept.
        class_names: the K names.
        folder: is made.
        score_thresh: predictions below this score are not drawn.
    """
    if not is_main():
        return []
    files = []
    for sample, output in pairs:
        name = re.sub(r"[^\w.-]+", "_", str(sample.image_id))
        picture = prediction_picture(sample, output, class_names, score_thresh=score_thresh)
        files.append(write_picture(picture, Path(folder) / f"{name}.png"))
    return files
