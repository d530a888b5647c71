"""Objects at the size that the network sees: after the augmentations of training and the model's own resizing."""

import dataclasses

import numpy as np
import torch
from tqdm import tqdm

from detkit.building import built
from detkit.data import Record
from detkit.doctor.context import CheckContext
from detkit.doctor.stats import DatasetStats
from detkit.structures import Boxes, Instances


@dataclasses.dataclass(frozen=True)
class InputBoxes:
    """N objects of some images.

    Args:
        boxes: ``(N, 4)`` float64 xyxy in pixels of the network's input.
        sizes: ``(N, 2)`` height and width of the input that each is in.
        rows: ``(N,)`` which annotation each is.
        images: how many images were taken.
    """

    boxes: np.ndarray
    sizes: np.ndarray
    rows: np.ndarray
    images: int


def input_boxes(context: CheckContext, stats: DatasetStats, most: int) -> InputBoxes:
    """The objects of at most ``most`` images, evenly spread, as training's first epoch would feed them.

    Pixels are not read: the augmentations get black images of the right size, and draw the random numbers of training.
    """
    data, table = context.experiment.data, stats.objects
    steps = [built("data augmentations", recipe) for recipe in data.train_augmentations]
    starts = np.searchsorted(table.images, np.arange(len(stats) + 1))
    chosen = np.unique(np.linspace(0, len(stats) - 1, min(most, len(stats))).round().astype(int))
    boxes, sizes, rows = [], [], []
    with torch.random.fork_rng(
        devices=[]
    ):  # a model's resizing draws from torch's generator, which training needs as it is
        for index in tqdm(chosen.tolist(), "anchors", disable=not context.bar):
            own = np.arange(int(starts[index]), int(starts[index + 1]))
            own = own[~table.crowd[own]]
            if not len(own):
                continue
            record = _black(stats, index, own)
            rng = np.random.default_rng((context.experiment.train.seed, 0, index))
            for step in steps:
                record = step(record, rng)
            found, size = _resized(context.model, record)
            boxes.append(found)
            sizes.append(np.tile(size, (len(found), 1)))
            rows.append(record.objects.annotation_ids.numpy())
    if not rows:
        return InputBoxes(np.zeros((0, 4)), np.ones((0, 2)), np.zeros(0, np.int64), len(chosen))
    joined = np.concatenate(boxes).astype(np.float64)
    keep = (joined[:, 2:] > joined[:, :2]).all(1)
    return InputBoxes(joined[keep], np.concatenate(sizes)[keep], np.concatenate(rows)[keep], len(chosen))


def _black(stats: DatasetStats, index: int, rows: np.ndarray) -> Record:
    """A record without pixels and masks; its annotation ids are the rows, so that they are found again."""
    height, width = stats.dataset.image_size(index)
    table = stats.objects
    return Record(
        image=np.broadcast_to(np.uint8(0), (height, width, 3)),
        image_id=index,
        file_name=stats.image(index),
        original_size=(height, width),
        objects=Instances(
            (height, width),
            boxes=Boxes(torch.from_numpy(table.boxes[rows].copy())),
            classes=torch.from_numpy(table.classes[rows].copy()),
            crowd=torch.from_numpy(table.crowd[rows].copy()),
            annotation_ids=torch.from_numpy(rows),
        ),
    )


def _resized(model: torch.nn.Module | None, record: Record) -> tuple[np.ndarray, tuple[int, int]]:
    """The record's boxes and its size after the model's own resizing."""
    boxes, size = record.objects.boxes, record.size
    resize = getattr(getattr(model, "preprocess", None), "resize", None)
    if resize is None:
        return boxes.numpy(), size
    target = Instances(size, boxes=boxes)
    _, target = resize(torch.empty(3, *size, device="meta"), target, training=True)
    return target.boxes.tensor.numpy(), target.image_size
