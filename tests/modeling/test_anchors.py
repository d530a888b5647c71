"""Anchors: against torchvision's, and analytically."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchvisionAnchors
from torchvision.models.detection.image_list import ImageList as TorchvisionImages

from detkit.experiment import load_experiment
from detkit.layers import ShapeSpec
from detkit.modeling.anchors import GridAnchorGenerator


@pytest.mark.parametrize("size", [(128, 192), (96, 224), (160, 128)])
def test_equal_torchvision(size):
    """Also at levels whose size was rounded up, where torchvision's strides are not powers of two."""
    sizes, ratios = ((32.0, 50.0), (64.0, 70.0), (101.0, 128.0)), (0.5, 1.0, 2.0)
    height, width = size
    features = [torch.zeros(1, 4, -(-height // s), -(-width // s)) for s in (16, 32, 64)]
    specs = [ShapeSpec(4, s) for s in (16, 32, 64)]
    ours = GridAnchorGenerator(specs, sizes=sizes, aspect_ratios=ratios, order="ratio", rounded=True, stride="measured")
    theirs = TorchvisionAnchors(sizes, (ratios,) * 3)
    images = TorchvisionImages(torch.zeros(1, 3, height, width), [(height, width)])
    torch.testing.assert_close(torch.cat([a.tensor for a in ours(features, size)]), theirs(images, features)[0])


def test_each_level_may_have_ratios_of_its_own():
    sizes, ratios, steps = ((32.0,), (64.0, 70.0)), ((0.5, 1.0), (1.0, 3.0)), (16, 32)
    specs, features = [ShapeSpec(4, s) for s in steps], [torch.zeros(1, 4, 128 // s, 64 // s) for s in steps]
    ours = GridAnchorGenerator(specs, sizes=sizes, aspect_ratios=ratios, order="ratio", rounded=True)
    assert ours.num_anchors == [2, 4]
    theirs = TorchvisionAnchors(sizes, ratios)(TorchvisionImages(torch.zeros(1, 3, 128, 64), [(128, 64)]), features)[0]
    torch.testing.assert_close(torch.cat([a.tensor for a in ours(features, (128, 64))]), theirs)
    with pytest.raises(ValueError, match=r"aspect_ratios: 3 lists for 2 feature levels"):
        GridAnchorGenerator(specs, sizes=sizes, aspect_ratios=((1.0,),) * 3)
    for given in ([0.5, 2], [[0.5, 2], [1, 1], [1, 2], [1, 3], [1, 4]]):
        path = "model.proposal_generator.anchor_generator.aspect_ratios"
        exp = load_experiment("coco/mask_rcnn_R_50_FPN_1x", [f"{path}={given}"])
        assert exp.model.kwargs["proposal_generator"].kwargs["anchor_generator"].kwargs["aspect_ratios"][0] in (
            0.5,
            (0.5, 2.0),
        )


def test_measured_and_nominal_strides_agree_where_nothing_was_rounded():
    maps = [torch.zeros(1, 1, 8, 12)]
    nominal, measured = (
        GridAnchorGenerator([ShapeSpec(1, 16)], sizes=((32.0,),), stride=kind)(maps, (128, 192))[0]
        for kind in ("nominal", "measured")
    )
    assert torch.equal(nominal, measured)


def test_order_changes_which_anchor_stands_where_and_nothing_else():
    size, ratio = (
        GridAnchorGenerator([ShapeSpec(1, 8)], sizes=((16.0, 32.0),), aspect_ratios=(0.5, 1.0, 2.0), order=order)
        for order in ("size", "ratio")
    )
    maps = [torch.zeros(1, 1, 2, 2)]
    by_size, by_ratio = (g(maps, (16, 16))[0].tensor.reshape(4, 6, 4) for g in (size, ratio))
    assert torch.equal(by_size.reshape(4, 2, 3, 4), by_ratio.reshape(4, 3, 2, 4).transpose(1, 2))


def test_areas_ratios_and_centres():
    generator = GridAnchorGenerator([ShapeSpec(1, 4)], sizes=((16.0, 20.0),), aspect_ratios=(0.5, 1.0, 2.0), offset=0.5)
    assert generator.num_anchors == [6]
    a = generator([torch.zeros(1, 1, 2, 3)], (8, 12))[0].tensor.reshape(2, 3, 6, 4)
    w, h = a[..., 2] - a[..., 0], a[..., 3] - a[..., 1]
    torch.testing.assert_close(h / w, torch.tensor([0.5, 1, 2, 0.5, 1, 2]).expand(2, 3, 6))
    torch.testing.assert_close((w * h).sqrt(), torch.tensor([16.0, 16, 16, 20, 20, 20]).expand(2, 3, 6))
    centres = (a[..., :2] + a[..., 2:]) / 2
    torch.testing.assert_close(centres[1, 2], torch.tensor([10.0, 6.0]).expand(6, 2))


def test_one_list_serves_all_levels_and_a_wrong_number_is_refused():
    specs = [ShapeSpec(1, s) for s in (4, 8, 16)]
    assert GridAnchorGenerator(specs, sizes=((32.0, 64.0),)).num_anchors == [6, 6, 6]
    with pytest.raises(ValueError, match="2 lists for 3 feature levels"):
        GridAnchorGenerator(specs, sizes=((32.0,), (64.0,)))
