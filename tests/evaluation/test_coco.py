import copy
import json
import logging

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from coco_oracle import JsonDataset, noisy_results, pycocotools_metrics
from processes import in_processes

from detkit.evaluation import EVALUATORS, CocoEvaluator, coco_results, evaluate, write_evaluation
from detkit.registry import DataError
from detkit.structures import BitMasks, Boxes, Instances, Keypoints, Prediction, Sample

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def to_pairs(coco, results):
    """Every image's sample and its results as Instances."""
    samples, outputs = [], []
    for image in coco["images"]:
        size = image["height"], image["width"]
        rows = [r for r in results if r["image_id"] == image["id"]]
        boxes = np.array([r["bbox"] for r in rows], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        outputs.append(
            Instances(
                size,
                boxes=Boxes(torch.from_numpy(boxes)),
                scores=torch.tensor([r["score"] for r in rows]),
                classes=torch.tensor([r["category_id"] - 1 for r in rows], dtype=torch.int64),
                masks=BitMasks(np.array([coco_mask.decode(r["segmentation"]) for r in rows]).reshape(-1, *size)),
            )
        )
        samples.append(Sample(torch.zeros(3, 1, 1, dtype=torch.uint8), size, image["id"]))
    return samples, outputs


def filled(dataset, samples, outputs, **options):
    evaluator = CocoEvaluator(dataset, **options)
    predictions = [Prediction(instances) for instances in outputs]
    for i in range(0, len(samples), 4):
        evaluator.update(samples[i : i + 4], predictions[i : i + 4])
    return evaluator


@pytest.fixture(scope="module")
def part(coco_mini):
    """24 photographs with predictions."""
    coco = copy.deepcopy(coco_mini)
    coco["images"] = coco["images"][:24]
    kept = {i["id"] for i in coco["images"]}
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in kept]
    return coco, *to_pairs(coco, noisy_results(coco, np.random.default_rng(3)))


@pytest.fixture
def squares():
    """Three images, two classes, an object on each image, and predictions that fit."""
    images = [{"id": i, "height": 60, "width": 80} for i in (5, 3, 9)]
    annotations = [
        {
            "id": n, "image_id": i["id"], "category_id": 1 + n % 2, "bbox": [10, 10, 30, 20], "area": 600, "iscrowd": 0,
            "segmentation": [[10, 10, 40, 10, 40, 30, 10, 30]],
        }
        for n, i in enumerate(images)
    ]  # fmt: skip
    coco = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    mask = torch.zeros(1, 60, 80, dtype=torch.bool)
    mask[:, 10:30, 10:40] = True
    samples = [Sample(torch.zeros(3, 1, 1, dtype=torch.uint8), (60, 80), i["id"]) for i in images]
    outputs = [
        Instances(
            (60, 80),
            boxes=Boxes([[10, 10, 40, 30]]),
            scores=torch.tensor([0.5]),
            classes=torch.tensor([n % 2]),
            masks=BitMasks(mask),
        )
        for n in range(3)
    ]
    return JsonDataset(coco), samples, outputs


def test_is_registered():
    assert EVALUATORS.get("CocoEvaluator") is CocoEvaluator


def test_metrics_of_instances_equal_pycocotools(part):
    coco, samples, outputs = part
    evaluator = filled(JsonDataset(coco), samples, outputs)
    results = evaluator.compute()
    assert results.keys() == {"box", "mask"}
    for task, ours in results.items():
        stats, classes = pycocotools_metrics(coco, evaluator.results(), task, [1, 10, 100])
        assert {k: ours[k] for k in stats} == pytest.approx(stats, abs=1e-12)
        assert ours["per_class"] == pytest.approx(classes, abs=1e-12)
    json.dumps(results, allow_nan=False)


def test_perfect_predictions_give_one(squares):
    results = filled(*squares).compute()
    assert results["box"]["AP"] == pytest.approx(1.0)
    assert results["mask"]["AP"] == pytest.approx(1.0)
    assert results["mask"]["per_class"] == pytest.approx({"a": 1.0, "b": 1.0})


def test_an_image_given_twice_counts_once(squares):
    dataset, samples, outputs = squares
    once, twice = filled(dataset, samples, outputs), filled(dataset, samples + samples, outputs + outputs)
    assert twice.compute() == once.compute()
    assert twice.results() == once.results()


def test_reset_forgets(squares):
    evaluator = filled(*squares)
    evaluator.reset()
    assert evaluator.results() == []
    assert evaluator.compute()["box"]["AP"] == 0.0


def test_images_that_were_not_given_count_as_missed_and_are_named(squares, caplog):
    dataset, samples, outputs = squares
    results = filled(dataset, samples[:1], outputs[:1]).compute()
    assert results["box"]["per_class"]["a"] == pytest.approx(0.5, abs=0.01)
    assert "1 of the dataset's 3 images" in caplog.text


