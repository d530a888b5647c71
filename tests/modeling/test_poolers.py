"""Poolers: against torchvision's operators, and level by level."""

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import LevelMapper

from detkit.layers import ShapeSpec, crop_and_resize
from detkit.modeling.poolers import CropAndResizePooler, RegionFeatures, RoIAlignPooler
from detkit.structures import Boxes

SHAPES = {f"p{i}": ShapeSpec(8, 2**i) for i in (2, 3, 4, 5)}


def features(requires_grad: bool = False) -> dict[str, torch.Tensor]:
    return {
        n: torch.randn(2, 8, 512 // s.stride, 640 // s.stride, requires_grad=requires_grad) for n, s in SHAPES.items()
    }


def boxes(n: int) -> Boxes:
    corner = torch.rand(n, 2) * 300
    return Boxes(torch.cat([corner, corner + torch.rand(n, 2) ** 2 * 900 + 1], dim=1))


def test_levels_equal_torchvision():
    b = boxes(500)
    levels = RoIAlignPooler(SHAPES, output_size=7).assign_levels(b)
    assert torch.equal(levels, LevelMapper(2, 5)([b.tensor]))
    assert set(levels.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_each_box_is_roi_align_at_its_level_in_the_given_order(sampling_ratio):
    pooler = RoIAlignPooler(SHAPES, output_size=7, sampling_ratio=sampling_ratio)
    maps, per_image = features(), [boxes(30), boxes(20)]
    out = pooler(maps, per_image)
    assert out.shape == (50, 8, 7, 7)
    row = 0
    for image, b in enumerate(per_image):
        for box, level in zip(b.tensor, pooler.assign_levels(b).tolist()):
            name = f"p{level + 2}"
            wanted = roi_align(
                maps[name][image : image + 1], [box[None]], 7, 1 / 2 ** (level + 2), sampling_ratio, True
            )
            torch.testing.assert_close(out[row], wanted[0])
            row += 1


@pytest.mark.parametrize("names", [("p2", "p3", "p4", "p5"), ("p4",)], ids=["pyramid", "one_map"])
def test_unaligned_equals_torchvisions_pooler(names):
    maps, per_image = features(), [boxes(30), boxes(20)]
    ours = RoIAlignPooler({n: SHAPES[n] for n in names}, output_size=7, sampling_ratio=2, aligned=False)
    theirs = MultiScaleRoIAlign(list(names), 7, 2)
    want = theirs(maps, [b.tensor for b in per_image], [(512, 640), (500, 600)])
    torch.testing.assert_close(ours(maps, per_image), want, atol=1e-5, rtol=1e-4)


def test_crop_and_resize_of_each_box_at_its_level_in_the_given_order():
    pooler = CropAndResizePooler(SHAPES, output_size=7)
    maps, per_image = features(), [boxes(30), boxes(20)]
    out, row = pooler(maps, per_image), 0
    assert out.shape == (50, 8, 7, 7)
    for image, b in enumerate(per_image):
        for box, level in zip(b.tensor, pooler.assign_levels(b).tolist()):
            feature = maps[f"p{level + 2}"][image : image + 1]
            inside = box / torch.tensor([640.0, 512, 640, 512])
            wanted = crop_and_resize(feature, inside[None], torch.tensor([0]), 7)
            torch.testing.assert_close(out[row], wanted[0])
            row += 1


def test_a_level_may_be_the_nearest_one():
    sides = torch.tensor([1.0, 78, 80, 157, 159, 224, 316, 318, 2000])
    b = Boxes(torch.cat([torch.zeros(9, 2), sides[:, None] / 2, sides[:, None] * 2], dim=1))
    nearest = (4 + torch.log2(sides / 224)).round().clamp(2, 5).long() - 2
    assert nearest.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3]
    for pooler in (
        CropAndResizePooler(SHAPES, output_size=7),
        RoIAlignPooler(SHAPES, output_size=7, level_rounding="round"),
    ):
        assert torch.equal(pooler.assign_levels(b), nearest)
    floor = CropAndResizePooler(SHAPES, output_size=7, level_rounding="floor").assign_levels(b)
    assert torch.equal(floor, RoIAlignPooler(SHAPES, output_size=7).assign_levels(b))
    assert floor.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3]


