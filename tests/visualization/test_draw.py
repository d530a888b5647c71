import numpy as np
import pytest
import torch

from detkit.structures import BitMasks, Boxes, Instances
from detkit.visualization import draw_instances, palette

GRAY = 120


def image(h=100, w=160):
    return np.full((h, w, 3), GRAY, np.uint8)


def two_squares(size=(100, 160), **more):
    masks = torch.zeros(2, *size, dtype=torch.bool)
    masks[0, 20:60, 20:60] = True
    masks[1, 40:80, 100:140] = True
    masks = BitMasks(masks)
    return Instances(size, boxes=masks.boxes(), classes=torch.tensor([0, 1]), masks=masks, **more)


def changed(picture, canvas=GRAY):
    return (picture != canvas).any(2)


def test_masks_are_filled_inside_and_nothing_is_drawn_far_away():
    picture = draw_instances(image(), two_squares(), ["cat", "dog"], min_side=0)
    assert picture.shape == (100, 160, 3)
    assert picture.dtype == np.uint8
    assert changed(picture)[20:60, 20:60].all()
    assert changed(picture)[40:80, 100:140].all()
    assert not changed(picture)[82:, :].any()


def test_small_images_are_enlarged_and_large_ones_are_not():
    assert draw_instances(image(50, 100), two_squares()).shape == (320, 640, 3)
    assert draw_instances(image(700, 900), two_squares()).shape == (700, 900, 3)


def test_instances_in_other_pixels_are_scaled_to_the_image():
    same = draw_instances(image(200, 320), two_squares(), ["a", "b"], min_side=0)
    assert changed(same)[42:118, 42:118].all()
    assert not changed(same)[165:, :].any()


def test_arguments_are_not_changed():
    pixels, instances = image(), two_squares(scores=torch.tensor([0.9, 0.2]))
    draw_instances(pixels, instances, ["a", "b"], score_thresh=0.5, min_side=0)
    assert (pixels == GRAY).all()
    assert instances.scores.tolist() == pytest.approx([0.9, 0.2])


def test_low_scores_are_not_drawn():
    instances = two_squares(scores=torch.tensor([0.9, 0.2]))
    picture = draw_instances(image(), instances, ["a", "b"], score_thresh=0.5, min_side=0)
    assert changed(picture)[30:50, 30:50].all()
    assert not changed(picture)[41:79, 101:139].any()
    assert not changed(draw_instances(image(), instances, score_thresh=0.95, min_side=0)).any()


def test_colours_follow_classes_or_instances():
    instances = two_squares().with_fields(classes=torch.tensor([1, 1]))

    def colors(names, color_by="auto"):
        picture = draw_instances(image(), instances, names, color_by=color_by, min_side=0)
        return tuple(picture[50, 30]), tuple(picture[70, 120])

    first, second = colors(["a", "b"])
    assert first == second
    first, second = colors(["a", "b"], "instance")
    assert first != second
    one_class = instances.with_fields(classes=torch.tensor([0, 0]))
    picture = draw_instances(image(), one_class, ["a"], min_side=0)
    assert tuple(picture[50, 30]) != tuple(picture[70, 120])


def test_small_masks_lie_on_large_ones():
    masks = torch.zeros(2, 100, 160, dtype=torch.bool)
    masks[0, 40:60, 40:60] = True
    masks[1, 10:90, 10:150] = True
    instances = Instances(
        (100, 160), boxes=BitMasks(masks).boxes(), classes=torch.tensor([0, 1]), masks=BitMasks(masks)
    )
    alone = draw_instances(image(), instances[0], ["a", "b"], min_side=0)
    both = draw_instances(image(), instances, ["a", "b"], min_side=0)
    toward = alone[50, 50].astype(int) - GRAY
    assert ((both[50, 50].astype(int) - both[50, 100].astype(int)) * toward > 0).any()
    assert not np.array_equal(both[50, 50], both[50, 100])


def test_boxes_alone_have_an_outline_and_an_untouched_inside():
    boxes = Instances((100, 160), boxes=Boxes([[20, 20, 60, 60]]))
    picture = changed(draw_instances(image(), boxes, min_side=0))
    assert picture[20, 20:60].all()
    assert picture[59, 20:60].all()
    assert picture[20:60, 20].all()
    assert picture[20:60, 59].all()
    assert not picture[25:55, 25:55].any()
    assert not picture[61:, :].any()


@pytest.mark.parametrize("num", [0, 150])
def test_none_and_many(num):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 80, (num, 2))
    boxes = Boxes(np.concatenate([corners, corners + rng.uniform(0, 30, (num, 2))], 1))
    instances = Instances(
        (100, 160),
        boxes=boxes,
        classes=torch.zeros(num).long(),
        scores=torch.rand(num),
        masks=BitMasks(torch.zeros(num, 100, 160)),
    )
    picture = draw_instances(image(), instances, ["x"])
    assert changed(picture).any() == (num > 0)


def test_labels_do_not_lie_on_one_another(monkeypatch):
    from detkit.visualization import labels

    seen = []
    free_spot = labels.free_spot
    monkeypatch.setattr(labels, "free_spot", lambda *a: seen.append(free_spot(*a)) or seen[-1])
    boxes = Boxes([[50, 50, 90, 90]] * 12)
    draw_instances(image(), Instances((100, 160), boxes=boxes, classes=torch.arange(12)), min_side=0)
    spots = [s for s in seen if s is not None]
    assert 1 < len(spots) < 12
    for i, a in enumerate(spots):
        assert all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for b in spots[:i])
        assert a[0] >= 0
        assert a[1] >= 0
        assert a[2] <= 160
        assert a[3] <= 100


def test_tensors_and_grayscale_give_the_same_picture():
    expected = draw_instances(image(), two_squares(), ["a", "b"])
    tensor = torch.from_numpy(image()).permute(2, 0, 1)
    for same in (tensor, tensor[:1], image()[:, :, 0], image()[:, :, :1]):
        assert np.array_equal(draw_instances(same, two_squares(), ["a", "b"]), expected)


@pytest.mark.parametrize("wrong", [np.zeros((10, 10, 3)), np.zeros((10, 10, 2), np.uint8), np.zeros(10, np.uint8)])
def test_other_images_are_refused(wrong):
    with pytest.raises(ValueError, match="expected a uint8"):
        draw_instances(wrong, two_squares())


def test_palette_is_stable_and_neighbours_differ():
    colors = palette(60).astype(int)
    assert (palette(7) == colors[:7]).all()
    assert palette(0).shape == (0, 3)
    distance = np.abs(colors[:, None] - colors[None]).sum(2) + 999 * np.eye(60, dtype=int)
    assert distance[:20, :20].min() > 50
    assert distance.min() > 0