def test_tasks_follow_data_and_predictions(squares, caplog):
    dataset, samples, outputs = squares
    boxes_only = [o.without("masks") for o in outputs]
    assert filled(dataset, samples, boxes_only).compute().keys() == {"box"}
    assert filled(dataset, samples, outputs, tasks=("mask",)).compute().keys() == {"mask"}
    without = dataset.coco()
    for a in without["annotations"]:
        del a["segmentation"]
    assert filled(JsonDataset(without), samples, outputs).compute().keys() == {"box"}
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    for tasks, words in ((("box", "mask"), "mask AP .* have none"), (("keypoints",), "keypoint AP .* have none")):
        with pytest.raises(DataError, match=words):
            CocoEvaluator(JsonDataset(without), tasks=tasks)
    with pytest.raises(ValueError, match="predicts no masks"):
        filled(dataset, samples, boxes_only, tasks=("mask",))


def test_boundary_ap_is_mask_ap_with_the_lesser_iou_of_masks_and_rims(squares):
    dataset, samples, outputs = squares
    tasks = ("boundary", "mask")
    perfect = filled(dataset, samples, outputs, tasks=tasks).compute()
    assert perfect["boundary"]["AP"] == perfect["mask"]["AP"] == 1.0
    mask = outputs[0].masks.tensor
    thin = mask & mask.roll(1, 2)  # without its first column
    rims = [m & ~eroded(m, 2) for m in (mask, thin)]  # 2 % of the diagonal of 60 x 80 pixels
    iou = ((rims[0] & rims[1]).sum() / (rims[0] | rims[1]).sum()).item()
    assert iou < 0.95 < thin.sum() / mask.sum()
    cut = filled(dataset, samples, [o.with_fields(masks=BitMasks(thin)) for o in outputs], tasks=tasks).compute()
    assert cut["mask"]["AP"] == 1.0
    assert cut["boundary"]["AP"] == pytest.approx(np.mean(np.linspace(0.5, 0.95, 10) <= iou))
    assert "boundary" in CocoEvaluator(dataset, tasks=tasks).report(cut)


def eroded(mask, times):
    """What remains of a mask that loses its outermost pixels so often."""
    for _ in range(times):
        padded = torch.nn.functional.pad(mask[None].float(), (1, 1, 1, 1))
        mask = -torch.nn.functional.max_pool2d(-padded, 3, 1)[0] > 0.5
    return mask


def test_max_detections_names_the_last_recall_and_limits(squares):
    dataset, samples, outputs = squares
    worse = [
        Instances.cat([o.with_fields(scores=o.scores + 0.1, boxes=Boxes(o.boxes + 30)), o]) for o in outputs
    ]  # a better-scored miss before the hit
    results = filled(dataset, samples, worse, max_detections=1).compute()["box"]
    assert [k for k in results if k.startswith("AR")] == ["AR1", "ARs", "ARm", "ARl"]
    assert results["AP"] == 0.0
    assert filled(dataset, samples, worse, max_detections=200).compute()["box"]["AR200"] == pytest.approx(1.0)


def test_what_a_limit_cuts_off_is_counted_and_told(squares):
    dataset, samples, outputs = squares
    three = [Instances.cat([o] * 3) for o in outputs]
    evaluator = CocoEvaluator(dataset, max_detections=2)
    evaluator.update(samples, [Prediction(o, num_cut=n) for o, n in zip(three, (131, 0, 7))])
    results = evaluator.compute()
    assert (
        results["box"]["limits"]
        == results["mask"]["limits"]
        == {
            "cut_by_model": {"detections": 138, "images": 2},
            "cut_by_evaluator": {"detections": 3, "images": 3},
        }
    )
    report = evaluator.report(results)
    assert "138 detections of 2 images were cut off by the model's limit; raise model.roi_heads.box_head" in report
    assert "3 detections of 3 images were cut off by the evaluator's limit; raise this evaluator's" in report
    assert "limits" not in filled(*squares, max_detections=1).compute()["box"]


def test_evaluators_of_other_tasks_go_together_where_a_limit_cuts(squares, tmp_path):
    dataset, samples, outputs = squares
    evaluators = [CocoEvaluator(dataset, tasks=tasks, max_detections=1) for tasks in (("mask",), ("box",))]
    three = [Prediction(Instances.cat([o] * 3), num_cut=1) for o in outputs]

    class Model(torch.nn.Module):
        def forward(self, samples):
            return three

    results = evaluate(Model(), [samples], evaluators, progress=False)
    assert results.keys() == {"mask", "box", "timing"}
    assert results["mask"]["limits"] == results["box"]["limits"]
    file = tmp_path / "found.json"
    text = write_evaluation(results, evaluators, tmp_path / "evaluation.json", detections=file)
    assert [line[:5].strip() for line in text.splitlines() if line[:5] in ("box  ", "mask ")] == ["mask", "box"]
    assert text.count(str(file)) == 1
    assert all("segmentation" in row for row in json.loads(file.read_text())), "of the first one"


