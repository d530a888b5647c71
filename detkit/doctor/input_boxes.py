"""Objects at the size that the network sees: after the augmentations of training and the model's own resizing."""

import dataclasses

import numpy as np
import torch

from detkit.data import Dataset, Record
from detkit.doctor.interfaces import CheckContext
from detkit.doctor.stats import DatasetStats
from detkit.structures import Boxes, Instances
from detkit.utils.progress import watched


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


class BlackImages(Dataset):
    """A dataset's objects without their masks on black images; the annotation ids are the rows of its table."""

    def __init__(self, stats: DatasetStats):
        super().__init__()
        self.stats = stats
        self.starts = np.searchsorted(stats.objects.images, np.arange(len(stats) + 1))

    def __len__(self) -> int:
        return len(self.stats)

    def __getitem__(self, index: int) -> Record:
        size, table = self.stats.dataset.image_size(index), self.stats.objects
        rows = np.arange(self.starts[index], self.starts[index + 1])
        objects = Instances(
            size,
            boxes=Boxes(torch.from_numpy(table.boxes[rows])),
            classes=torch.from_numpy(table.classes[rows]),
            crowd=torch.from_numpy(table.crowd[rows]),
            annotation_ids=torch.from_numpy(rows),
        )
        return Record(np.broadcast_to(np.uint8(0), (*size, 3)), index, self.stats.image(index), size, objects)


def input_boxes(context: CheckContext, stats: DatasetStats, most: int) -> InputBoxes:
    """The objects of at most ``most`` images, evenly spread, as training's first epoch would feed them.

    Pixels are not read: the augmentations get black images of the right size, and the random numbers of training.
    """
    seed = context.experiment.train.seed
    mapper = context.experiment.data.train_mapper(BlackImages(stats), seed)
    chosen = np.array(stats.sample(most), np.int64)
    found = [(np.zeros((0, 4)), np.zeros((0, 2)), np.zeros(0, np.int64))]
    with torch.random.fork_rng(devices=[]):  # a model's resizing draws from torch's generator, as training does
        for index in watched(chosen[stats.count_objects()[chosen] > 0].tolist(), "anchors", show=context.bar):
            record = mapper.record(index, np.random.default_rng((seed, 0, index)))
            record = record.select(~record.objects.crowd)
            boxes, size = _resized(context.model, record)
            found.append((boxes, np.tile(size, (len(boxes), 1)), record.objects.annotation_ids.numpy()))
    joined, sizes, rows = (np.concatenate(column) for column in zip(*found))
    keep = (joined[:, 2:] > joined[:, :2]).all(1)
    return InputBoxes(joined[keep].astype(np.float64), sizes[keep], rows[keep], len(chosen))


def _resized(model: torch.nn.Module | None, record: Record) -> tuple[np.ndarray, tuple[int, int]]:
    """The record's boxes and its size after the model's own resizing."""
    boxes, size = record.objects.boxes, record.size
    resize = getattr(getattr(model, "preprocess", None), "resize", None)
    if resize is None:
        return boxes.numpy(), size
    target = Instances(size, boxes=boxes)
    _, target = resize(torch.empty(3, *size, device="meta"), target, training=True)
    return target.boxes.numpy(), target.image_size
