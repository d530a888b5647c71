import numpy as np
import pytest
import torch

from detkit import visualization
from detkit.structures import BitMasks, Boxes, Instances, Keypoints, Panoptic, Prediction, Segment
from detkit.visualization import draw_prediction, drawing

GRAY = 120


def image(h=100, w=160):
    return np.full((h, w, 3), GRAY, np.uint8)


def draw_instances(image, instances, class_names=(), **options):
    return draw_prediction(image, Prediction(instances), class_names, **options)


def two_squares(size=(100, 160), **more):
    masks = torch.zeros(2, *size, dtype=torch.bool)
    masks[0, 20:60, 20:60] = True
    masks[1, 40:80, 100:140] = True
    masks = BitMasks(masks)
    return Instances(size, boxes=masks.boxes(), classes=torch.tensor([0, 1]), masks=masks, **more)


def changed(picture):
    return (picture != GRAY).any(2)


def test_masks_are_filled_inside_and_nothing_is_drawn_far_away():
    picture = draw_instances(image(), two_squares(), ["cat", "dog"], min_side=0)
    assert picture.shape == (100, 160, 3)
    assert picture.dtype == np.uint8
    assert changed(picture)[20:60, 20:60].all()
    assert changed(picture)[40:80, 100:140].all()
    assert not changed(picture)[82:, :].any()


def test_instances_alone_are_drawn_as_the_prediction_that_holds_them():
    alone = visualization.draw_instances(image(), two_squares(), ["cat", "dog"])
    assert (alone == draw_instances(image(), two_squares(), ["cat", "dog"])).all()


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

    def colors(names):
        picture = draw_instances(image(), instances, names, min_side=0)
        return tuple(picture[50, 30]), tuple(picture[70, 120])

    first, second = colors(["a", "b"])
    assert first == second
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
    seen = []
    free_place = drawing.free_place
    monkeypatch.setattr(drawing, "free_place", lambda *a: seen.append(free_place(*a)) or seen[-1])
    boxes = Boxes([[50, 50, 90, 90]] * 12)
    draw_instances(image(), Instances((100, 160), boxes=boxes, classes=torch.arange(12)), min_side=0)
    places = [place for place in seen if place is not None]
    assert 1 < len(places) < 12
    for i, a in enumerate(places):
        assert all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for b in places[:i])
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
    with pytest.raises(ValueError, match="uint8"):
        draw_instances(wrong, two_squares())


def test_where_nothing_reaches_the_threshold_the_best_are_drawn_and_marked():
    instances = two_squares(scores=torch.tensor([0.1, 0.2]))
    options = {"score_thresh": 0.5, "min_side": 0}
    best = changed(draw_instances(image(), instances, ["a", "b"], show_best=1, **options))
    assert best[40:80, 100:140].all()
    assert not best[61:, :99].any()
    assert best[0, 0]  # the note
    dashed = draw_instances(image(), instances.without("masks"), ["a", "b"], show_best=1, **options)
    solid = draw_instances(image(), instances.without("masks"), ["a", "b"], score_thresh=0.15, min_side=0)
    edge = {tuple(color) for color in dashed[79, 100:140].tolist()}
    assert edge == {(0, 0, 0), tuple(solid[79, 120].tolist())}
    above = two_squares(scores=torch.tensor([0.6, 0.2]))
    assert np.array_equal(
        draw_instances(image(), above, show_best=3, **options), draw_instances(image(), above, **options)
    )
    nothing = instances[:0]
    assert not changed(draw_instances(image(), nothing, show_best=3, **options)).any()


def test_large_images_are_shrunk_with_what_is_on_them():
    instances = two_squares()
    picture = draw_instances(image(2000, 3200), instances, max_side=160, min_side=0)
    assert picture.shape == (240, 384, 3)  # the shorter side stays readable
    picture = draw_instances(image(2000, 3200), instances)
    assert picture.shape == (1000, 1600, 3)
    assert changed(picture)[410:790, 1010:1390].all()
    assert not changed(picture)[830:].any()
    assert draw_instances(image(2000, 3200), instances, max_side=None).shape == (2000, 3200, 3)
    assert draw_instances(image(100, 9000), instances).shape == (71, 6400, 3)  # a strip, of which little would be left


