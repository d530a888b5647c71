"""Small test sets with hand-made detections, as the report takes them."""

import numpy as np
import torch
from PIL import Image

from detkit.data import TableDataset
from detkit.evaluation import CocoEvaluator
from detkit.structures import BitMasks, Boxes, Instances, Prediction, Sample

SIZE = (100, 100)
OBJECT, NEAR, FAR = [10, 10, 30, 30], [20, 10, 40, 30], [70, 70, 90, 90]
"""x1, y1, x2, y2; ``NEAR`` has an IoU of a third with the object."""
NAMES = ("cat", "dog")


def square(box):
    """The polygon of a box."""
    x1, y1, x2, y2 = map(float, box)
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def dataset(folder, objects, names=NAMES, crowds=(), masks=True, files=()):
    """One image an entry of ``objects``, each a list of (class, box); ``files`` are names of the first files."""
    images = []
    for i in range(len(objects)):
        name = files[i] if i < len(files) else f"{i}.png"
        Image.fromarray(np.full((*SIZE, 3), 40 * (i % 6), np.uint8)).save(folder / name)
        images.append({"id": i, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
    rows = [
        {
            "image_id": i,
            "category_id": 5 + k,
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "iscrowd": (i, n) in crowds,
            **({"segmentation": square(box)} if masks else {}),
        }
        for i, things in enumerate(objects)
        for n, (k, box) in enumerate(things)
    ]
    rows = [{"id": n, **row} for n, row in enumerate(rows, 1)]
    return TableDataset(images, rows, {5 + k: name for k, name in enumerate(names)}, image_root=str(folder))


def instances(things, masks=True):
    """Of a list of (class, box, score)."""
    classes, boxes, scores = list(zip(*things)) or [[], [], []]
    fields = {"boxes": Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))}
    if masks:
        bitmaps = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
        for bitmap, (x1, y1, x2, y2) in zip(bitmaps, boxes):
            bitmap[y1:y2, x1:x2] = True
        fields["masks"] = BitMasks(bitmaps)
    classes, scores = torch.tensor(classes, dtype=torch.int64), torch.tensor(scores, dtype=torch.float32)
    return Instances(SIZE, classes=classes, scores=scores, **fields)


def sample(image_id):
    """A black image."""
    return Sample(torch.zeros(3, *SIZE, dtype=torch.uint8), SIZE, image_id=image_id)


def evaluated(data, detections, masks=True, **options):
    """The evaluator and its results for the (class, box, score) of each image."""
    evaluator = CocoEvaluator(data, **options)
    for i, things in enumerate(detections):
        evaluator.update([sample(i)], [Prediction(instances(things, masks))])
    timing = {"images": len(detections), "seconds": 2.0, "model_seconds": 1.0, "images_per_second": 0.5}
    return evaluator, {**evaluator.compute(), "timing": timing}


def random_case(folder, seed, num_images=25, names=("a", "b", "c")):
    """Objects, and detections of most of them among others, a few on crowds."""
    rng = np.random.default_rng(seed)

    def boxes(number):
        corner = rng.integers(0, 60, (number, 2))
        return np.concatenate([corner, corner + rng.integers(10, 40, (number, 2))], 1).tolist()

    objects = [[(int(rng.integers(len(names))), box) for box in boxes(rng.integers(0, 6))] for _ in range(num_images)]
    guesses = [
        [
            (
                k if rng.random() < 0.7 else (k + 1) % len(names),
                [v + int(rng.integers(0, 5)) for v in box],
                rng.random(),
            )
            for k, box in things
        ]
        + [(int(rng.integers(len(names))), box, rng.random()) for box in boxes(3)]
        for things in objects
    ]
    crowds = {(i, 0) for i in range(0, num_images, 5)}
    return dataset(folder, objects, names, crowds), guesses, objects, crowds
