"""The mask head's loss where images differ in what they bring."""

from functools import partial

import pytest
import torch

from detkit.layers import ShapeSpec
from detkit.modeling.poolers import RoIAlignPooler
from detkit.modeling.roi_heads import ConvUpsampleMaskHead
from detkit.structures import BitMasks, Boxes, Instances


def regions(num, masks=True):
    boxes = Boxes(torch.tensor([[2.0, 2, 30, 30]]).repeat(num, 1))
    found = Instances((32, 32), boxes=boxes, classes=torch.zeros(num, dtype=torch.int64), gt_boxes=boxes)
    return found.with_fields(gt_masks=BitMasks(torch.ones(num, 32, 32))) if masks else found


@pytest.fixture
def loss():
    pooler = partial(RoIAlignPooler, output_size=4)
    head = ConvUpsampleMaskHead({"p2": ShapeSpec(channels=8, stride=4)}, 2, pooler=pooler, num_conv=1, conv_dim=8)
    return lambda *images: head.loss({"p2": torch.rand(len(images), 8, 8, 8)}, list(images)).terms["loss_mask"]


def test_images_without_masks_are_said_wherever_they_stand_in_the_batch(loss):
    for images in ([regions(2), regions(1, masks=False)], [regions(1, masks=False), regions(2)]):
        with pytest.raises(
            ValueError, match=r"1 of 2 images .* have no masks; train on data with masks .*mask_head=null"
        ):
            loss(*images)


def test_images_without_foreground_need_no_masks(loss):
    assert loss(regions(2), regions(0, masks=False)) > 0
    assert loss(regions(0, masks=False)) == 0


def test_the_loss_weight_is_a_factor():
    features, losses = {"p2": torch.rand(1, 8, 8, 8)}, []
    for weight in (1.0, 0.25):
        torch.manual_seed(0)
        pooler = partial(RoIAlignPooler, output_size=4)
        shapes = {"p2": ShapeSpec(channels=8, stride=4)}
        head = ConvUpsampleMaskHead(shapes, 2, pooler=pooler, num_conv=1, conv_dim=8, loss_weight=weight)
        losses.append(head.loss(features, [regions(2)]).terms["loss_mask"])
    assert losses[1] == 0.25 * losses[0]
