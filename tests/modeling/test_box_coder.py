"""Box coder: against torchvision's, and there and back."""

from functools import partial

import pytest
import torch
from small import sample, small_model
from torch import nn
from torchvision.models.detection._utils import BoxCoder as TorchvisionBoxCoder

from detkit.modeling.box_coder import DeltaBoxCoder
from detkit.modeling.interfaces import BoxCoder
from detkit.modeling.proposals import RPN
from detkit.structures import Boxes, Instances


def boxes(n: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=g) * 300
    return torch.cat([corner, corner + 4 + torch.rand(n, 2, generator=g) * 200], dim=1)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_equals_torchvision(weights):
    ours, theirs = DeltaBoxCoder(weights=weights), TorchvisionBoxCoder(weights)
    a, b = boxes(50, 0), boxes(50, 1)
    torch.testing.assert_close(ours.encode(a, b), theirs.encode_single(b, a))
    deltas = torch.randn(50, 8) * 3
    torch.testing.assert_close(ours.decode(a, deltas), theirs.decode_single(deltas, a).reshape(50, -1))


def test_decode_undoes_encode():
    coder = DeltaBoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    a, b = boxes(200, 2), boxes(200, 3)
    torch.testing.assert_close(coder.decode(a, coder.encode(a, b)), b, atol=1e-3, rtol=0)


def test_clamp_bounds_the_size_and_can_be_removed():
    reference, deltas = torch.tensor([[0.0, 0.0, 16.0, 16.0]]), torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    assert DeltaBoxCoder().decode(reference, deltas)[0, 2] - 8 == pytest.approx(500, rel=1e-4)
    assert DeltaBoxCoder(max_log_scale=None).decode(reference, deltas)[0, 2] > 10_000


class CornerCoder(BoxCoder):
    """The shifts of the corners, in steps of eight pixels."""

    def encode(self, reference, boxes):
        return (torch.as_tensor(boxes) - torch.as_tensor(reference)) / 8

    def decode(self, reference, deltas):
        return (torch.as_tensor(reference)[:, None] + 8 * deltas.unflatten(1, (-1, 4))).flatten(1)


def test_a_coder_of_ones_own_works_in_rpn_and_box_head():
    torch.manual_seed(0)
    model = small_model(rpn=partial(RPN, box_coder=CornerCoder), box_coder=CornerCoder, score_thresh=0.0)
    losses = model([sample(), sample(seed=1)])
    losses.total().backward()
    assert all(torch.isfinite(term) for term in losses.terms.values())
    assert type(model.proposal_generator.box_coder) is type(model.roi_heads.box_head.box_coder) is CornerCoder
    nn.init.zeros_(model.roi_heads.box_head.bbox_pred.weight)
    nn.init.constant_(model.roi_heads.box_head.bbox_pred.bias, 0.5)
    target = sample().target
    features = model.eval().features(model.preprocess([sample()]))
    (found,) = model.roi_heads.box_head.predict(features, [Instances(target.image_size, boxes=target.boxes)])
    moved = Boxes(target.boxes + 4).clip(target.image_size).tensor
    assert all((moved == box).all(1).any() for box in found.boxes.tensor)
