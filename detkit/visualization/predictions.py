"""Pictures of a run's predictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detkit.structures import Prediction, Sample
from detkit.utils.distributed import is_main
from detkit.utils.progress import watched
from detkit.visualization.pictures import file_stem, prediction_picture, write_picture


def draw_predictions(
    pairs: Sequence[tuple[Sample, Prediction]], class_names: Sequence[str], *, score_thresh: float = 0.5
) -> dict[str, np.ndarray]:
    """Ground truth beside prediction for each pair, with its progress shown; named by the image id.

    Args:
        pairs: samples and predictions, e.g. those that ``FirstPredictions`` kept.
        class_names: the K names.
        score_thresh: predictions below this score are not drawn.

    Returns:
        ``{name: (H, W, 3) uint8}``; a name holds letters, digits and ``_.-`` only.
    """
    return {
        file_stem(sample.image_id): prediction_picture(sample, prediction, class_names, score_thresh=score_thresh)
        for sample, prediction in watched(pairs, "pictures", show=is_main())
    }


def write_prediction_pictures(
    pairs: Sequence[tuple[Sample, Prediction]],
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
    pictures = draw_predictions(pairs, class_names, score_thresh=score_thresh)
    return [write_picture(picture, Path(folder) / f"{name}.png") for name, picture in pictures.items()]
