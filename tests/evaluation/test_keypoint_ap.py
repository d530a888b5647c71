"""Keypoint AP: pycocotools' numbers, with one's own sigmas, crowds, objects without keypoints, and results files."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
import torch
from coco_oracle import JsonDataset
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detkit.evaluation import CocoEvaluator
from detkit.registry import DataError
from detkit.structures import Boxes, Instances, Keypoints, Prediction, Sample

STATS = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
NAMES = ["head", "left_hand", "right_hand"]


@pytest.fixture(scope="module")
def persons(shared_data):
    return json.loads((shared_data / "coco_mini/annotations/person_keypoints_val2017.json").read_text())


def made_up(rng):
    """Three points an object: some without any, some without the key, crowds, and areas that are not the boxes'."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 300, "width": 400} for i in range(1, 7)]
    rows = []
    for image in images:
        for _ in range(int(rng.integers(0, 9))):
            x, y, w, h = rng.uniform(10, 120), rng.uniform(10, 100), rng.uniform(8, 200), rng.uniform(8, 180)
            points = np.column_stack([rng.uniform(x, x + w, 3), rng.uniform(y, y + h, 3), rng.integers(0, 3, 3)])
            points[points[:, 2] == 0] = 0
            crowd = int(rng.random() < 0.15)
            row = {"id": len(rows), "image_id": image["id"], "category_id": 1 + int(rng.integers(2)), "iscrowd": crowd}
            row |= {"bbox": [x, y, w, h], "area": w * h * rng.uniform(0.3, 1)}
            rows.append(row if rng.random() < 0.1 else {**row, "keypoints": points.ravel().tolist()})
    categories = [{"id": i, "name": n, "keypoints": NAMES, "skeleton": [[1, 2]]} for i, n in ((1, "cat"), (2, "dog"))]
    return {"images": images, "annotations": rows, "categories": categories}


def noisy(coco, rng):
    """Results near the ground truth and elsewhere, with ties, and more than 20 in an image."""
    rows = []
    for a in coco["annotations"]:
        points = np.reshape(a.get("keypoints") or [50.0, 50, 0] * len(coco["categories"][0]["keypoints"]), (-1, 3))
        for _ in range(int(rng.integers(0, 12))):
            moved = points + rng.normal(0, rng.choice([0.3, 3, 30]), points.shape)
            moved[:, 2] = rng.random(len(moved))
            box = (np.array(a["bbox"]) + rng.normal(0, 2, 4)).clip(1).tolist()
            row = {"image_id": a["image_id"], "category_id": a["category_id"], "score": round(float(rng.random()), 1)}
            rows.append({**row, "bbox": box, "keypoints": moved.ravel().tolist()})
    return rows


def pycocotools(coco, results, sigmas=None):
    coco = copy.deepcopy(coco)
    for n, a in enumerate(coco["annotations"], 1):
        a.setdefault("keypoints", [0] * 3 * len(coco["categories"][0]["keypoints"]))
        a |= {"id": n, "num_keypoints": sum(v > 0 for v in a["keypoints"][2::3])}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "keypoints")
        evaluation.params.kpt_oks_sigmas = evaluation.params.kpt_oks_sigmas if sigmas is None else np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(STATS, evaluation.stats.tolist()))


def measured(coco, results, tmp_path, **options):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    evaluator = CocoEvaluator(JsonDataset(coco), **options)
    evaluator.read_results(path)
    return evaluator.compute()


@pytest.mark.parametrize("boxes", [True, False])
def test_cocos_persons_as_pycocotools_has_them(persons, boxes, tmp_path):
    results = noisy(persons, np.random.default_rng(0))
    if not boxes:  # as COCO's own results files are: the size is that of the box around the points
        results = [{key: value for key, value in row.items() if key != "bbox"} for row in results]
    found = measured(persons, results, tmp_path)["keypoints"]
    assert {name: found[name] for name in STATS} == pytest.approx(pycocotools(persons, results), abs=1e-9)
    assert 0.05 < found["AP"] < 0.95


@pytest.mark.parametrize("seed", range(4))
def test_own_keypoints_sigmas_and_classes(seed, tmp_path):
    rng, sigmas = np.random.default_rng(seed), [0.03, 0.1, 0.2]
    coco = made_up(rng)
    results = noisy(coco, rng)
    expected = pycocotools(coco, results, sigmas)
    found = measured(coco, results, tmp_path, keypoint_sigmas=tuple(sigmas))
    assert {name: found["keypoints"][name] for name in STATS} == pytest.approx(expected, abs=1e-9)
    assert set(found["keypoints"]["per_class"]) == {"cat", "dog"}
    for category in coco["categories"]:
        category["sigmas"] = sigmas
    assert measured(coco, results, tmp_path)["keypoints"] == found["keypoints"], "a file may say them"