def test_what_tasks_ask_for_must_be_in_a_file_of_detections(squares, tmp_path):
    dataset, file = squares[0], tmp_path / "boxes.json"
    filled(*squares, tasks=("box",)).write_results(file)
    for task in ("mask", "boundary"):
        with pytest.raises(DataError, match=rf"boxes\.json: tasks ask for {task} AP, .* has masks; set tasks: \[box\]"):
            CocoEvaluator(dataset, tasks=("box", task)).read_results(file)
    file.write_text("[]")
    evaluator = CocoEvaluator(dataset, tasks=("box", "mask"))
    evaluator.read_results(file)
    assert [evaluator.compute()[task]["AP"] for task in ("box", "mask")] == [0, 0]


def test_results_are_coco_results(squares, tmp_path):
    evaluator = filled(*squares)
    evaluator.write_results(tmp_path / "new/results.json")
    rows = json.loads((tmp_path / "new/results.json").read_text())
    assert rows == evaluator.results()
    assert [r["image_id"] for r in rows] == [3, 5, 9]
    assert rows[0]["category_id"] == 2
    assert rows[0]["bbox"] == [10, 10, 30, 20]
    assert rows[0]["score"] == 0.5
    assert rows[0]["segmentation"]["size"] == [60, 80]


def test_masks_are_not_kept_as_bitmaps(squares):
    evaluator = filled(*squares)
    assert isinstance(evaluator.results()[0]["segmentation"]["counts"], str)
    assert "segmentation" not in filled(*squares, tasks=("box",)).results()[0]


def test_wrong_samples_and_predictions_are_named(squares):
    dataset, samples, outputs = squares
    evaluator = CocoEvaluator(dataset)
    with pytest.raises(DataError, match="77"):
        evaluator.update([Sample(samples[0].image, (60, 80), 77)], [Prediction(outputs[0])])
    with pytest.raises(ValueError, match="image_id"):
        evaluator.update([Sample(samples[0].image, (60, 80))], [Prediction(outputs[0])])
    with pytest.raises(ValueError, match="class 2, but the dataset has 2 classes"):
        evaluator.update(samples[:1], [Prediction(outputs[0].with_fields(classes=torch.tensor([2])))])
    with pytest.raises(ValueError, match="no instances"):
        evaluator.update(samples[:1], [Prediction(semantic=torch.zeros(60, 80).long())])
    with pytest.raises(ValueError, match="max_detections"):
        CocoEvaluator(dataset, max_detections=0)


def test_report_has_metrics_objects_and_reasons(squares):
    dataset, samples, outputs = squares
    evaluator = filled(dataset, samples, [o.with_fields(classes=o.classes * 0) for o in outputs])
    others = {"panoptic": {"AP": None, "PQ": 0.5}, "score": float("nan")}  # of another evaluator
    report = evaluator.report({**evaluator.compute(), **others})
    lines = [line.split() for line in report.splitlines()]
    assert ["class", "objects", "box", "AP", "mask", "AP"] in lines
    assert any(line[:2] == ["b", "1"] and line[2:] == ["0.000", "0.000"] for line in lines)
    assert "the model predicted no object of this class: b" in report.splitlines()
    assert (
        "no ground truth of 32 x 32 to 96 x 96 pixels in the test set: box APm, box ARm, mask APm, mask ARm" in report
    )
    assert " -1" not in report


def _run_rank(rank, coco, shares, expected):
    evaluator = filled(JsonDataset(coco), *to_pairs({**coco, "images": shares[rank]}, coco["found"]))
    metrics = evaluator.compute()
    if rank == 0:
        assert (metrics, len(evaluator.results())) == expected
    else:
        assert metrics == {}


def test_two_processes_equal_one(part):
    """Also where both have seen the same image, as samplers that pad do."""
    coco, samples, outputs = part
    single = filled(JsonDataset(coco), samples, outputs)
    coco = {**coco, "found": single.results()}
    images = coco["images"]
    in_processes(_run_rank, coco, [images[:13], images[11:]], (single.compute(), len(single.results())))


def test_results_have_keypoints_as_in_cocos_files_and_the_ids_of_the_source():
    keypoints = Keypoints([[[10.5, 20.5, 0.9], [0.5, 0.5, 0.1]]])
    instances = Instances(
        (60, 80),
        boxes=Boxes([[1, 2, 30, 40]]),
        scores=torch.tensor([0.5]),
        classes=torch.tensor([1]),
        keypoints=keypoints,
    )
    (row,) = json.loads(json.dumps(coco_results(7, instances, (18, 90))))
    assert (row["image_id"], row["category_id"]) == (7, 90)
    assert row["keypoints"] == pytest.approx([10, 20, 0.9, 0, 0, 0.1])
    assert coco_results(7, instances)[0]["category_id"] == 2
    assert coco_results(7, instances[:0], (18, 90)) == []
