"""Anchors: against torchvision's, and analytically."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchvisionAnchors
from torchvision.models.detection.image_list import ImageList as TorchvisionImages

from detkit.layers import ShapeSpec
from detkit.modeling.anchors import GridAnchorGenerator


def test_equal_torchvision_up_to_its_rounding():
    sizes, ratios = ((32.0,), (64.0,)), (0.5, 1.0, 2.0)
    features = [torch.zeros(1, 4, 16, 24), torch.zeros(1, 4, 8, 12)]
    ours = GridAnchorGenerator([ShapeSpec(4, 8), ShapeSpec(4, 16)], sizes=sizes, aspect_ratios=ratios)
    theirs = TorchvisionAnchors(sizes, (ratios, ratios))
    images = TorchvisionImages(torch.zeros(1, 3, 128, 192), [(128, 192)])
    torch.testing.assert_close(torch.cat([a.tensor.round() for a in ours(features)]), theirs(images, features)[0])


def test_areas_ratios_and_centres():
    generator = GridAnchorGenerator([ShapeSpec(1, 4)], sizes=((16.0, 20.0),), aspect_ratios=(0.5, 1.0, 2.0), offset=0.5)
    assert generator.num_anchors == [6]
    a = generator([torch.zeros(1, 1, 2, 3)])[0].tensor.reshape(2, 3, 6, 4)
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