@pytest.mark.parametrize("given", ["near", "nothing", "a class without objects alone"])
def test_a_class_without_objects_and_images_without_detections(given, tmp_path):
    coco = made_up(np.random.default_rng(7))
    coco["annotations"] = [a for a in coco["annotations"] if a["category_id"] == 2 and a["image_id"] < 5]
    results = noisy(coco, np.random.default_rng(8))
    if given != "near":
        results = [{**row, "category_id": 1} for row in results] if given[0] == "a" else []
    found = measured(coco, results, tmp_path, tasks=("keypoints",), keypoint_sigmas=(0.05,) * 3)["keypoints"]
    if results:
        expected = pycocotools(coco, results, [0.05] * 3)
        assert {name: found[name] for name in STATS} == pytest.approx(expected, abs=1e-9)
    assert found["per_class"]["cat"] == -1
    assert (found["AP"] == 0) == (given != "near")
    assert found["per_class"]["dog"] == found["AP"]


def test_predictions_become_results_that_pycocotools_reads():
    coco = made_up(np.random.default_rng(5))
    evaluator = CocoEvaluator(JsonDataset(coco), keypoint_sigmas=(0.05,) * 3)
    for image in coco["images"]:
        rows = [a for a in coco["annotations"] if a["image_id"] == image["id"] and "keypoints" in a]
        boxes = torch.tensor([a["bbox"] for a in rows]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        points = torch.tensor([a["keypoints"] for a in rows]).reshape(-1, 3, 3) + torch.tensor([0.5, 0.5, 0])
        classes = torch.tensor([a["category_id"] - 1 for a in rows], dtype=torch.long)
        fields = {"boxes": Boxes(boxes), "classes": classes, "scores": torch.rand(len(rows))}
        found = Instances((300, 400), keypoints=Keypoints(points), **fields)
        sample = Sample(image=torch.zeros(3, 1, 1), original_size=(300, 400), image_id=image["id"])
        evaluator.update([sample], [Prediction(found)])
    metrics = evaluator.compute()
    expected = pycocotools(coco, evaluator.results(), [0.05] * 3)
    assert {name: metrics["keypoints"][name] for name in STATS} == pytest.approx(expected, abs=1e-9)
    assert metrics["keypoints"]["AP"] > 0.5
    assert "keypoints AP" in evaluator.report(metrics)


def test_what_does_not_fit_is_said(persons, tmp_path):
    dataset = JsonDataset(persons)
    empty = {"boxes": Boxes([]), "classes": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}
    sample = Sample(image=torch.zeros(3, 1, 1), original_size=(9, 9), image_id=persons["images"][0]["id"])
    three = Instances((9, 9), keypoints=Keypoints(torch.zeros(0, 3, 3)), **empty)
    with pytest.raises(ValueError, match="predicts 3 keypoints, the dataset has 17"):
        CocoEvaluator(dataset).update([sample], [Prediction(three)])
    with pytest.raises(ValueError, match=r"predicts no keypoints; set tasks: \[box\]"):
        CocoEvaluator(dataset, tasks=("keypoints",)).update([sample], [Prediction(Instances((9, 9), **empty))])
    bare = {**persons, "categories": [{"id": 1, "name": "person"}]}
    row = {"image_id": persons["images"][0]["id"], "category_id": 1, "score": 0.5, "bbox": [1, 1, 2, 2]}
    assert set(measured(bare, [{**row, "keypoints": [1.0, 1, 1]}], tmp_path)) == {"box"}
    with pytest.raises(DataError, match="needs data with keypoints"):
        measured(bare, [row], tmp_path, tasks=("keypoints",))
    with pytest.raises(DataError, match="entry 0"):
        measured(persons, [{**row, "keypoints": [1.0, 1, 1]}], tmp_path)
    dataset.keypoint_names = tuple(persons["categories"][0]["keypoints"])
    with pytest.raises(ValueError, match="expected 17 numbers, one a keypoint, got 2"):
        CocoEvaluator(dataset, keypoint_sigmas=(0.1, 0.2))
