"""Pictures of a detector's stages: the right things, at the right places, in the right colours."""

import numpy as np
import pytest
import torch

from detkit.structures import Boxes, Instances
from detkit.visualization import Drawing, palette
from detkit.visualization.stages import draw_anchors, draw_proposals, draw_regions, some_of

GRAY = 120


def drawn(draw, *args, min_side=0, **options):
    drawing = Drawing(np.full((100, 160, 3), GRAY, np.uint8), min_side=min_side)
    draw(drawing, *args, **options)
    return drawing.array()


def changed(picture):
    return (picture != GRAY).any(2)


def color_at(picture, x, y):
    return tuple(picture[y, x].tolist())


def anchors_and_target():
    anchors = Boxes([[10, 10, 40, 40], [100, 50, 130, 90], [60, 10, 80, 30], [60, 60, 80, 80]])
    labels, matches = torch.tensor([1, 1, 0, -1], dtype=torch.int8), torch.tensor([0, 1, 0, 0])
    target = Instances((100, 160), boxes=Boxes([[5, 5, 45, 45], [95, 45, 135, 95]]), classes=torch.tensor([0, 0]))
    return anchors, labels, matches, target


def test_positive_anchors_have_the_colour_of_the_object_that_they_were_matched_to():
    picture = drawn(draw_anchors, *anchors_and_target(), kind="positive")
    for number, (x, y, truth_x) in enumerate([(10, 25, 5), (100, 70, 95)]):
        assert color_at(picture, x, y) == color_at(picture, truth_x, y) == tuple(palette(2)[number].tolist())
    assert not changed(picture)[10:80, 60:80].any()  # neither the negative one nor the neutral one


@pytest.mark.parametrize(("kind", "x", "other"), [("negative", (60, 20), (60, 70)), ("neutral", (60, 70), (60, 20))])
def test_other_anchors_are_drawn_alone_and_objects_in_white(kind, x, other):
    picture = drawn(draw_anchors, *anchors_and_target(), kind=kind)
    color = color_at(picture, *x)
    assert color != (GRAY,) * 3
    assert (color[0] > color[2]) == (kind == "negative")  # red, else blue
    assert color_at(picture, *other) == (GRAY,) * 3
    assert color_at(picture, 10, 25) == (GRAY,) * 3  # a positive anchor
    assert color_at(picture, 5, 25) == (255, 255, 255)


def test_an_image_without_objects_has_only_negative_anchors():
    anchors, labels, matches, target = anchors_and_target()
    pictures = [
        drawn(draw_anchors, anchors, torch.zeros_like(labels), matches * 0, target[:0], kind=kind)
        for kind in ("positive", "negative", "neutral")
    ]
    assert [bool(changed(picture).any()) for picture in pictures] == [False, True, False]


def test_objects_are_enlarged_with_the_anchors():
    picture = drawn(draw_anchors, *anchors_and_target(), min_side=320)
    assert picture.shape == (200, 320, 3)
    assert color_at(picture, 190, 140) == color_at(picture, 200, 140) == tuple(palette(2)[1].tolist())


def test_the_best_proposals_are_drawn_red_before_blue():
    boxes = Boxes([[100, 10, 150, 90], [10, 10, 60, 90], [70, 70, 90, 90]])
    proposals = Instances((100, 160), boxes=boxes, objectness=torch.tensor([-6.0, 6.0, -9.0]))
    picture = drawn(draw_proposals, proposals, most=2, labels=0)
    red, blue = picture[50, 10].astype(int), picture[50, 100].astype(int)
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert not changed(picture)[70:90, 70:90].any()
    labelled = drawn(draw_proposals, proposals, most=2, labels=1)
    assert (labelled != picture)[:, :95].any()
    assert (labelled == picture)[:, 95:].all()


def test_foreground_regions_have_their_class_and_background_is_apart():
    sampled = Instances(
        (100, 160),
        boxes=Boxes([[10, 30, 60, 90], [100, 30, 150, 90], [70, 30, 90, 90]]),
        classes=torch.tensor([1, 2, -1]),
    )
    names = ["cat", "dog"]
    front = drawn(draw_regions, sampled, names)
    assert color_at(front, 10, 60) == tuple(palette(2)[1].tolist())
    back = drawn(draw_regions, sampled, names, foreground=False)
    assert color_at(back, 100, 60) != (GRAY,) * 3
    for picture in (front, back):
        assert color_at(picture, 70, 60) == (GRAY,) * 3  # an ignored region
    assert color_at(front, 100, 60) == color_at(back, 10, 60) == (GRAY,) * 3


def test_a_choice_of_many_is_always_the_same_and_in_order():
    rows = torch.arange(1000) * 3
    some = some_of(rows, 100)
    assert len(some) == 100
    assert (some.diff() > 0).all()
    assert (some % 3 == 0).all()
    assert torch.equal(some, some_of(rows, 100))
    assert some[50] == pytest.approx(1500, abs=400)  # from all over
    assert torch.equal(some_of(rows[:5], 100), rows[:5])
