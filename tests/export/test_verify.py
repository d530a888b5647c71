import math

import pytest
import torch
from tiny_program import experiment, model

from detkit.export import Program, ProgramModel
from detkit.export.verify import Differences, compared, matched, metric_drops
from detkit.structures import Boxes, Instances

BOX = [10.0, 10.0, 50.0, 50.0]


def found(boxes, scores, classes) -> Instances:
    return Instances(
        (96, 96),
        boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)),
        scores=torch.tensor(scores),
        classes=torch.tensor(classes, dtype=torch.long),
    )


def pairs(*both) -> list[tuple[int, int]]:
    rows, columns = matched(*both)
    return list(zip(rows.tolist(), columns.tolist()))


def test_detections_match_by_class_and_overlap_whatever_their_order():
    moved = [10.5, 10.0, 50.0, 50.0]
    expected = found([BOX, [0.0, 60, 20, 90]], [0.9, 0.8], [0, 1])
    assert pairs(expected, found([[0.0, 60, 20, 90], moved], [0.8, 0.9], [1, 0])) == [(0, 1), (1, 0)]
    assert pairs(expected, found([BOX], [0.9], [1])) == []
    assert pairs(expected, found([[30.0, 10, 70, 50]], [0.9], [0])) == []


def test_a_detection_matches_once_and_that_of_the_closest_score():
    twice = found([BOX, BOX], [0.9, 0.5], [0, 0])
    assert pairs(twice, found([BOX, BOX], [0.5, 0.9], [0, 0])) == [(0, 1), (1, 0)]
    assert pairs(twice, found([BOX], [0.9], [0])) == [(0, 0)]


def test_nothing_matches_nothing():
    nothing = found([], [], [])
    assert pairs(nothing, found([BOX], [0.9], [0])) == pairs(found([BOX], [0.9], [0]), nothing) == []
    assert pairs(nothing, nothing) == []


def test_differences_are_the_largest_of_matched_rows_and_a_count_of_others():
    differences = Differences()
    differences.add(found([BOX], [0.9], [0]), found([[10.0, 10, 50, 50.25], [0.0, 0, 5, 5]], [0.7, 0.3], [0, 0]))
    assert (differences.detections, differences.unmatched) == (1, 1)
    assert differences.largest == pytest.approx({"boxes": 0.25, "scores": 0.2, "classes": 0.0})
    assert [problem.partition(" differ by")[0] for problem in differences.problems("fp32")] == ["boxes", "scores"]
    assert differences.problems("int8") == []
    differences.unmatched = 3
    assert "3 of 1 detections are of one of both alone" in differences.problems("fp32")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_is_no_number_is_a_problem(value, precision):
    differences, mine, others = Differences(), *(found([BOX], [0.9], [0]) for _ in range(2))
    mine.fields["mask_probs"], others.fields["mask_probs"] = torch.full((1, 4, 4), 0.5), torch.full((1, 4, 4), value)
    differences.add(mine, others)
    assert differences.problems(precision) == ["mask_probs have values that are no numbers"]


def test_infinities_of_both_are_equal():
    differences = Differences()
    differences.see("semantic", torch.tensor([-math.inf, 2.0]), torch.tensor([-math.inf, 2.0]))
    assert differences.largest == {"semantic": 0.0}
    assert differences.problems("fp32") == []


@pytest.mark.parametrize("name", ["semantic", "keypoints", "depth"])
def test_every_output_has_a_limit(name):
    """That of a head of one's own, too; of logits by their size."""
    expected = torch.full((1, 3, 4, 4), 100.0)
    for difference, num_problems in ((0.001, 0), (1.0, 1)):
        differences = Differences()
        differences.see(name, expected, expected + difference)
        assert len(differences.problems("fp32")) == num_problems


def test_a_keypoint_among_hundreds_may_be_the_next_cell():
    expected = torch.zeros(30, 17, 2)
    for moved, num_problems in ((1, 0), (9, 1)):
        differences, found = Differences(), expected.clone()
        found[:moved, 0, 0] = 1.0
        differences.see("keypoints", expected, found)
        assert len(differences.problems("fp32")) == num_problems


def test_detections_of_which_none_is_found_are_a_problem():
    differences = Differences()
    differences.add(found([BOX], [0.9], [0]), found([[math.nan] * 4], [0.9], [0]))
    assert "2 of 1 detections are of one of both alone" in differences.problems("fp32")


def test_drops_are_of_what_both_have():
    expected = {"box": {"AP": 0.5, "AP50": 0.7}, "mask": {"AP": None}, "images": 5, "keypoints": {"AP": math.nan}}
    found = {"box": {"AP": 0.4}, "mask": {"AP": 0.1}, "keypoints": {"AP": 0.0}}
    assert metric_drops(expected, found) == {"box/AP": (0.5, 0.4)}


def test_a_program_is_its_model_and_not_one_of_other_weights(program):
    exp = experiment()
    mine, other = model(exp), model(exp, seed=2)
    batches = list(exp.data.test())
    same = compared(mine, ProgramModel(mine, Program(program)), batches)
    assert same.problems("fp32") == []
    assert same.images == 5
    assert same.detections > 10
    assert set(same.seconds) == {"model", "program"}
    assert compared(other, ProgramModel(other, Program(program)), batches).problems("fp32") != []
