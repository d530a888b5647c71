"""Pictures of predictions beside the ground truth, and files of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from detkit.data.interfaces import Dataset
from detkit.structures import CropAndPad, Prediction, Sample
from detkit.utils.distributed import is_main
from detkit.utils.file_names import FreeNames, file_stem
from detkit.utils.paths import naming_file
from detkit.utils.progress import watched
from detkit.visualization.comparison import PANEL_SIDE, comparable, draw_comparison
from detkit.visualization.draw import draw_prediction
from detkit.visualization.drawing import MAX_SIDE, MIN_SIDE
from detkit.visualization.sheet import side_by_side


def prediction_picture(
    sample: Sample,
    prediction: Prediction,
    class_names: Sequence[str],
    *,
    score_thresh: float = 0.5,
    skeleton: Sequence[tuple[int, int]] = (),
    semantic_names: Sequence[str] = (),
    show_best: int = 3,
    min_side: int = MIN_SIDE,
) -> np.ndarray:
    """Ground truth and prediction side by side, on the image as the model saw it; without a target, one picture.

    Instances have the colours of ``draw_comparison``; those of maps, or without a target, the colours of their classes.
    Padding, outside of the image's valid region, is not shown.

    Args:
        sample: what the model was given.
        prediction: what it predicted, in the pixels of the original image.
        class_names: the K names.
        score_thresh: predictions below this score are not drawn.
        skeleton: pairs of keypoints that are joined.
        semantic_names, show_best, min_side: as in ``draw_prediction``.
    """
    image, truth = without_padding(sample)
    maps = prediction.semantic is not None or prediction.panoptic is not None
    options: dict[str, Any] = {"score_thresh": score_thresh, "show_best": show_best, "skeleton": skeleton}
    options |= {"min_side": min_side, "max_side": MAX_SIDE if truth.instances is None else PANEL_SIDE}
    if not maps and comparable(truth.instances) and comparable(prediction.instances):
        return draw_comparison(image, truth.instances, prediction.instances, class_names, **options)
    options["semantic_names"] = semantic_names
    pictures = [draw_prediction(image, prediction, class_names, **options)]
    found = prediction.above(score_thresh).instances
    titles = ["prediction" if found is None else f"prediction: {len(found)} with score ≥ {score_thresh:g}"]
    if truth.instances is not None:
        pictures.insert(0, draw_prediction(image, truth, class_names, **options | {"show_best": 0}))
        titles.insert(0, f"ground truth: {len(truth.instances)}")
    return side_by_side(pictures, titles)


def without_padding(sample: Sample) -> tuple[Tensor, Prediction]:
    """The valid region of the sample's image, ``(C, H, W)``, and the ground truth in its pixels.

    A sample's map named ``semantic`` is the ground truth's semantic map.
    """
    x1, y1, x2, y2 = sample.info.valid_region_in((sample.image.shape[-2], sample.image.shape[-1]))
    image, target, semantic = sample.image[:, y1:y2, x1:x2], sample.target, sample.maps.get("semantic")
    if target is not None and image.shape != sample.image.shape:
        target = target.transform(CropAndPad(target.image_size, x1, y1, y2 - y1, x2 - x1))
    return image, Prediction(target, None if semantic is None else semantic[y1:y2, x1:x2])


def draw_predictions(
    pairs: Sequence[tuple[Sample, Prediction]], dataset: Dataset, *, score_thresh: float = 0.5
) -> dict[str, np.ndarray]:
    """The ``prediction_picture`` of each pair, with progress shown; named by the image id.

    Args:
        pairs: samples and predictions, e.g. those that ``FirstPredictions`` kept.
        dataset: what the samples are of; it names classes and has the skeleton of keypoints.
        score_thresh: predictions below this score are not drawn.

    Returns:
        ``{name: (H, W, 3) uint8}``; a name holds letters, digits and ``_.-`` only.
    """
    options: dict[str, Any] = {"score_thresh": score_thresh, "skeleton": dataset.skeleton}
    options["semantic_names"] = dataset.semantic_names
    pictures, free = dict[str, np.ndarray](), FreeNames()
    for sample, prediction in watched(pairs, "pictures", show=is_main()):
        name = free(Path(file_stem(sample.image_id))).name
        pictures[name] = prediction_picture(sample, prediction, dataset.class_names, **options)
    return pictures


def write_prediction_pictures(
    pairs: Sequence[tuple[Sample, Prediction]], dataset: Dataset, folder: str | Path
) -> list[Path]:
    """Writes the pictures of ``draw_predictions`` as ``<folder>/<image id>.png``. Only rank 0 writes."""
    if not is_main():
        return []
    pictures = draw_predictions(pairs, dataset)
    return [write_picture(picture, Path(folder) / f"{name}.png") for name, picture in pictures.items()]


def write_picture(picture: np.ndarray, path: str | Path) -> Path:
    """Writes ``(H, W, 3)`` uint8 as an image file (the kind by the suffix) and makes its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_file(path):
        Image.fromarray(picture).save(path)
    return path
