"""What the report counts, against counting by hand, one by one and case by case."""

import itertools
from collections import Counter

import numpy as np
import pytest
from report_cases import FAR, NEAR, OBJECT, dataset, evaluated, instances, random_case, sample

from detkit.data.interfaces import EVERY_CLASS, NEGATIVE, NOT_EXHAUSTIVE
from detkit.evaluation.coco_metrics import GroundTruth
from detkit.evaluation.coco_results import Detections
from detkit.evaluation.errors import KINDS, DetectionErrors, error_metrics
from detkit.report import Analysis, Scores
from detkit.report.analysis import THRESHOLDS
from detkit.report.content import NUM_CONFUSED, confusion
from detkit.structures import Prediction


def analysis(data, detections, task="box", **options):
    evaluator, _ = evaluated(data, detections, **options)
    return Analysis.of(evaluator.truth, evaluator.detections, task, evaluator.max_detections)


RIGHT = (0, OBJECT, 0.9)
CASES = {
    "classification": ([(1, OBJECT, 0.8)], {(0, 1): 1}),
    "localisation": ([(0, NEAR, 0.8)], {(2, 0): 1, (0, 2): 1}),
    "both": ([(1, NEAR, 0.8)], {(2, 1): 1, (0, 2): 1}),
    "duplicate": ([RIGHT, (0, [11, 10, 31, 30], 0.8)], {(0, 0): 1, (2, 0): 1}),
    "background": ([RIGHT, (0, FAR, 0.95)], {(0, 0): 1, (2, 0): 1}),
    "missed": ([], {(0, 2): 1}),
}
"""Detections of an image with one cat, and its confusions: class of the object and of the detection, 2: background."""


