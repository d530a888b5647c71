"""RoIAlign pooler: against torchvision's operators."""

import pytest
import torch
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from detkit.layers import ShapeSpec
from detkit.modeling.poolers import RoIAlignPooler
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


def test_gradients_reach_every_level():
    maps = features(requires_grad=True)
    RoIAlignPooler(SHAPES, output_size=3)(maps, [boxes(60), boxes(60)]).sum().backward()
    assert all(m.grad is not None and m.grad.abs().sum() > 0 for m in maps.values())


def test_no_boxes():
    pooler = RoIAlignPooler(SHAPES, output_size=7)
    assert pooler(features(), [Boxes([]), Boxes([])]).shape == (0, 8, 7, 7)


def test_levels_that_do_not_double_are_refused():
    with pytest.raises(ValueError, match="strides double"):
        RoIAlignPooler({"a": ShapeSpec(8, 4), "b": ShapeSpec(8, 16)}, output_size=7)
