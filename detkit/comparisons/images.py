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
    paths = [Path(file) for file in files]
    if annotations is None:
        return [
            dataclasses.replace(bare_record(read_image(str(path)), str(path)), image_id=path.stem) for path in paths
        ]
    datasets = {
        folder: CocoInstances(json_file=str(annotations), image_root=str(folder), keep_crowd=False, check_images=0)
        for folder in {path.parent for path in paths}
    }
    return [_annotated(path, datasets[path.parent], list(class_names or ())) for path in paths]


def _annotated(path: Path, dataset: CocoInstances, class_names: list[str]) -> Record:
    """The image with its objects, whose classes are those of ``class_names`` where all are known there."""
    names = [Path(dataset.image_path(index) or "").name for index in range(len(dataset))]
    if path.name not in names:
        raise DataError(f"{path}: the annotations list no image named {path.name}")
    record, known = dataset[names.index(path.name)], dataset.class_names
    classes = [class_names.index(name) for name in known] if set(known) <= set(class_names) else range(len(known))
    objects = record.objects
    return record.with_objects(objects.with_fields(classes=torch.tensor(classes)[objects.classes]))


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
    corners = rng.uniform(0.0, 0.6, (3, 2))
    shares = np.concatenate([corners, corners + rng.uniform(0.1, 0.4, (3, 2))], axis=1)
    boxes = np.concatenate([found.boxes.numpy()[:5], shares * (width, height, width, height)])
    boxes = boxes.round().clip(0, (width, height, width, height))
    classes = np.concatenate([found.classes.numpy()[:5], rng.integers(0, num_classes, len(shares))])
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