@pytest.mark.parametrize("task", ["box", "mask"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_mistake_is_counted_as_what_it_is(tmp_path, kind, task):
    detections, pairs = CASES[kind]
    found = analysis(dataset(tmp_path, [[(0, OBJECT)], [(1, OBJECT)]]), [detections, [(1, OBJECT, 0.9)]], task)
    counts = error_metrics(found.matches, 0.5)["counts"]
    assert counts == {**dict.fromkeys(KINDS, 0), kind: 1, **({"missed": 1} if kind == "both" else {})}
    assert found.confusions(0.5) == Counter(pairs) + Counter({(1, 1): 1})
    false, missed = found.mistakes(0.5)[0].tolist()
    assert false == len(detections) - (RIGHT in detections)
    assert missed == (RIGHT not in detections)
    assert found.worst(0.5, 5) == [0]  # the other image has no mistake
    assert found.sizes(0.5) == [(2, 2 - missed), (0, 0), (0, 0)]
    assert found.size_groups(0.5) == [(20, 20, 1, 1 - missed), (20, 20, 1, 1)]


@pytest.mark.parametrize("seed", range(4))
def test_precision_recall_and_f1_are_those_of_counting(tmp_path, seed):
    data, guesses, objects, crowds = random_case(tmp_path, seed)
    found = analysis(data, guesses)
    total = Counter(k for i, things in enumerate(objects) for n, (k, _) in enumerate(things) if (i, n) not in crowds)
    for k, t in itertools.product(range(3), (0, 7, 30, 50, 77, 99)):
        kept = found.matches.take((found.matches.scores >= THRESHOLDS[t]) & (found.matches.classes == k))
        right = len(set(kept.object[kept.object >= 0].tolist()))
        scores = found.class_scores
        assert (scores.right[k, t], scores.found[k, t], scores.objects[k]) == (right, len(kept.scores), total[k])
        if right:
            precision, recall = right / len(kept.scores), right / total[k]
            assert scores.precision[k, t] == pytest.approx(precision)
            assert scores.recall[k, t] == pytest.approx(recall)
            assert scores.f1[k, t] == pytest.approx(2 * precision * recall / (precision + recall))
    f1 = found.scores.f1
    assert f1[round(found.threshold * 100)] == f1.max()


@pytest.mark.parametrize("seed", range(4))
def test_every_object_and_every_detection_is_in_the_confusion_matrix_once(tmp_path, seed):
    data, guesses, *_ = random_case(tmp_path, seed)
    found = analysis(data, guesses)
    pairs = found.confusions(0.4)
    per_class = Counter(found.matches.object_classes.tolist())
    assert {k: sum(n for (true, _), n in pairs.items() if true == k) for k in range(3)} == per_class
    assert sum(n for (_, seen), n in pairs.items() if seen != 3) == int((found.matches.scores >= 0.4).sum())
    right = found.class_scores.right[:, 40]
    assert [pairs[k, k] for k in range(3)] == right.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_costs_are_those_of_the_evaluator_of_mistakes(tmp_path, seed):
    data, guesses, *_ = random_case(tmp_path, seed)
    evaluator, results = evaluated(data, guesses)
    found = Analysis.of(evaluator.truth, evaluator.detections, "box")
    errors = error_metrics(found.matches, 0.3)
    assert errors["AP50"] == pytest.approx(results["box"]["AP50"], abs=1e-6)
    other = DetectionErrors(data)
    for i, things in enumerate(guesses):
        other.update([sample(i)], [Prediction(instances(things))])
    assert other.compute()["errors"] == {**errors, "task": "box"}


def test_the_best_threshold_is_in_the_middle_of_equal_ones():
    right = np.array([[1, 2, 2, 2, 1], [0, 0, 0, 0, 0]])
    scores = Scores(right, np.array([[4, 2, 2, 2, 1], [1, 1, 1, 1, 1]]), np.array([2, 3]))
    assert scores.best().tolist() == [2, -1]


def test_only_the_detections_that_count_for_coco_count(tmp_path):
    data = dataset(tmp_path, [[(0, OBJECT)]])
    many = [(0, FAR, 0.9), (0, FAR, 0.8), (0, OBJECT, 0.7), (1, FAR, 0.1)]
    evaluator, results = evaluated(data, [many], max_detections=2)
    found = Analysis.of(evaluator.truth, evaluator.detections, "box", 2)
    assert sorted(found.matches.scores.round(3).tolist()) == [0.1, 0.8, 0.9]
    assert results["box"]["AP50"] == 0 == error_metrics(found.matches, 0.5)["AP50"]


def test_what_lies_on_a_crowd_is_neither_right_nor_wrong(tmp_path):
    data = dataset(tmp_path, [[(0, OBJECT), (0, FAR)]], crowds={(0, 1)})
    found = analysis(data, [[RIGHT, (0, FAR, 0.95)]])
    assert found.confusions(0.5) == {(0, 0): 1}
    assert found.mistakes(0.5).tolist() == [[0, 0]]


def test_what_nobody_labelled_is_no_mistake():
    box = [10, 10, 20, 20]
    content = {
        "images": [
            {"id": 1, "height": 100, "width": 100, NEGATIVE: [1], NOT_EXHAUSTIVE: [3]},
            {"id": 2, "height": 100, "width": 100},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": box, "area": 400, "iscrowd": 0},
            {"id": 2, "image_id": 2, "category_id": 1, "bbox": box, "area": 400, "iscrowd": 1, EVERY_CLASS: True},
        ],
        "categories": [{"id": k, "name": f"c{k}"} for k in (1, 2, 3)],
    }
    boxes, scores = np.tile([60.0, 60, 20, 20], (3, 1)), np.full(3, 0.9)
    found = {
        1: Detections(boxes, scores, np.arange(3), (100, 100), None),  # 1 has none here, 2: not looked for, 3: not all
        2: Detections(np.tile(box, (3, 1)), scores, np.arange(3), (100, 100), None),
    }
    counted = Analysis.of(GroundTruth(content, ("c1", "c2", "c3")), found, "box")
    assert counted.confusions(0.5) == {(3, 0): 1, (2, 3): 1}


def test_of_many_classes_the_most_confused_are_shown(tmp_path):
    names = [f"c{k}" for k in range(1000)]
    objects = [[(k, OBJECT)] for k in range(60)]
    guesses = [[(k if k < 20 else k + 500, OBJECT, 0.9)] for k in range(60)]
    table = confusion(analysis(dataset(tmp_path, objects, names), guesses), 0.5, names)
    assert len(table.names) == len(table.cells) == NUM_CONFUSED + 1
    assert table.left_out == 1000 - NUM_CONFUSED
    assert not {f"c{k}" for k in range(20)} & set(table.names)
    assert table.names[-1] == "background"
    assert {n for *_, n in table.pairs} == {1}
    assert all(int(seen[1:]) == int(true[1:]) + 500 for true, seen, _ in table.pairs)