POOLERS = [RoIAlignPooler, CropAndResizePooler]


@pytest.mark.parametrize("cls", POOLERS)
def test_a_map_alone_has_all_boxes_whatever_its_stride(cls):
    for stride in (8, 16, 12):
        shape, feature = {"res4": ShapeSpec(8, stride)}, {"res4": torch.randn(2, 8, 12, 18)}
        pooler, per_image = cls(shape, output_size=3), [boxes(10), boxes(4)]
        out = pooler(feature, per_image)
        assert out.shape == (14, 8, 3, 3)
        rois = torch.cat([torch.tensor([0.0] * 10 + [1] * 4)[:, None], Boxes.cat(per_image).tensor], dim=1)
        assert torch.equal(out, pooler.pool(feature["res4"], rois, stride))


@pytest.mark.parametrize("cls", POOLERS)
def test_no_gradient_to_the_boxes_and_every_level_in_the_graph(cls):
    maps = features(requires_grad=True)
    small = torch.tensor([[4.0, 4, 40, 40], [9, 9, 30, 30]], requires_grad=True)
    cls(SHAPES, output_size=3)(maps, [Boxes(small), Boxes([])]).sum().backward()
    assert small.grad is None
    assert all(m.grad is not None for m in maps.values())
    assert [m.grad.abs().sum() > 0 for m in maps.values()] == [True, False, False, False]


@pytest.mark.parametrize("cls", POOLERS)
def test_gradients_reach_every_level(cls):
    maps = features(requires_grad=True)
    cls(SHAPES, output_size=3)(maps, [boxes(60), boxes(60)]).sum().backward()
    assert all(m.grad is not None and m.grad.abs().sum() > 0 for m in maps.values())


@pytest.mark.parametrize("cls", POOLERS)
def test_no_boxes(cls):
    maps = features(requires_grad=True)
    out = cls(SHAPES, output_size=7)(maps, [Boxes([]), Boxes([])])
    assert out.shape == (0, 8, 7, 7)
    out.sum().backward()
    assert all(m.grad is not None and not m.grad.any() for m in maps.values())


@pytest.mark.parametrize("cls", POOLERS)
@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"a": ShapeSpec(8, 4), "b": ShapeSpec(8, 16)}, "double from one to the next"),
        ({"p5": ShapeSpec(8, 32), "p5_2": ShapeSpec(8, 32)}, r"p5 .* stride 32\), p5_2 .*in_features of the RoI heads"),
        ({"a": ShapeSpec(8, 4), "b": ShapeSpec(9, 8)}, "maps of one width"),
        ({"a": ShapeSpec(8, 3), "b": ShapeSpec(8, 6)}, "powers of two"),
        ({}, "got none"),
    ],
)
def test_levels_that_do_not_double_are_refused(cls, shapes, words):
    with pytest.raises(ValueError, match=words):
        cls(shapes, output_size=7)


def test_an_unknown_rounding_is_refused():
    with pytest.raises(ValueError, match="'floor' or 'round', got 'up'"):
        RoIAlignPooler(SHAPES, output_size=7, level_rounding="up")


def test_region_features_are_handed_on():
    pooler = RegionFeatures({"res5": ShapeSpec(16, 32, height=7, width=7)})
    assert pooler.output_shape == ShapeSpec(16, 32, height=7, width=7)
    pooled = torch.randn(5, 16, 7, 7)
    assert pooler({"res5": pooled}, [boxes(3), boxes(2)]) is pooled
    with pytest.raises(AssertionError, match="one row of features for each box"):
        pooler({"res5": pooled}, [boxes(3)])


def test_maps_are_no_region_features():
    with pytest.raises(ValueError, match=r"'p5' is a map of the image.*Res5RoIHeads"):
        RegionFeatures({"p5": ShapeSpec(8, 32)})
    with pytest.raises(ValueError, match=r"one feature that is pooled already, got \['p2'"):
        RegionFeatures(SHAPES)
