"""The metrics equal pycocotools'."""

import json

import numpy as np
import pytest
from coco_oracle import JsonDataset, noisy_results, pycocotools_metrics

from detkit.evaluation.coco_metrics import GroundTruth, coco_metrics
from detkit.registry import DataError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def coco_mini_results(coco_mini):
    return noisy_results(coco_mini, np.random.default_rng(0), copies=6)


def metrics(coco, results, task, max_detections=100):
    return coco_metrics(GroundTruth(coco, JsonDataset(coco).class_names), results, task, max_detections, True)


def assert_equal_metrics(ours, oracle):
    stats, classes = oracle
    assert len(stats) == 12
    for name, value in stats.items():
        assert ours[name] == pytest.approx(value, abs=1e-12), name
    assert ours["per_class"] == pytest.approx(classes, abs=1e-12)


@pytest.mark.parametrize("task", ["box", "mask"])
@pytest.mark.parametrize("limits", [[1, 10, 100], [1, 10, 200], [1, 10, 12]])
def test_equals_pycocotools_on_photographs(coco_mini, coco_mini_results, task, limits):
    results = coco_mini_results
    per_image_and_class = {}
    for r in results:
        key = r["image_id"], r["category_id"]
        per_image_and_class[key] = per_image_and_class.get(key, 0) + 1
    assert max(per_image_and_class.values()) > 12  # so the smallest limit cuts something off
    ours = metrics(coco_mini, results, task, limits[-1])
    assert 0.05 < ours["AP"] < 0.95
    assert_equal_metrics(ours, pycocotools_metrics(coco_mini, results, task, limits))


@pytest.mark.parametrize("task", ["box", "mask"])
def test_equals_pycocotools_on_many_small_objects(shared_data, task):
    coco = json.loads((shared_data / "nuclei/annotations/instances_val.json").read_text())
    coco["images"] = coco["images"][:10]
    kept = {i["id"] for i in coco["images"]}
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in kept]
    results = noisy_results(coco, np.random.default_rng(1), copies=4)
    for limit in (100, 200):
        assert_equal_metrics(
            metrics(coco, results, task, limit), pycocotools_metrics(coco, results, task, [1, 10, limit])
        )


def test_more_detections_count_at_a_higher_limit(shared_data):
    coco = json.loads((shared_data / "nuclei/annotations/instances_val.json").read_text())
    results = [
        {"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.5} for a in coco["annotations"]
    ]
    assert metrics(coco, results, "box", 1000)["AP"] == pytest.approx(1.0)
    assert metrics(coco, results, "box", 20)["AP"] < 0.9


def tiny(annotations, images=2, classes=("cat", "dog")):
    return {
        "images": [{"id": i, "height": 200, "width": 200} for i in range(images)],
        "categories": [{"id": k, "name": n} for k, n in enumerate(classes, 1)],
        "annotations": annotations,
    }


def box(ann_id, image_id=0, category_id=1, bbox=(10, 10, 20, 20), iscrowd=0, **more):
    area = bbox[2] * bbox[3]
    return {
        "id": ann_id, "image_id": image_id, "category_id": category_id, "bbox": list(bbox), "area": area,
        "iscrowd": iscrowd, **more,
    }  # fmt: skip


def test_an_annotation_of_id_zero_counts():
    """pycocotools would take the match with id 0 for no match."""
    coco = tiny([box(0)])
    found = [{"image_id": 0, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.9}]
    assert metrics(coco, found, "box")["AP"] == pytest.approx(1.0)


def test_image_ids_may_be_words():
    coco = tiny([box(1, "b"), box(2, "a", bbox=(50, 50, 100, 100))])
    coco["images"] = [{"id": name, "height": 200, "width": 200} for name in "ba"]
    found = [{"image_id": "a", "category_id": 1, "bbox": [50, 50, 100, 100], "score": 0.9}]
    ours = metrics(coco, found, "box")
    assert (ours["APl"], ours["APs"]) == (pytest.approx(1.0), 0.0)


def test_reasons_for_what_cannot_be_measured():
    ours = metrics(
        tiny([box(1), box(2, category_id=3, iscrowd=1)], classes=("cat", "dog", "herd")),
        [{"image_id": 0, "category_id": 2, "bbox": [10, 10, 20, 20], "score": 0.9}],
        "box",
    )
    assert ours["APm"] == ours["ARl"] == ours["per_class"]["dog"] == -1
    assert ours["AP"] == 0.0
    reasons = ours["reasons"]
    assert "larger than 96 x 96" in reasons["APl"]
    assert "APs" not in reasons
    assert reasons["per_class"]["dog"] == "no image of the test set has an object of this class"
    assert "only crowd regions" in reasons["per_class"]["herd"]
    assert reasons["per_class"]["cat"] == "the model predicted no object of this class"


def test_reason_for_predicting_nothing_and_for_no_ground_truth():
    silent = metrics(tiny([box(1)]), [], "box")
    assert silent["AP"] == 0.0
    assert silent["reasons"]["AP"] == "the model predicted nothing on all 2 images"
    bare = metrics(tiny([]), [], "box")
    assert bare["AP"] == -1
    assert "no ground truth" in bare["reasons"]["AP"]
    assert metrics(tiny([], images=0), [], "box")["AR100"] == -1


def test_json_ready(coco_mini):
    json.dumps(metrics(coco_mini, [], "mask"), allow_nan=False)


def test_mask_metrics_need_masks():
    with pytest.raises(DataError, match="annotation 7"):
        metrics(tiny([box(7)]), [], "mask")
