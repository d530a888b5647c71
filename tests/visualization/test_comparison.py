"""What is right, false and missed, and the pictures of it."""

import numpy as np
import torch

from detkit.structures import Boxes, ImageInfo, Instances
from detkit.visualization import draw_comparison, match_instances
from detkit.visualization.comparison import COLORS, CORRECT, FALSE, MISSED, NOT_JUDGED

SIZE = (100, 200)


def objects(boxes, classes, **more):
    return Instances(SIZE, boxes=Boxes(boxes), classes=torch.tensor(classes, dtype=torch.int64), **more)


def found(boxes, classes, scores, size=SIZE):
    return Instances(size, boxes=Boxes(boxes), classes=torch.tensor(classes), scores=torch.tensor(scores))


A, B, C = [10.0, 10, 50, 50], [60.0, 10, 100, 50], [120.0, 10, 180, 70]


def test_detections_are_right_about_one_object_of_their_class():
    truth = objects([A, B, C], [0, 1, 0])
    seen = found([A, [11, 11, 50, 50], B, [150.0, 40, 199, 99]], [0, 0, 0, 0], [0.6, 0.9, 0.9, 0.9])
    states, results = match_instances(truth, seen)
    assert states.tolist() == [CORRECT, MISSED, MISSED]
    # a duplicate with less score, the right one, another class, another place
    assert results.tolist() == [FALSE, CORRECT, FALSE, FALSE]
    doubled = found(seen.boxes.tensor * 2, seen.classes.tolist(), seen.scores.tolist(), (200, 400))
    again = match_instances(truth, doubled)
    assert [r.tolist() for r in again] == [states.tolist(), results.tolist()]


def test_crowds_are_not_judged():
    seen = found([A, [61.0, 11, 70, 20], [61.0, 11, 70, 20]], [0, 0, 1], [0.9, 0.9, 0.9])
    truth = objects([A, B], [0, 0], crowd=torch.tensor([False, True]))
    states, results = match_instances(truth, seen)
    assert states.tolist() == [CORRECT, NOT_JUDGED]
    assert results.tolist() == [CORRECT, NOT_JUDGED, FALSE]
    apart = objects([A], [0], info=ImageInfo(crowds=Boxes([B])))
    assert match_instances(apart, seen)[1].tolist() == [CORRECT, NOT_JUDGED, NOT_JUDGED]


def test_nothing_on_either_side():
    none, some = objects([], []), found([A], [0], [0.9])
    assert [r.tolist() for r in match_instances(none, some)] == [[], [FALSE]]
    assert [r.tolist() for r in match_instances(objects([A], [0]), some[:0])] == [[MISSED], []]


def test_colours_say_what_is_right_false_and_missed():
    image = np.full((*SIZE, 3), 20, np.uint8)
    truth = objects([A, B], [0, 0])
    sheet = draw_comparison(image, truth, found([A, C], [0, 0], [0.9, 0.8]), ["x"], min_side=0)
    left, right = sheet[-100:, :200], sheet[-100:, -200:]
    legend = {kind: (sheet[:-100] == COLORS[kind]).all(2).any() for kind in (CORRECT, FALSE, MISSED)}

    def shown(picture, box):
        row = picture[int(box[3]) - 1, int(box[0]) : int(box[2])]
        return {kind for kind in range(4) if (row == COLORS[kind]).all(1).any()}

    assert all(legend.values())
    assert shown(left, A) == shown(right, A) == {CORRECT}
    assert shown(left, B) == {MISSED}
    assert shown(right, C) == {FALSE}
    assert not shown(right, B) | shown(left, C)
    assert len({tuple(pixel) for pixel in left[49, 60:100].tolist()}) == 2  # dashed
    low = draw_comparison(image, truth, found([A, C], [0, 0], [0.3, 0.2]), ["x"], show_best=1, min_side=0)
    assert shown(low[-100:, -200:], A) == {NOT_JUDGED}
    assert not shown(low[-100:, -200:], C)
    assert shown(low[-100:, :200], A) == {MISSED}
