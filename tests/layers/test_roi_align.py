"""RoIAlign as sums of rows: the same as torchvision's operator, forward and backward."""

import pytest
import torch
from torchvision.ops import roi_align as torchvision_roi_align

from detkit.layers.roi_align import roi_align, roi_align_channels_last


def rois(n: int) -> torch.Tensor:
    """Boxes inside, across and outside the border, tiny and huge, sorted by image."""
    corner = torch.rand(n, 2) * 140 - 20
    boxes = torch.cat([corner, corner + torch.rand(n, 2) ** 3 * 150], dim=1)
    boxes[0] = torch.tensor([300.0, 300.0, 310.0, 310.0])
    boxes[1, 2:] = boxes[1, :2]
    return torch.cat([torch.arange(3.0).repeat_interleave(n // 3)[:, None], boxes], dim=1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("output_size", [7, 14])
def test_equals_torchvision(sampling_ratio, output_size, aligned):
    ours = torch.randn(3, 5, 29, 37).to(memory_format=torch.channels_last).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    boxes = rois(60)
    a = roi_align_channels_last(ours, boxes, output_size, 0.25, sampling_ratio, aligned)
    b = torchvision_roi_align(theirs, boxes, output_size, 0.25, sampling_ratio, aligned=aligned)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    grad = torch.randn_like(a)
    a.backward(grad)
    b.backward(grad)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_every_layout_gives_the_operators_values(layout):
    features, boxes = torch.randn(3, 5, 29, 37).contiguous(memory_format=layout), rois(30)
    expected = torchvision_roi_align(features, boxes, 7, 0.25, 2, aligned=True)
    torch.testing.assert_close(roi_align(features, boxes, 7, 0.25, 2), expected, atol=1e-5, rtol=1e-4)


def test_unaligned_is_half_a_feature_pixel_off():
    features, boxes = torch.randn(3, 2, 20, 20), rois(30)
    boxes[:, 3:] = boxes[:, 1:3] + 8 + boxes[:, 3:].abs() / 10  # at least a feature pixel, so nothing is widened
    moved = boxes + torch.tensor([0.0, 2, 2, 2, 2])
    torch.testing.assert_close(roi_align(features, moved, 7, 0.25), roi_align(features, boxes, 7, 0.25, 0, False))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_maps_of_one_row_or_column(size):
    features, boxes = torch.randn(3, 4, *size).to(memory_format=torch.channels_last), rois(30)
    expected = torchvision_roi_align(features, boxes, 7, 0.25, 0, aligned=True)
    torch.testing.assert_close(roi_align_channels_last(features, boxes, 7, 0.25, 0), expected, atol=1e-5, rtol=1e-4)


def test_bfloat16_maps_are_sampled_where_the_boxes_are_in_float32():
    features, boxes = torch.randn(3, 8, 60, 90).to(memory_format=torch.channels_last), rois(60)
    expected = torchvision_roi_align(features, boxes, 7, 0.25, 2, aligned=True)
    for layout in (torch.channels_last, torch.contiguous_format):
        found = roi_align(features.bfloat16().contiguous(memory_format=layout), boxes, 7, 0.25, 2)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.03)


def test_gradients_in_bfloat16_are_those_of_float32():
    features, boxes = torch.randn(3, 8, 60, 90).to(memory_format=torch.channels_last), rois(60)
    exact, rough = features.clone().requires_grad_(), features.bfloat16().requires_grad_()
    expected = roi_align_channels_last(exact, boxes, 7, 0.25, 2)
    grad = torch.randn_like(expected)
    expected.backward(grad)
    roi_align_channels_last(rough, boxes, 7, 0.25, 2).backward(grad.bfloat16())
    assert (rough.grad.float() - exact.grad).norm() < 0.02 * exact.grad.norm()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_no_boxes_keep_the_graph(layout):
    features = torch.randn(2, 4, 8, 8).contiguous(memory_format=layout).requires_grad_()
    out = roi_align(features, torch.zeros(0, 5), 7, 0.25)
    assert out.shape == (0, 4, 7, 7)
    out.sum().backward()
    assert features.grad.abs().sum() == 0
