"""The worst images of a test set as small pictures: ground truth and detections, coloured by what is right."""

import base64
import dataclasses
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as coco_mask
import torch
from PIL import Image

from detkit.data.interfaces import Dataset
from detkit.evaluation.coco_metrics import GroundTruth
from detkit.evaluation.coco_results import Detections
from detkit.evaluation.errors import KINDS, NONE, NOTHING, Matches, match
from detkit.report.analysis import Analysis, counted, rows_by_image
from detkit.structures.rle import as_rle
from detkit.utils.logging import optional_output
from detkit.visualization.comparison import COLORS, CORRECT, FALSE, MISSED, NOT_JUDGED
from detkit.visualization.drawing import Drawing
from detkit.visualization.fonts import class_label

SIDE, QUALITY = 560, 80
"""Of a picture: pixels of its longer side, and of JPEG."""
MOST_DRAWN = 50
"""Detections, or those of a model that has learned little would hide the image."""


@dataclasses.dataclass(frozen=True)
class WorstImage:
    """An image with its mistakes at a threshold.

    Args:
        name: its file and the folder of that, or its id.
        truth, found: the ground truth and the detections drawn on it, as ``data:`` addresses.
        num_objects, num_detections: how many there are; of the detections the best ``MOST_DRAWN`` are drawn.
        missed: class name -> objects that are not found.
        false: (class name, kind of mistake) -> false detections.
    """

    name: str
    truth: str
    found: str
    num_objects: int
    num_detections: int
    missed: Counter[str]
    false: Counter[tuple[str, str]]


def worst_images(
    analysis: Analysis,
    dataset: Dataset,
    truth: GroundTruth,
    detections: Mapping[int | str, Detections],
    threshold: float,
    most: int,
) -> list[WorstImage]:
    """The images with the most mistakes, the worst first; one that cannot be drawn is logged and left out.

    Args:
        analysis: of these detections.
        dataset: has the images; only those that are drawn are read.
        truth: its ground truth.
        detections: of each image id.
        threshold: the least score of detections that are drawn and counted.
        most: how many images.
    """
    chosen = [analysis.image_ids[number] for number in analysis.worst(threshold, most)]
    shown, judged = (rows_by_image(rows, chosen) for rows in (truth.annotations, truth.regions))
    numbers = {dataset.image_id(i): i for i in range(len(dataset))} if chosen else {}
    drawn = list[WorstImage]()
    for image_id in chosen:
        number = numbers[image_id]
        path = dataset.image_path(number)
        name = "/".join(Path(path).parts[-2:]) if path else f"image {image_id}"
        with optional_output(f"the report's picture of {name}"):
            found = counted(truth, image_id, detections.get(image_id, NOTHING), analysis.max_detections)
            matches = match(found, judged[image_id], dataset.category_ids, analysis.task)
            matches = matches.take(matches.scores >= threshold)
            drawn.append(_worst(name, dataset, number, shown[image_id], found, matches, threshold))
    return drawn


def _worst(
    name: str,
    dataset: Dataset,
    number: int,
    rows: Sequence[Mapping[str, Any]],
    found: Detections,
    matches: Matches,
    threshold: float,
) -> WorstImage:
    crowd = np.array([bool(row.get("iscrowd", 0)) for row in rows], bool)
    hit, right = np.isin(np.arange(len(matches.object_classes)), matches.object), matches.object != NONE
    states, results = np.full(len(rows), NOT_JUDGED), np.full(len(found.scores), NOT_JUDGED)
    states[~crowd] = np.where(hit, CORRECT, MISSED)
    results[matches.rows] = np.where(right, CORRECT, FALSE)

    names, record = dataset.class_names, dataset[number]
    image, size = torch.from_numpy(record.image.copy()).permute(2, 0, 1), record.original_size
    class_numbers = {id_: k for k, id_ in enumerate(dataset.category_ids)}
    labels = [class_label(class_numbers[row["category_id"]], names) for row in rows]
    labels = [label if len(names) > 1 and not alone else "" for label, alone in zip(labels, crowd)]
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    num_points = len(dataset.keypoint_names)
    values = np.array([row.get("keypoints") or [0] * 3 * num_points for row in rows], np.float64)
    points = _Points(values.reshape(len(rows), num_points, 3), dataset.skeleton)
    truth = _picture(image, size, boxes, [row.get("segmentation") for row in rows], points, states, labels)
    shown = np.argsort(-found.scores, kind="stable")
    shown = shown[found.scores[shown] >= threshold]
    num_detections, shown = len(shown), shown[:MOST_DRAWN]
    texts = [class_label(k, names) if len(names) > 1 else "" for k in found.classes[shown].tolist()]
    texts = [f"{text} {score:.2f}".strip() for text, score in zip(texts, found.scores[shown])]
    masks = [{"size": found.image_size, "counts": found.masks[i]} if found.masks else None for i in shown.tolist()]
    points = _Points(np.zeros((0, 0, 3)) if found.keypoints is None else found.keypoints[shown], dataset.skeleton)
    return WorstImage(
        name,
        truth,
        _picture(image, size, found.boxes[shown], masks, points, results[shown], texts),
        int((~crowd).sum()),
        num_detections,
        Counter(names[k] for k in matches.object_classes[~hit].tolist()),
        Counter((names[k], list(KINDS)[n]) for k, n in zip(matches.classes[~right], matches.kind[~right].tolist())),
    )


class _Points(NamedTuple):
    """Keypoints ``(N, P, 3)`` as COCO's files have them, or of no object; and the pairs that a line joins."""

    values: np.ndarray
    skeleton: Sequence[tuple[int, int]]


class _Bitmaps(Sequence[np.ndarray]):
    """Masks in COCO's forms, each decoded when it is asked for."""

    def __init__(self, masks: Sequence[Any], size: tuple[int, int]):
        self.masks, self.size = masks, size

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: Any) -> Any:
        return coco_mask.decode(as_rle(self.masks[index], self.size)).astype(bool)


def _picture(
    image: torch.Tensor,
    size: tuple[int, int],
    boxes: np.ndarray,
    masks: Sequence[Any],
    points: _Points,
    states: np.ndarray,
    labels: Sequence[str],
) -> str:
    """N objects on an image, as a ``data:`` address of a JPEG; ``boxes`` are x, y, width, height in pixels of size."""
    drawing, colors = Drawing(image, size, SIDE, SIDE), COLORS[states]
    known = [i for i, mask in enumerate(masks) if mask]
    drawing.masks(_Bitmaps([masks[i] for i in known], size), colors[known])
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    drawing.boxes(corners, colors, 1 if known else 2, dashed=states == MISSED)
    drawing.keypoints(points.values + [0.5, 0.5, 0], colors[: len(points.values)], points.skeleton)
    drawing.labels(corners, labels, colors)
    file, picture = io.BytesIO(), Image.fromarray(drawing.array())
    picture.thumbnail((2 * SIDE, 2 * SIDE))  # of a long and narrow image
    picture.save(file, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
