"""Pictures of a detector's stages: the right things, at the right places, in the right colours."""

import numpy as np
import pytest
import torch

from detkit.structures import Boxes, Instances
from detkit.visualization import (
    draw_anchors,
    draw_boxes,
    draw_proposals,
    draw_regions,
    draw_window,
    palette,
)
from detkit.visualization.stages import some_of

GRAY = 120


def image(h=100, w=160):
    return np.full((h, w, 3), GRAY, np.uint8)


def changed(picture):
    return (picture != GRAY).any(2)


def color_at(picture, x, y):
    return tuple(picture[y, x].tolist())


def test_boxes_have_an_outline_in_their_colour_and_the_first_lies_on_top():
    boxes = torch.tensor([[10.0, 20, 50, 60], [10, 20, 90, 90]])
    picture = draw_boxes(image(), boxes, np.array([[1, 2, 3], [200, 0, 0]]), min_side=0)
    assert picture.shape == (100, 160, 3)
    assert color_at(picture, 10, 40) == (1, 2, 3)
    assert color_at(picture, 49, 59) == (1, 2, 3)
    assert color_at(picture, 10, 80) == (200, 0, 0)
    assert color_at(picture, 89, 89) == (200, 0, 0)
    assert not changed(picture)[25:55, 15:45].any()
    assert not changed(picture)[91:, :].any()


def test_boxes_are_enlarged_with_the_image_and_may_reach_over_it():
    boxes = torch.tensor([[-30.0, 50, 200, 300]])
    picture = draw_boxes(image(), boxes, (255, 0, 0), min_side=320)
    assert picture.shape == (200, 320, 3)
    assert changed(picture)[100].all()
    assert not changed(picture)[:99].any()
    assert not changed(draw_boxes(image(), torch.zeros(0, 4), (255, 0, 0), min_side=0)).any()


def test_labels_are_written():
    boxes = torch.tensor([[40.0, 40, 90, 90]])
    plain, labelled = (draw_boxes(image(), boxes, (255, 0, 0), texts, min_side=0) for texts in ((), ("a label",)))
    assert (plain != labelled)[20:40].any()


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_other_numbers_of_channels_give_a_picture_too(channels):
    tensor = torch.full((channels, 4, 6), 9, dtype=torch.uint8)
    shown = draw_boxes(tensor, torch.zeros(0, 4), (255, 0, 0), min_side=0)
    assert shown.shape == (4, 6, 3)
    assert (shown == 9).all()


def test_a_window_is_outlined():
    picture = draw_window(image(), (20, 10, 140, 90), min_side=0)
    inside = changed(picture)
    assert inside[10, 20:140].all()
    assert inside[89, 20:140].all()
    assert inside[10:90, 139].all()
    assert not inside[:10].any()
    assert not inside[20:80, 30:130].any()


def anchors_and_target():
    anchors = Boxes([[10, 10, 40, 40], [100, 50, 130, 90], [60, 10, 80, 30], [60, 60, 80, 80]])
    labels, matches = torch.tensor([1, 1, 0, -1], dtype=torch.int8), torch.tensor([0, 1, 0, 0])
    target = Instances((100, 160), boxes=Boxes([[5, 5, 45, 45], [95, 45, 135, 95]]), classes=torch.tensor([0, 0]))
    return anchors, labels, matches, target


def test_positive_anchors_have_the_colour_of_the_object_that_they_were_matched_to():
    picture = draw_anchors(image(), *anchors_and_target(), kind="positive", min_side=0)
    for number, (x, y, truth_x) in enumerate([(10, 25, 5), (100, 70, 95)]):
        assert color_at(picture, x, y) == color_at(picture, truth_x, y) == tuple(palette(2)[number].tolist())
    assert not changed(picture)[10:80, 60:80].any()  # neither the negative one nor the neutral one


@pytest.mark.parametrize(("kind", "x", "other"), [("negative", (60, 20), (60, 70)), ("neutral", (60, 70), (60, 20))])
def test_other_anchors_are_drawn_alone_and_objects_in_white(kind, x, other):
    picture = draw_anchors(image(), *anchors_and_target(), kind=kind, min_side=0)
    color = color_at(picture, *x)
    assert color != (GRAY,) * 3
    assert (color[0] > color[2]) == (kind == "negative")  # red, else blue
    assert color_at(picture, *other) == (GRAY,) * 3
    assert color_at(picture, 10, 25) == (GRAY,) * 3  # a positive anchor
    assert color_at(picture, 5, 25) == (255, 255, 255)


def test_an_image_without_objects_has_only_negative_anchors():
    anchors, labels, matches, target = anchors_and_target()
    drawn = [
        draw_anchors(image(), anchors, torch.zeros_like(labels), matches * 0, target[:0], kind=kind, min_side=0)
        for kind in ("positive", "negative", "neutral")
    ]
    assert [bool(changed(picture).any()) for picture in drawn] == [False, True, False]


def test_objects_are_enlarged_with_the_anchors():
    picture = draw_anchors(image(), *anchors_and_target(), min_side=320)
    assert picture.shape == (200, 320, 3)
    assert color_at(picture, 190, 140) == color_at(picture, 200, 140) == tuple(palette(2)[1].tolist())


def test_the_best_proposals_are_drawn_red_before_blue():
    boxes = Boxes([[100, 10, 150, 90], [10, 10, 60, 90], [70, 70, 90, 90]])
    proposals = Instances((100, 160), boxes=boxes, objectness=torch.tensor([-6.0, 6.0, -9.0]))
    picture = draw_proposals(image(), proposals, most=2, labels=0, min_side=0)
    red, blue = picture[50, 10].astype(int), picture[50, 100].astype(int)
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert not changed(picture)[70:90, 70:90].any()
    labelled = draw_proposals(image(), proposals, most=2, labels=1, min_side=0)
    assert (labelled != picture)[:, :95].any()
    assert (labelled == picture)[:, 95:].all()


def test_foreground_regions_have_their_class_and_background_is_apart():
    sampled = Instances(
        (100, 160),
        boxes=Boxes([[10, 30, 60, 90], [100, 30, 150, 90], [70, 30, 90, 90]]),
        classes=torch.tensor([1, 2, -1]),
    )
    names = ["cat", "dog"]
    front = draw_regions(image(), sampled, names, min_side=0)
    assert color_at(front, 10, 60) == tuple(palette(2)[1].tolist())
    back = draw_regions(image(), sampled, names, foreground=False, min_side=0)
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
