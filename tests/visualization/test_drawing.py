"""Drawing: shapes at the right places of an image of any kind, in their colours."""

import numpy as np
import pytest
import torch

from detkit.visualization import Drawing

GRAY = 120


def image(h=100, w=160):
    return np.full((h, w, 3), GRAY, np.uint8)


def changed(picture):
    return (picture != GRAY).any(2)


def color_at(picture, x, y):
    return tuple(picture[y, x].tolist())


def with_boxes(boxes, colors, min_side=0):
    drawing = Drawing(image(), min_side=min_side)
    drawing.boxes(boxes, colors)
    return drawing.array()


def test_boxes_have_an_outline_in_their_colour_and_the_first_lies_on_top():
    boxes = np.array([[10.0, 20, 50, 60], [10, 20, 90, 90]])
    picture = with_boxes(boxes, np.array([[1, 2, 3], [200, 0, 0]]))
    assert picture.shape == (100, 160, 3)
    assert color_at(picture, 10, 40) == (1, 2, 3)
    assert color_at(picture, 49, 59) == (1, 2, 3)
    assert color_at(picture, 10, 80) == (200, 0, 0)
    assert color_at(picture, 89, 89) == (200, 0, 0)
    assert not changed(picture)[25:55, 15:45].any()
    assert not changed(picture)[91:, :].any()


def test_boxes_are_enlarged_with_the_image_and_may_reach_over_it():
    boxes = np.array([[-30.0, 50, 200, 300]])
    picture = with_boxes(boxes, (255, 0, 0), min_side=320)
    assert picture.shape == (200, 320, 3)
    assert changed(picture)[100].all()
    assert not changed(picture)[:99].any()
    assert not changed(with_boxes(np.zeros((0, 4)), (255, 0, 0))).any()


def test_labels_are_written():
    boxes = np.array([[40.0, 40, 90, 90]])
    drawing = Drawing(image(), min_side=0)
    drawing.labels(boxes, [""], (255, 0, 0))
    assert not changed(drawing.array()).any()
    drawing.labels(boxes, ["a label"], (255, 0, 0))
    assert changed(drawing.array())[20:40].any()


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_other_numbers_of_channels_give_a_picture_too(channels):
    tensor = torch.full((channels, 4, 6), 9, dtype=torch.uint8)
    shown = Drawing(tensor, min_side=0).array()
    assert shown.shape == (4, 6, 3)
    assert (shown == 9).all()


def test_shapes_are_given_in_pixels_of_another_image_of_the_same_scene():
    drawing = Drawing(image(), (200, 320), min_side=0)
    drawing.boxes(np.array([[40.0, 40, 120, 160]]), (255, 0, 0))
    picture = drawing.array()
    assert color_at(picture, 20, 40) == (255, 0, 0)
    assert not changed(picture)[:, 61:].any()


def test_lines_and_points():
    drawing = Drawing(image(), min_side=0)
    drawing.lines(np.array([[10.0, 10, 90, 10]]), (255, 0, 0))
    drawing.points(np.array([[130.0, 70]]), (0, 0, 255))
    picture = drawing.array()
    assert color_at(picture, 50, 10) == (255, 0, 0)
    assert color_at(picture, 130, 70) == (0, 0, 255)
    assert not changed(picture)[30:60].any()


def test_what_was_drawn_before_is_kept_and_arrays_do_not_change_it():
    drawing = Drawing(image(), min_side=0)
    drawing.boxes(np.array([[10.0, 10, 40, 40]]), (255, 0, 0))
    drawing.array()[:] = 0
    drawing.masks(np.zeros((1, 100, 160), bool), (0, 0, 255))
    assert color_at(drawing.array(), 10, 20) == (255, 0, 0)
