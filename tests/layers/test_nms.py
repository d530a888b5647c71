"""NMS by group: against torchvision's batched_nms."""

import torch
from torchvision.ops import batched_nms, nms

from detkit.layers import nms_by_group


def test_equals_torchvision():
    corner = torch.rand(300, 2) * 100 - 20
    boxes = torch.cat([corner, corner + 5 + torch.rand(300, 2) * 50], dim=1)
    scores, groups = torch.rand(300), torch.randint(0, 5, (300,))
    for thresh in (0.3, 0.5, 0.7):
        kept = nms_by_group(boxes, scores, groups, thresh)
        assert torch.equal(kept, batched_nms(boxes, scores, groups, thresh))
        assert 0 < len(kept) < 300
        together = nms_by_group(boxes, scores, None, thresh)
        assert torch.equal(together, nms(boxes, scores, thresh))
        assert len(together) < len(kept)


def test_no_boxes():
    assert nms_by_group(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), 0.5).shape == (0,)
