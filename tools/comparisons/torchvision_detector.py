"""torchvision's Mask R-CNN and Faster R-CNN classes as a model of detkit, so that one trainer compares both."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, faster_rcnn, mask_rcnn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from detkit.config import Count, Fraction, Recipe
from detkit.layers import ShapeSpec
from detkit.modeling.interfaces import META_ARCHS, Backbone, MetaArch, Neck
from detkit.modeling.mask_pasters import ExpandedBoxMaskPaster
from detkit.modeling.postprocess import to_original_size
from detkit.structures import Boxes, Instances, Losses, Prediction, Sample

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Pyramid(nn.Module):
    """detkit's backbone and neck, as torchvision's classes take one."""

    def __init__(self, backbone: Recipe[Backbone], neck: Recipe[Neck]):
        super().__init__()
        self.backbone = backbone(ShapeSpec(channels=3))
        self.neck = neck(self.backbone.output_shape)
        self.out_channels = next(iter(self.neck.output_shape.values())).channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """``(N, 3, H, W)`` normalised -> the neck's maps."""
        return OrderedDict(self.neck(self.backbone(images)))


@META_ARCHS.register()
class TorchvisionDetector(MetaArch):
    """``torchvision.models.detection.MaskRCNN`` or ``FasterRCNN``; what no option says is as these have it.

    Args:
        backbone, neck: detkit's, with their weights.
        anchor_sizes: one a level, in pixels.
        rpn_samples, box_samples: anchors and proposals an image that losses are taken of.
        positive_fraction: the share of foreground among the latter.
        pre_nms_train, pre_nms_test, post_nms_train, post_nms_test: proposals before and after suppression.
        fc_dim: width of the box head.
        mask_convs: channels of the mask head's convolutions; null for no mask head.
        max_detections: an image.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Recipe[Backbone],
        neck: Recipe[Neck],
        anchor_sizes: tuple[Count, ...],
        rpn_samples: Count = 256,
        box_samples: Count = 512,
        positive_fraction: Fraction = 0.25,
        pre_nms_train: Count = 2000,
        pre_nms_test: Count = 1000,
        post_nms_train: Count = 2000,
        post_nms_test: Count = 1000,
        fc_dim: Count = 1024,
        mask_convs: tuple[Count, ...] | None = (256, 256, 256, 256),
        max_detections: Count = 100,
    ):
        super().__init__(num_classes)
        pyramid = _Pyramid(backbone, neck)
        width, maps = pyramid.out_channels, list(pyramid.neck.output_shape)[:-1]
        options = {
            "rpn_anchor_generator": AnchorGenerator(
                tuple((size,) for size in anchor_sizes), ((0.5, 1.0, 2.0),) * len(anchor_sizes)
            ),
            "rpn_batch_size_per_image": rpn_samples,
            "rpn_pre_nms_top_n_train": pre_nms_train,
            "rpn_pre_nms_top_n_test": pre_nms_test,
            "rpn_post_nms_top_n_train": post_nms_train,
            "rpn_post_nms_top_n_test": post_nms_test,
            "box_roi_pool": MultiScaleRoIAlign(maps, 7, 2),
            "box_head": faster_rcnn.TwoMLPHead(width * 49, fc_dim),
            "box_predictor": faster_rcnn.FastRCNNPredictor(fc_dim, num_classes + 1),
            "box_batch_size_per_image": box_samples,
            "box_positive_fraction": positive_fraction,
            "box_detections_per_img": max_detections,
        }
        if mask_convs is None:
            self.detector: nn.Module = FasterRCNN(pyramid, **options)
        else:
            self.detector = MaskRCNN(
                pyramid,
                mask_roi_pool=MultiScaleRoIAlign(maps, 14, 2),
                mask_head=mask_rcnn.MaskRCNNHeads(width, mask_convs, 1),
                mask_predictor=mask_rcnn.MaskRCNNPredictor(mask_convs[-1], mask_convs[-1], num_classes + 1),
                **options,
            )
        self.detector.transform = _Normalised()

    def loss(self, samples: list[Sample]) -> Losses:
        """See ``MetaArch.loss``."""
        samples = [sample.with_crowds_apart() for sample in samples]
        return Losses(self.detector([s.image.float() / 255 for s in samples], [_target(s) for s in samples]))

    @torch.no_grad()
    def predict(self, samples: list[Sample]) -> list[Prediction]:
        """See ``MetaArch.predict``."""
        found = self.detector([s.image.float() / 255 for s in samples])
        return [_prediction(result, sample) for result, sample in zip(found, samples)]


class _Normalised(GeneralizedRCNNTransform):
    """torchvision's normalisation and padding alone: augmentations have resized, and masks are pasted later."""

    def __init__(self) -> None:
        super().__init__(0, 0, MEAN, STD)

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """As they are."""
        return image, target

    def postprocess(self, result: list[dict[str, Tensor]], *_: object) -> list[dict[str, Tensor]]:
        """As they are."""
        return result


def _target(sample: Sample) -> dict[str, Tensor]:
    target = sample.target
    assert target is not None
    made = {"boxes": target.boxes.tensor.clone(), "labels": target.classes + 1}
    return {**made, "masks": target.masks.bitmaps().tensor.to(torch.uint8)} if "masks" in target else made


def _prediction(result: dict[str, Tensor], sample: Sample) -> Prediction:
    fields: dict[str, Any] = {
        "boxes": Boxes(result["boxes"]),
        "scores": result["scores"],
        "classes": result["labels"] - 1,
    }
    if "masks" in result:
        fields["mask_probs"] = result["masks"][:, 0]
    size = (sample.image.shape[1], sample.image.shape[2])
    return Prediction(to_original_size(Instances(size, **fields), sample.original_size, ExpandedBoxMaskPaster()))