def test_labels_stay_in_the_picture_whatever_their_length(monkeypatch):
    seen = []
    free_place = drawing.free_place
    monkeypatch.setattr(drawing, "free_place", lambda *a: seen.append(free_place(*a)) or seen[-1])
    box = Instances((60, 300), boxes=Boxes([[100, 20, 130, 40]]), classes=torch.tensor([0]))
    draw_instances(image(60, 300), box, ["name " * 40, "b"], min_side=0)
    ((x1, y1, x2, y2),) = seen
    assert 0 <= x1 < x2 <= 300
    assert 0 <= y1 < y2 <= 60
    assert x2 - x1 > 200  # as much of it as there is place for
    strip = Instances((300, 6), boxes=Boxes([[1, 100, 5, 140]]), classes=torch.tensor([0]))
    draw_instances(image(300, 6), strip, ["name", "b"], min_side=0)
    assert seen[1] is None


def test_keypoints_are_points_joined_by_the_skeleton():
    keypoints = Keypoints([[[20, 20, 2], [120, 20, 1], [120, 80, 0]]])
    instances = Instances((100, 160), boxes=Boxes([[10, 10, 130, 90]]), keypoints=keypoints)
    bare = draw_instances(image(), instances.without("keypoints"), min_side=0)
    points = draw_instances(image(), instances, min_side=0)
    joined = draw_instances(image(), instances, skeleton=[(0, 1), (1, 2)], min_side=0)
    assert (points != bare)[20, [20, 120]].any(1).all()
    assert not (points != bare)[80, 120].any()  # it is not visible
    assert not (points != bare)[20, 70].any()
    assert (joined != points)[20, 70].any()
    assert not (joined != points)[50, 120].any()
    twice = draw_instances(image(200, 320), instances, min_side=0)
    assert (twice[40, 40] != GRAY).any()


class Headings:
    """A field of a user's own: an angle a row, which is drawn as a line from the middle of the image."""

    def __init__(self, angles):
        self.angles = torch.as_tensor(angles)

    def __len__(self):
        return len(self.angles)

    def __getitem__(self, item):
        return Headings(self.angles[item])

    def draw(self, drawing, colors):
        tips = torch.stack([80 + 40 * self.angles.cos(), 50 + 40 * self.angles.sin()], 1)
        drawing.lines(np.concatenate([np.tile([80, 50], (len(self), 1)), tips.numpy()], 1), colors)


def test_a_field_of_ones_own_draws_itself_for_the_instances_that_are_drawn():
    headings = Headings([0.0, np.pi])
    scores = torch.tensor([0.9, 0.1])
    instances = Instances((100, 160), boxes=Boxes([[0, 0, 9, 9]] * 2), scores=scores, headings=headings)
    picture = changed(draw_instances(image(), instances, score_thresh=0.5, min_side=0))
    assert picture[50, 100]
    assert not picture[50, 60]


def test_a_semantic_map_is_drawn_below_the_instances():
    semantic = torch.full((100, 160), 255)
    semantic[60:, :80], semantic[60:, 80:] = 0, 1
    alone = draw_prediction(image(), Prediction(semantic=semantic), ["sky", "road"], min_side=0)
    assert not changed(alone)[:40].any()  # pixels of no class
    assert changed(alone)[61:, :].all()
    assert (alone[95, 10] != alone[95, 150]).any()
    box = Instances((100, 160), boxes=Boxes([[10, 10, 50, 50]]), classes=torch.tensor([0]))
    both = draw_prediction(image(), Prediction(box, semantic), ["sky", "road"], min_side=0)
    assert changed(both)[10, 12:48].all()
    assert (both[65:] == alone[65:]).all()


def test_a_panoptic_map_is_drawn_by_its_segments_alone():
    ids = torch.zeros(100, 160, dtype=torch.int64)
    ids[10:30, 10:60], ids[50:90, 10:60] = 1, 7
    panoptic = Panoptic(ids, (Segment(1, 0, True, 0.9), Segment(7, 0, True), Segment(9, 1, False)))
    prediction = Prediction(two_squares(), panoptic=panoptic)
    picture = draw_prediction(image(), prediction, ["cat", "sky"], min_side=0)
    assert changed(picture)[10:30, 10:60].all()
    assert changed(picture)[50:90, 10:60].all()
    assert (picture[12, 12] != picture[88, 12]).any()
    assert not changed(picture)[:, 100:].any()


def test_keypoints_bring_their_own_skeleton():
    points = [[[20.0, 50, 1], [140, 50, 1]]]
    plain = Instances((100, 160), keypoints=Keypoints(points))
    joined = Instances((100, 160), keypoints=Keypoints(points, skeleton=[(0, 1)]))
    assert not changed(draw_instances(image(), plain, min_side=0))[50, 80]
    picture = draw_instances(image(), joined, min_side=0)
    assert changed(picture)[50, 80]
    assert (picture == draw_instances(image(), plain, min_side=0, skeleton=[(0, 1)])).all()
    assert joined[:1].to("cpu").keypoints.skeleton == ((0, 1),)
