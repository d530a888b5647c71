import pickle

import numpy as np
import pytest
import torch

from detkit.structures import (
    Boxes,
    Compose,
    CropAndPad,
    Flip,
    Instances,
    Keypoints,
    ProjectiveTransform,
    Resize,
)

H, W = 60, 80
PAIRS = [(1, 2)]


def keypoints(n=5, seed=0):
    """A nose, a left and a right eye of n persons; some are not labelled."""
    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.uniform(1, (W - 1, H - 1), (n, 3, 2)), rng.integers(0, 3, (n, 3, 1))], 2)
    points[points[..., 2] == 0] = 0
    return Keypoints(points, PAIRS)


TURN = ProjectiveTransform((H, W), (90, 100), [[0.9, -0.3, 20], [0.3, 0.9, 3], [0.0005, 0.0002, 1]])
WHOLE = [
    Resize((H, W), (77, 31)),
    Flip((H, W)),
    Flip((H, W), "vertical"),
    CropAndPad((H, W), -10, -5, 100, 120),
    TURN,
    Compose([Flip((H, W)), Resize((H, W), (120, 40)), CropAndPad((120, 40), -3, 0, 120, 50)]),
]


@pytest.mark.parametrize("transform", WHOLE, ids=lambda t: type(t).__name__)
def test_the_inverse_brings_every_point_back(transform):
    before = keypoints()
    there = before.transform(transform)
    assert torch.equal(there.visible().sum(1), before.visible().sum(1))
    back = there.transform(transform.inverse())
    torch.testing.assert_close(back.tensor, before.tensor, atol=1e-3, rtol=0)


@pytest.mark.parametrize("transform", WHOLE[:1] + WHOLE[3:5], ids=lambda t: type(t).__name__)
def test_points_go_where_coordinates_go(transform):
    before = keypoints()
    after, visible = before.transform(transform), before.visible()
    assert torch.equal(after.tensor[..., 2], before.tensor[..., 2])
    torch.testing.assert_close(after.tensor[..., :2][visible], transform.coords(before.tensor[..., :2])[visible])
    assert (after.tensor[~visible] == 0).all(), "what is not labelled has no place"


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_left_and_right_change_places_in_a_mirror(direction):
    before = keypoints()
    flip = Flip((H, W), direction)
    after = before.transform(flip)
    moved = Keypoints(before.tensor).transform(flip)
    assert torch.equal(after.tensor, moved.tensor[:, [0, 2, 1]])
    twice = Compose([flip, Flip((H, W), "vertical" if direction == "horizontal" else "horizontal")])
    assert not twice.reverses
    unpaired = Keypoints(before.tensor).transform(twice)
    assert torch.equal(before.transform(twice).tensor, unpaired.tensor), "turned around, not mirrored"


def test_points_outside_of_a_crop_are_not_visible_any_more():
    before = Keypoints([[[10.0, 10, 2], [40, 30, 1], [79, 59, 2]]])
    after = before.transform(CropAndPad((H, W), 20, 20, 30, 40))
    assert after.tolist() == [[[0, 0, 0], [20, 10, 1], [0, 0, 0]]]
    assert after.nonempty().tolist() == [True]
    none = before.transform(CropAndPad((H, W), 60, 0, 10, 10))
    assert none.nonempty().tolist() == [False]
    assert not none.tensor.any()


def test_cells_of_a_box_have_what_is_labelled_inside_of_it_with_its_edges():
    boxes = Boxes([[10.0, 20, 30, 60]] * 2)
    points = Keypoints(
        [
            [[10.0, 20, 2], [30, 60, 1], [29.9, 20, 2], [20, 40, 2]],  # corners, and the middle
            [[9.9, 30, 2], [20, 60.1, 2], [20, 40, 0], [10, 60, 1]],  # left of it, below it, not labelled, a corner
        ]
    )
    assert points.cells(boxes, 4).tolist() == [[0, 15, 3, 10], [-1, -1, -1, 12]]
    assert Keypoints(torch.zeros(0, 4, 3)).cells(Boxes([]), 4).shape == (0, 4)


def test_they_are_a_field_of_instances():
    objects = Instances((H, W), boxes=Boxes(torch.tensor([[1.0, 2, 30, 40]]).repeat(5, 1)), keypoints=keypoints())
    assert objects[torch.tensor([3, 1])].keypoints.shape == (2, 3, 3)
    assert torch.equal(objects[1].keypoints.tensor, keypoints().tensor[1:2])
    resized = objects.transform(Resize((H, W), (2 * H, W // 2)))
    assert resized.image_size == (2 * H, W // 2)
    assert resized.boxes[0].tolist() == [0.5, 4, 15, 80]
    torch.testing.assert_close(resized.keypoints.tensor, keypoints().tensor * torch.tensor([0.5, 2, 1]))
    both = Instances.cat([objects[:2], objects[2:].to("cpu")])
    assert torch.equal(both.keypoints.tensor, keypoints().tensor)
    again = pickle.loads(pickle.dumps(objects)).keypoints
    assert again.flip_pairs == ((1, 2),)
    assert torch.equal(again.tensor, keypoints().tensor)


def test_wrong_shapes_and_pairs_are_refused():
    with pytest.raises(ValueError, match=r"expected shape \(N, P, 3\), got \(2, 3\)"):
        Keypoints(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"\(\(0, 3\),\) name points beyond the 3"):
        Keypoints(torch.zeros(2, 3, 3), [(0, 3)])
    with pytest.raises(ValueError, match="the same points"):
        Keypoints.cat([keypoints(), Keypoints(torch.zeros(1, 4, 3))])
