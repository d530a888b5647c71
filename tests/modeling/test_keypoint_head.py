"""The keypoint head: which points its loss is a mean over, and where a heat map's peak lies in the image."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from detkit.layers import ShapeSpec
from detkit.modeling.poolers import RoIAlignPooler
from detkit.modeling.roi_heads import ConvUpsampleKeypointHead
from detkit.modeling.roi_heads.keypoint_head import peaks
from detkit.structures import Boxes, Instances, Keypoints, KeypointSpec

SPEC = KeypointSpec(("left", "right", "top"))
BOX = [4.0, 4, 28, 28]
INSIDE, OUTSIDE, HIDDEN = [10.0, 12, 2], [30.0, 12, 2], [0.0, 0, 0]


def make(**options):
    pooler = partial(RoIAlignPooler, output_size=14)
    torch.manual_seed(0)
    shapes = {"p2": ShapeSpec(channels=8, stride=4)}
    return ConvUpsampleKeypointHead(shapes, 2, pooler=pooler, keypoints=SPEC, num_conv=1, conv_dim=8, **options)


def regions(*points, keypoints=True):
    boxes = Boxes(torch.tensor(BOX).repeat(len(points), 1))
    found = Instances((32, 32), boxes=boxes, classes=torch.zeros(len(points), dtype=torch.int64))
    return found.with_fields(gt_keypoints=Keypoints(torch.tensor(points).reshape(-1, 3, 3))) if keypoints else found


def loss(head, *images):
    generator = torch.Generator().manual_seed(1)
    return head.loss({"p2": torch.rand(1, 8, 8, 8, generator=generator).expand(len(images), -1, -1, -1)}, list(images))


def test_the_mean_is_over_what_is_visible_in_the_box_whatever_image_it_is_in():
    head = make()
    one = loss(head, regions([INSIDE, OUTSIDE, HIDDEN]))
    more = loss(head, regions([INSIDE, OUTSIDE, HIDDEN], [OUTSIDE, HIDDEN, HIDDEN]), regions([INSIDE, HIDDEN, OUTSIDE]))
    assert one.normalisers["loss_keypoint"] == 1
    assert more.normalisers["loss_keypoint"] == 2
    torch.testing.assert_close(one.terms, more.terms)


def test_the_fixed_normaliser_counts_images_and_keypoints():
    images = [regions([INSIDE, INSIDE, HIDDEN]), regions()]
    mean, fixed = loss(make(), *images), loss(make(objects_per_image=16.0, loss_weight=4.0), *images)
    assert not fixed.normalisers
    torch.testing.assert_close(fixed.terms["loss_keypoint"], mean.terms["loss_keypoint"] * 2 * 4 / (2 * 3 * 16))


@pytest.mark.parametrize("objects", [None, 16.0])
@pytest.mark.parametrize("images", [[regions([OUTSIDE, HIDDEN, OUTSIDE])], [regions()], [regions(keypoints=False)]])
def test_where_nothing_is_visible_the_loss_is_zero_and_has_gradients(images, objects):
    head = make(objects_per_image=objects)
    found = loss(head, *images)
    found.total().backward()
    assert found.terms["loss_keypoint"] == 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


def test_what_the_data_lack_is_said():
    with pytest.raises(ValueError, match=r"1 of 2 images .* no keypoints; train on data with .*keypoint_head=null"):
        loss(make(), regions([INSIDE] * 3), regions([INSIDE] * 3, keypoints=False))
    two = regions([INSIDE] * 3).with_fields(gt_keypoints=Keypoints(torch.zeros(1, 2, 3)))
    with pytest.raises(ValueError, match=r"3 keypoints \(left, right, top.*the data have 2.*keypoints=null"):
        loss(make(), two)


def test_a_peak_lies_in_the_middle_of_its_pixel_of_the_box():
    maps = torch.zeros(2, 1, 8, 8)
    maps[0, 0, 2, 5] = maps[1, 0, 7, 0] = 20.0
    boxes = Boxes([[10.0, 20, 18, 28], [-3, 5, 13, 37]])  # as large as the map, and two and four times as large
    found = peaks(maps, boxes, "logit")
    assert found[0, 0].tolist() == pytest.approx([15.5, 22.5, 20.0])
    assert (found[1, 0, :2] - torch.tensor([-2.0, 35.0])).abs().max() <= 2
    score = peaks(maps, boxes, "probability")
    assert torch.equal(score[..., :2], found[..., :2])
    assert score[0, 0, 2] == pytest.approx(F.softmax(maps[0].flatten(), 0).max().item())


def test_a_box_of_less_than_a_pixel_has_points_too():
    found = peaks(torch.rand(1, 2, 8, 8), Boxes([[5.0, 6, 5.25, 6.0]]), "probability")
    assert torch.isfinite(found).all()
    assert (found[..., 0] - 5).abs().max() <= 1
    assert peaks(torch.rand(0, 2, 8, 8), Boxes([]), "logit").shape == (0, 2, 3)


@pytest.mark.parametrize("score", ["probability", "logit"])
def test_no_score_is_exactly_zero_which_would_mean_a_point_that_is_not_there(score):
    maps = torch.zeros(1, 1, 8, 8)
    assert peaks(maps, Boxes([[0.0, 0, 8, 8]]), score)[..., 2].item() > 0
    maps[0, 0, 2, 2] = 1e4  # which a map of one pixel does not show
    found = peaks(maps, Boxes([[3.0, 4, 4, 5]]), score)
    assert found[0, 0, :2].tolist() == [3.5, 4.5]
    assert found[0, 0, 2] != 0
