"""Objects at the size that the network sees: after the augmentations of training and the model's own resizing."""

import dataclasses

import numpy as np
import torch
from tqdm import tqdm

from detkit.building import built
from detkit.data import Record
from detkit.doctor.contents import Contents
from detkit.doctor.patient import Patient
from detkit.structures import Boxes, Instances


@dataclasses.dataclass(frozen=True)
class InputBoxes:
    """N objects of some images.

    Args:
        boxes: ``(N, 4)`` float64 xyxy in pixels of the network's input.
        canvases: ``(N, 2)`` height and width of the input that each is in.
        rows: ``(N,)`` which annotation each is.
        images: how many images were looked at.
    """

    boxes: np.ndarray
    canvases: np.ndarray
    rows: np.ndarray
    images: int


def input_boxes(patient: Patient, contents: Contents, most: int) -> InputBoxes:
    """The objects of at most ``most`` images, evenly spread, as training's first epoch would feed them.

    Pixels are not read: the augmentations get black images of the right size, and draw as they do in training.
    """
    data, table = patient.experiment.data, contents.objects
    steps = [built("data augmentations", recipe) for recipe in data.train_augmentations]
    starts = np.searchsorted(table.images, np.arange(len(contents) + 1))
    chosen = np.unique(np.linspace(0, len(contents) - 1, min(most, len(contents))).round().astype(int))
    boxes, canvases, rows = [], [], []
    with torch.random.fork_rng(devices=[]):  # a model's resizing draws from torch's generator, which training goes by
        for index in tqdm(chosen.tolist(), "anchors", disable=not patient.bar):
            own = np.arange(int(starts[index]), int(starts[index + 1]))
            own = own[~table.crowd[own]]
            if not len(own):
                continue
            record = _black(contents, index, own)
            rng = np.random.default_rng((patient.experiment.train.seed, 0, index))
            for step in steps:
                record = step(record, rng)
            found, canvas = _resized(patient.model, record)
            boxes.append(found)
            canvases.append(np.tile(canvas, (len(found), 1)))
            rows.append(record.objects.annotation_ids.numpy())
    if not rows:
        return InputBoxes(np.zeros((0, 4)), np.ones((0, 2)), np.zeros(0, np.int64), len(chosen))
    joined = np.concatenate(boxes).astype(np.float64)
    keep = (joined[:, 2:] > joined[:, :2]).all(1)
    return InputBoxes(joined[keep], np.concatenate(canvases)[keep], np.concatenate(rows)[keep], len(chosen))


def _black(contents: Contents, index: int, rows: np.ndarray) -> Record:
    """A record without pixels and masks; its annotation ids are the rows, so that they are found again."""
    height, width = contents.dataset.image_size(index)
    table = contents.objects
    return Record(
        image=np.broadcast_to(np.uint8(0), (height, width, 3)),
        image_id=index,
        file_name=contents.image(index),
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
