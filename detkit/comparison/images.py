"""The images that both sides look at, with the objects that the losses are computed for."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from detkit.data import Augmentation, CocoInstances, Record, bare_record, read_image, to_sample
from detkit.registry import DataError
from detkit.structures import BitMasks, Boxes, Instances, Sample


def read_images(
    files: Sequence[str | Path], annotations: str | Path | None = None, class_names: Sequence[str] | None = None
) -> list[Record]:
    """Images, with their annotations where a file has them.

    Args:
        files: images.
        annotations: a COCO instances JSON that lists images of these names; crowds are left out.
        class_names: the model's classes, where they are known: categories are found in them by name. Else classes are
            numbered in the order of the category ids.

    Raises:
        DataError: a file that cannot be read, or an image that the JSON does not list.
    """
    if annotations is None:
        return [_bare(Path(file)) for file in files]
    paths = [Path(file) for file in files]
    listed = {folder: _Listed(str(annotations), folder, class_names) for folder in {path.parent for path in paths}}
    return [listed[path.parent].record(path) for path in paths]


class _Listed:
    """The images of a folder that a COCO JSON lists."""

    def __init__(self, annotations: str, folder: Path, class_names: Sequence[str] | None):
        self.dataset = CocoInstances(json_file=annotations, image_root=str(folder), keep_crowd=False, check_images=0)
        names = [Path(image["file_name"]).name for image in self.dataset.coco()["images"]]
        self.index = {name: index for index, name in enumerate(names)}
        theirs = list(self.dataset.class_names)
        ours = list(class_names or ())
        self.classes = torch.tensor([ours.index(n) for n in theirs] if set(theirs) <= set(ours) else range(len(theirs)))

    def record(self, path: Path) -> Record:
        """The image with its objects."""
        if path.name not in self.index:
            raise DataError(f"{self.dataset.json_file}: lists no image named {path.name}")
        record = self.dataset[self.index[path.name]]
        return record.with_objects(record.objects.with_fields(classes=self.classes[record.objects.classes]))


def _bare(file: Path) -> Record:
    return dataclasses.replace(bare_record(read_image(str(file)), str(file)), image_id=file.stem)


def with_made_up_objects(record: Record, found: Instances, num_classes: int, seed: int = 0) -> Record:
    """The record with objects to compute losses for: some of what was found, and some boxes at random.

    Their masks are rectangles.

    Args:
        record: without objects.
        found: detections in the pixels of the image: ``boxes``, ``classes``, best first.
        num_classes: K.
        seed: of the random ones.
    """
    height, width = record.original_size
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (3, 2, 2)), axis=1) * (0.7, 0.7) + rng.uniform(0, 0.2, (3, 1, 2))
    corners[:, 1] += 0.1
    drawn = (corners * (width, height)).reshape(-1, 4)
    boxes = np.concatenate([found.boxes.numpy()[:5], drawn]).round().clip(0, (width, height, width, height))
    classes = np.concatenate([found.classes.numpy()[:5], rng.integers(0, num_classes, len(drawn))])
    large = (boxes[:, 2:] - boxes[:, :2] >= 4).all(1)
    boxes, classes = boxes[large], classes[large]
    masks = torch.zeros((len(boxes), height, width), dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int)):
        mask[y1:y2, x1:x2] = True
    objects = Instances(
        (height, width),
        boxes=Boxes(torch.from_numpy(boxes)),
        classes=torch.from_numpy(classes),
        crowd=torch.zeros(len(boxes), dtype=torch.bool),
        annotation_ids=torch.arange(len(boxes)),
        masks=BitMasks(masks),
    )
    return record.with_objects(objects)


def as_sample(record: Record, augmentations: Sequence[Augmentation], *, bitmaps: bool) -> Sample:
    """The record as detkit's model takes it, with its target; its masks as bitmaps, or as they are."""
    rng = np.random.default_rng(0)
    for augmentation in augmentations:
        record = augmentation(record, rng)
    return to_sample(record, "bitmap" if bitmaps else "polygon")
