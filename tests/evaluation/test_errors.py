"""DetectionErrors: hand-made images with one mistake of each kind, and AP50 as pycocotools has it."""

import numpy as np
import pytest
import torch

from detkit.data import Shapes, TableDataset
from detkit.evaluation.coco_metrics import GroundTruth, coco_metrics
from detkit.evaluation.coco_results import coco_results
from detkit.evaluation.errors import KINDS, DetectionErrors
from detkit.evaluation.interfaces import check_result_names
from detkit.registry import DataError
from detkit.structures import Boxes, Instances, Prediction, Sample

SIZE = (100, 100)
OBJECT, FAR = [10, 10, 30, 30], [70, 70, 90, 90]
"""x1, y1, x2, y2."""


def dataset(objects, crowds=()):
    """One image an entry of ``objects``, each a list of (class, box)."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 100, "width": 100} for i in range(len(objects))]
    rows = [
        {
            "image_id": i,
            "category_id": 5 + k,
            "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]],
            "iscrowd": (i, n) in crowds,
        }
        for i, things in enumerate(objects)
        for n, (k, b) in enumerate(things)
    ]
    return TableDataset(images, [{"id": n, **row} for n, row in enumerate(rows, 1)], {5: "cat", 6: "dog"})


def evaluated(data, detections):
    """The results for (class, box, score) of each image, and the instances."""
    evaluator, found = DetectionErrors(data), []
    for i, things in enumerate(detections):
        columns = list(zip(*things)) or [[], [], []]
        boxes = Boxes(torch.tensor(columns[1], dtype=torch.float32).reshape(-1, 4))
        classes, scores = torch.tensor(columns[0], dtype=torch.int64), torch.tensor(columns[2], dtype=torch.float32)
        found.append(Instances(SIZE, boxes=boxes, classes=classes, scores=scores))
        sample = Sample(torch.zeros(3, 100, 100, dtype=torch.uint8), SIZE, image_id=i)
        evaluator.update([sample], [Prediction(found[-1])])
    results = evaluator.compute()
    assert evaluator.report(results)
    return results["errors"], found


RIGHT = (0, OBJECT, 0.9)
NEAR = [20, 10, 40, 30]
"""IoU of a third with the object."""
CASES = {
    "classification": [(1, OBJECT, 0.8)],
    "localisation": [(0, NEAR, 0.8)],
    "both": [(1, NEAR, 0.8)],
    "duplicate": [RIGHT, (0, [11, 10, 31, 30], 0.8)],
    "background": [RIGHT, (0, FAR, 0.95)],
    "missed": [],
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_mistake_is_of_its_kind(kind):
    # a second image, where all is right, gives both classes an object
    errors, _ = evaluated(dataset([[(0, OBJECT)], [(1, OBJECT)]]), [CASES[kind], [(1, OBJECT, 0.9)]])
    also = {"missed": 1} if kind == "both" else {}  # what is wrong in both would not find its object
    assert errors["counts"] == {**dict.fromkeys(KINDS, 0), kind: 1, **also}
    if kind in ("classification", "localisation"):
        assert errors["AP50"] + errors["cost"][kind] == pytest.approx(1)
    if kind == "background":
        assert errors["AP50"] == pytest.approx(0.75)
        assert errors["cost"]["background"] == pytest.approx(0.25)
    assert all(cost == pytest.approx(0) for name, cost in errors["cost"].items() if name not in (kind, *also))


def test_what_lies_on_a_crowd_is_no_mistake():
    errors, _ = evaluated(dataset([[(0, OBJECT), (0, FAR)]], crowds={(0, 1)}), [[RIGHT, (0, FAR, 0.95)]])
    assert errors["AP50"] == pytest.approx(1)
    assert not any(errors["counts"].values())


@pytest.mark.parametrize("seed", range(5))
def test_ap50_is_cocos(seed):
    rng = np.random.default_rng(seed)

    def boxes(number):
        corner = rng.integers(0, 60, (number, 2))
        return np.concatenate([corner, corner + rng.integers(10, 40, (number, 2))], 1).tolist()

    objects = [[(int(rng.integers(2)), box) for box in boxes(rng.integers(0, 6))] for _ in range(30)]
    guesses = [
        [
            (k if rng.random() < 0.8 else 1 - k, [v + int(rng.integers(-4, 5)) for v in b], float(rng.random()))
            for k, b in o
        ]
        + [(int(rng.integers(2)), box, float(rng.random())) for box in boxes(3)]
        for o in objects
    ]
    data = dataset(objects)
    errors, found = evaluated(data, guesses)
    rows = [row for i, instances in enumerate(found) for row in coco_results(i, instances, data.category_ids)]
    expected = coco_metrics(GroundTruth(data.coco(), data.class_names), rows, "box", 100, False)
    assert errors["AP50"] == pytest.approx(expected["AP50"], abs=1e-6)
    assert all(cost >= -1e-9 for cost in errors["cost"].values())
    assert errors["num_detections"] == sum(g[2] >= 0.3 for guess in guesses for g in guess)


def test_mistakes_of_boxes_and_of_masks_go_together():
    data = Shapes(num_images=2, seed=1)
    evaluators = [DetectionErrors(data, task=task) for task in ("box", "mask")]
    check_result_names(evaluators)
    for index in range(len(data)):
        record = data[index]
        found = record.objects.with_fields(scores=torch.ones(len(record.objects)))
        sample = Sample(torch.from_numpy(record.image), record.original_size, image_id=record.image_id)
        for evaluator in evaluators:
            evaluator.update([sample], [Prediction(found)])
    results = evaluators[0].compute() | evaluators[1].compute()
    assert {name: (found["task"], found["AP50"]) for name, found in results.items()} == {
        "errors": ("box", 1),
        "mask_errors": ("mask", 1),
    }
    assert [evaluator.report(results).split()[0] for evaluator in evaluators] == ["box", "mask"]


def test_masks_are_missed_before_anything_is_predicted():
    with pytest.raises(DataError, match=r"1 of 1 have none \(the first: annotation 1\); set task: box"):
        DetectionErrors(dataset([[(0, OBJECT)]]), task="mask")
