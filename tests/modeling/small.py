"""A Mask R-CNN that is small enough for tests, put together without any config."""

from functools import partial

import torch

from detkit.modeling.anchors import GridAnchorGenerator
from detkit.modeling.backbones import ResNet
from detkit.modeling.meta_archs import GeneralizedRCNN
from detkit.modeling.necks import FPN
from detkit.modeling.poolers import RoIAlignPooler
from detkit.modeling.proposals import RPN, ConvRPNHead
from detkit.modeling.roi_heads import ConvUpsampleMaskHead, Detection, FastRCNNConvFCHead, StandardRoIHeads
from detkit.structures import BitMasks, Boxes, Instances, Sample

RESNET = partial(ResNet, depth=18, width=16, norm="BN", freeze_at=0)
LIMITS = ("score_thresh", "nms_thresh", "max_detections")


def small_model(
    num_classes: int = 3,
    mask: bool = True,
    rpn=RPN,
    heads=StandardRoIHeads,
    head=FastRCNNConvFCHead,
    backbone=RESNET,
    neck=FPN,
    **options,
) -> GeneralizedRCNN:
    """A ResNet-18 of width 16, or another backbone, with all parts of Mask R-CNN.

    ``options`` are those of the box head and of its detections.
    """
    detection = Detection(**{name: options.pop(name) for name in LIMITS if name in options})
    rpn = partial(
        rpn,
        head=ConvRPNHead,
        anchor_generator=partial(GridAnchorGenerator, sizes=((8.0,), (16.0,), (32.0,), (64.0,), (128.0,))),
    )
    width = {"fc_dims": (32,)} if issubclass(head, FastRCNNConvFCHead) else {"conv_dim": 32}
    heads = partial(
        heads,
        in_features=("p2", "p3", "p4", "p5"),
        box_head=partial(head, pooler=partial(RoIAlignPooler, output_size=7), detection=detection, **width, **options),
        mask_head=partial(ConvUpsampleMaskHead, pooler=partial(RoIAlignPooler, output_size=14), num_conv=1, conv_dim=16)
        if mask
        else None,
    )
    return GeneralizedRCNN(
        num_classes,
        backbone=backbone,
        neck=partial(neck, out_channels=16),
        proposal_generator=rpn,
        roi_heads=heads,
    )


def sample(height: int = 64, width: int = 96, num: int = 3, seed: int = 0, num_classes: int = 3) -> Sample:
    """Noise with ``num`` rectangles as objects."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(num, 2, generator=g) * torch.tensor([width * 0.6, height * 0.6])
    size = 8 + torch.rand(num, 2, generator=g) * torch.tensor([width * 0.3, height * 0.3])
    boxes = torch.cat([corner, corner + size], dim=1).round().reshape(-1, 4)
    masks = torch.zeros(num, height, width, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = True
    classes = torch.randint(0, num_classes, (num,), generator=g)
    target = Instances((height, width), boxes=Boxes(boxes), classes=classes, masks=BitMasks(masks))
    image = torch.randint(0, 256, (3, height, width), generator=g, dtype=torch.uint8)
    return Sample(image=image, original_size=(height, width), image_id=seed, target=target)
