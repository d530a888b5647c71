"""Points: where they lie, what maps and masks hold there, and which are chosen."""

import pytest
import torch

from detkit.layers import ShapeSpec
from detkit.modeling.points import (
    PointSampling,
    grid_points,
    sample_features,
    sample_maps,
    sample_masks,
    uncertain_cells,
)
from detkit.modeling.poolers import PointPooler, RoIAlignPooler
from detkit.structures import BitMasks, Boxes, PolygonMasks


def slope(height, width, stride=1):
    """A map (1, 2, H, W) whose values are the x and y of its cells' centres, in pixels of the image."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y])[None] * stride


def test_a_grid_is_the_centres_of_its_cells_row_by_row():
    points = grid_points(3, 2, torch.device("cpu"))
    assert points.tolist() == [[[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]] * 3
    assert grid_points(0, 4, torch.device("cpu")).shape == (0, 16, 2)


def test_maps_are_read_bilinearly_and_are_zero_outside():
    points = torch.tensor([[[0.5, 0.5], [0.25, 0.625], [1.5, 0.5], [0.0, 0.5]]])
    x, y = sample_maps(slope(8, 4), points)[0]
    torch.testing.assert_close(x, torch.tensor([2.0, 1, 0, 0.25]))  # at the left side half of the first cell is outside
    torch.testing.assert_close(y[:2], torch.tensor([4.0, 5]))


def test_features_at_points_are_those_of_the_boxs_own_image_on_every_map():
    maps = [torch.cat([slope(16, 16, 4), 100 + slope(16, 16, 4)]), torch.cat([slope(8, 8, 8), slope(8, 8, 8)])]
    boxes = [Boxes([[8.0, 16, 24, 48]]), Boxes([[16.0, 8, 48, 24], [10, 10, 20, 20]])]
    points = torch.tensor([[[0.5, 0.25], [1.0, 0.0]]]).repeat(3, 1, 1)
    found = sample_features(maps, [4, 8], boxes, points)
    assert found.shape == (3, 4, 2)
    torch.testing.assert_close(found[0], torch.tensor([[16.0, 24], [24, 16]] * 2))
    torch.testing.assert_close(found[1, :2], 100 + torch.tensor([[32.0, 48], [12, 8]]))
    torch.testing.assert_close(found[1, 2:], torch.tensor([[32.0, 48], [12, 8]]))


def test_a_point_pooler_is_roi_align_with_one_sample_where_no_map_ends():
    shapes = {"p2": ShapeSpec(8, 4), "p3": ShapeSpec(8, 8)}
    features = {"p2": torch.randn(2, 8, 32, 32), "p3": torch.randn(2, 8, 16, 16)}
    boxes = [Boxes([[10.0, 12, 90, 71], [30, 30, 40, 36]]), Boxes([[20.0, 8, 60, 100]])]
    pooler = PointPooler(shapes, output_size=5)
    aligned = RoIAlignPooler({"p2": shapes["p2"]}, output_size=5, sampling_ratio=1)
    torch.testing.assert_close(pooler(features, boxes), aligned(features, boxes), atol=1e-5, rtol=1e-5)
    both = PointPooler(shapes, output_size=5, in_features=("p2", "p3"))
    assert both.output_shape == ShapeSpec(16, height=5, width=5)
    torch.testing.assert_close(both(features, boxes)[:, :8], pooler(features, boxes))


def test_a_point_pooler_refuses_what_is_pooled_already():
    with pytest.raises(ValueError, match="'res5' is pooled already"):
        PointPooler({"res5": ShapeSpec(16, height=7, width=7)}, output_size=5)
    with pytest.raises(ValueError, match=r"pooler\.in_features: no feature named p9"):
        PointPooler({"p2": ShapeSpec(16, 4)}, output_size=5, in_features=("p9",))


def test_masks_are_read_at_the_points_of_their_boxes_whatever_they_are_kept_as():
    polygons = PolygonMasks([[[2.0, 2, 12, 2, 12, 10, 2, 10]], [[20.0, 4, 30, 4, 30, 28, 20, 28]]], (32, 40))
    boxes = Boxes([[0.0, 0, 16, 16], [20, 4, 30, 28]])
    points = torch.tensor([[0.5, 0.5], [0.01, 0.1], [0.125, 0.5], [0.9, 0.9]]).repeat(2, 1, 1)
    found = sample_masks(polygons, boxes, points)
    torch.testing.assert_close(found[0], torch.tensor([1.0, 0, 0.5, 0]))
    assert (found[1] > 0.4).all()
    torch.testing.assert_close(sample_masks(polygons.bitmaps(), boxes, points), found)
    assert sample_masks(BitMasks(torch.zeros(1, 8, 8)), Boxes([[0.0, 0, 8, 8]]), points[:1]).sum() == 0


def test_most_sampled_points_are_where_the_logits_are_near_zero():
    torch.manual_seed(0)
    logits = (slope(16, 16)[0, 0] - 8).expand(4, 16, 16) * 3  # zero along the middle column
    points = PointSampling(num_points=80, oversampling=4.0, uncertain=0.75)(logits)
    assert points.shape == (4, 80, 2)
    assert ((points >= 0) & (points < 1)).all()
    from_middle = (points[..., 0] - 0.5).abs()
    assert (from_middle[:, :60].amax(1) < 0.2).all()  # 60 of 320: the nearest fifth
    assert (from_middle[:, 60:].amax(1) > 0.3).all()
    torch.manual_seed(0)
    assert torch.equal(points, PointSampling(80, 4.0, 0.75)(logits))
    assert not torch.equal(points, PointSampling(80, 4.0, 0.75)(logits))
    assert PointSampling()(logits[:0]).shape == (0, 196, 2)


def test_uncertain_cells_are_those_nearest_to_zero_and_their_centres():
    logits = torch.tensor([[[5.0, -1, 9, 9], [9, 9, 0.5, -7]]])
    cells, points = uncertain_cells(logits, 2)
    assert cells.tolist() == [[6, 1]]
    assert points.tolist() == [[[0.625, 0.75], [0.375, 0.25]]]
    assert uncertain_cells(logits, 100)[0].shape == (1, 8)
