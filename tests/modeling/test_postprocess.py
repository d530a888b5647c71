"""From the network's pixels to the original image's: every field that can, goes along."""

import dataclasses

import pytest
import torch

from detkit.modeling.mask_pasters import GridSampleMaskPaster
from detkit.modeling.postprocess import to_original_size
from detkit.structures import BitMasks, Boxes, ImageInfo, Instances


@dataclasses.dataclass
class Corners:
    """A field of a user's own: a point a row, which follows the image."""

    points: torch.Tensor

    def __len__(self):
        return len(self.points)

    def __getitem__(self, item):
        return Corners(self.points[item])

    def transform(self, transform):
        return Corners(transform.coords(self.points))


def original(instances, size):
    return to_original_size(instances, size, GridSampleMaskPaster())


def test_boxes_that_vanish_are_dropped_and_masks_are_pasted():
    detections = Instances(
        (100, 100),
        boxes=Boxes([[10.0, 10, 50, 50], [100.0, 20, 120, 30]]),
        scores=torch.tensor([0.9, 0.8]),
        classes=torch.tensor([0, 1]),
        mask_probs=torch.ones(2, 28, 28),
    )
    out = original(detections, (50, 200))
    assert out.boxes.tolist() == [[20, 5, 100, 25]]
    assert out.masks.bitmaps().tensor.sum() == 80 * 20
    assert "mask_probs" not in out
    assert out.image_size == (50, 200)


def test_the_valid_region_of_a_padded_image_is_the_original_image():
    """An image of 40 x 60 in the middle of one of 64 x 64, and boxes that reach over it."""
    info = ImageInfo(valid_region=(2, 12, 62, 52))
    boxes = Boxes([[2.0, 12, 62, 52], [32, 32, 64, 60], [0, 0, 60, 12]])
    out = original(Instances((64, 64), info=info, boxes=boxes, scores=torch.ones(3)), (20, 30))
    assert out.boxes.tolist() == [[0, 0, 30, 20], [15, 10, 30, 20]]
    assert out.valid_region == (0, 0, 30, 20)


@pytest.mark.parametrize("size", [(33, 127), (640, 427)])
def test_boxes_are_moved_scaled_and_clipped_to_the_last_bit(size):
    region, corners = (3, 5, 97, 61), torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * 60
    boxes = torch.cat([corners, corners + 45], 1)
    info = ImageInfo(valid_region=region)
    out = original(Instances((64, 128), info=info, boxes=Boxes(boxes), row=torch.arange(200)), size)
    scale = torch.tensor([size[1] / (region[2] - region[0]), size[0] / (region[3] - region[1])]).repeat(2)
    wanted = Boxes((boxes - torch.tensor([3.0, 5, 3, 5])) * scale).clip(size)
    assert torch.equal(out.boxes.tensor, wanted.tensor[out.row])


def test_keypoints_come_back_in_the_original_image():
    detections = Instances((100, 100), boxes=Boxes([[10, 10, 50, 50]]), keypoints=torch.tensor([[[40.0, 20.0, 0.9]]]))
    assert torch.as_tensor(original(detections, (200, 200)).keypoints.tolist())[0, 0].tolist() == pytest.approx(
        [80, 40, 0.9]
    )


def test_a_field_of_ones_own_comes_back_at_the_original_size():
    info = ImageInfo(valid_region=(10, 0, 90, 100))
    boxes = Boxes([[0, 0, 10, 10], [10, 10, 50, 50]])  # the first is on padding
    detections = Instances((100, 100), info=info, boxes=boxes, corners=Corners(torch.tensor([[0.0, 0], [50, 30]])))
    out = original(detections, (200, 40))
    assert out.corners.points.tolist() == [[20, 60]]


def test_masks_that_a_head_gives_itself_go_along():
    masks = torch.zeros(1, 10, 10, dtype=torch.bool)
    masks[0, 2:5, 4:8] = True
    detections = Instances((10, 10), boxes=Boxes([[4, 2, 8, 5]]), masks=BitMasks(masks))
    out = original(detections, (20, 20))
    assert out.masks.bitmaps().tensor.sum() == 4 * masks.sum()
