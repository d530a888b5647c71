"""Suppression: as an option of a box head, in the head's limits, and what it never mixes."""

import pytest
import torch
from small import small_model

from detkit.config import Recipe
from detkit.modeling.roi_heads import BoxPredictions, Detection
from detkit.modeling.suppression import HardNMS, MatrixNMS, SoftNMS, choose_detections
from detkit.structures import Boxes, Instances

BOXES = torch.tensor([[0.0, 0, 20, 20], [0, 0, 20, 18], [0, 0, 20, 16], [30, 30, 60, 60]])
SCORES = torch.tensor([0.9, 0.8, 0.7, 0.6])


def candidates(boxes=BOXES, scores=SCORES) -> Instances:
    classes = torch.zeros(len(boxes), dtype=torch.long)
    return Instances((64, 64), boxes=Boxes(boxes), scores=scores, classes=classes, row=torch.arange(len(boxes)))


@pytest.mark.parametrize("nms", [HardNMS(), SoftNMS(), MatrixNMS(min_score=0.0)])
def test_detections_are_cut_at_their_limit_and_counted(nms):
    every = choose_detections(candidates(), nms, 0.5, 100)
    found = choose_detections(candidates(), nms, 0.5, 1)
    assert (every.info.num_cut, len(found), found.info.num_cut) == (0, 1, len(every) - 1)
    assert found.row.tolist() == [0]
    assert torch.equal(every.boxes.tensor, BOXES[every.row])


@pytest.mark.parametrize("nms", [SoftNMS(), SoftNMS(decay="gaussian"), MatrixNMS(min_score=0.0)])
def test_a_scores_fall_is_the_same_whatever_other_classes_there_are(nms):
    alone = dict(zip(*(x.tolist() for x in nms(BOXES, SCORES, torch.zeros(4, dtype=torch.long), 0.5, 100))))
    classes = torch.tensor([0] * 4 + [1] * 4)
    rows, scores = nms(BOXES.repeat(2, 1), SCORES.repeat(2), classes, 0.5, 100)
    for row, score in zip(rows.tolist(), scores.tolist()):
        assert score == pytest.approx(alone[row % 4])
    assert sorted(rows.tolist()) == list(range(8))


def test_linear_decay_begins_at_the_threshold():
    rows, scores = SoftNMS()(BOXES, SCORES, torch.zeros(4, dtype=torch.long), 0.85, 100)
    assert rows.tolist() == [0, 2, 3, 1], "an IoU of 0.8 is below the threshold"
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.7, 0.6, 0.8 * (1 - 18 / 20) * (1 - 16 / 18)]))


@pytest.mark.parametrize(("nms", "many"), [(Recipe(HardNMS), 1), (Recipe(SoftNMS), 2), (Recipe(MatrixNMS), 2)])
def test_a_box_head_chooses_by_its_option(nms, many):
    model = small_model(score_thresh=0.1).eval()
    head = model.roi_heads.box_head
    head.detection = Detection(score_thresh=0.1, nms=nms)
    boxes = Boxes([[0.0, 0, 20, 20], [0, 0, 20, 15]])
    probs = torch.tensor([[0.9, 0.02, 0.03, 0.05], [0.8, 0.05, 0.05, 0.1]])
    predictions = BoxPredictions(probs.log(), torch.zeros(2, 12))
    (found,) = head.detections(predictions, [Instances((64, 64), boxes=boxes)])
    assert len(found) == many
    assert found.scores[0] == pytest.approx(0.9)
    assert (found.scores[1:] < 0.5).all()
