"""Two-stage detectors."""

from typing import Literal

import torch
from torch.nn import functional as F

from detkit.config import Recipe
from detkit.layers import ShapeSpec
from detkit.modeling.interfaces import META_ARCHS, Backbone, Features, MetaArch, Neck, ProposalGenerator, RoIHeads
from detkit.modeling.postprocess import to_original_size
from detkit.structures import ImageList, Instances, Losses, Sample


@META_ARCHS.register()
class GeneralizedRCNN(MetaArch):
    """Backbone, neck, proposals, RoI heads: Faster R-CNN, Mask R-CNN and their kin (Ren 2015, He 2017).

    Args:
        backbone: image to feature maps.
        neck: feature maps to feature maps; null for none.
        proposal_generator: feature maps to proposals.
        roi_heads: proposals to detections.
        pixel_mean: what is subtracted, a value a channel in the order of ``channel_order``, on the scale 0..255.
            The number of values is the number of channels.
        pixel_std: what is divided by.
        channel_order: the order in which the weights want the channels. Images come as RGB.
        mask_thresh: probability from which a pixel belongs to an object.

    Raises:
        ValueError: ``pixel_mean`` and ``pixel_std`` of different lengths, or BGR for other than three channels.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Recipe[Backbone],
        neck: Recipe[Neck] | None,
        proposal_generator: Recipe[ProposalGenerator],
        roi_heads: Recipe[RoIHeads],
        pixel_mean: tuple[float, ...] = (123.675, 116.28, 103.53),
        pixel_std: tuple[float, ...] = (58.395, 57.12, 57.375),
        channel_order: Literal["RGB", "BGR"] = "RGB",
        mask_thresh: float = 0.5,
    ):
        super().__init__(num_classes)
        if len(pixel_mean) != len(pixel_std) or (channel_order == "BGR" and len(pixel_mean) != 3):
            raise ValueError(
                f"model: {len(pixel_mean)} values of pixel_mean, {len(pixel_std)} of pixel_std, channel_order "
                f"{channel_order}; give a value a channel, and BGR only to images of three channels"
            )
        self.backbone = backbone(ShapeSpec(channels=len(pixel_mean)))
        shapes = self.backbone.output_shape
        self.neck = None if neck is None else neck(shapes)
        if self.neck is not None:
            shapes = self.neck.output_shape
        self.proposal_generator = proposal_generator(shapes)
        self.roi_heads = roi_heads(shapes, num_classes)
        self.channel_order, self.mask_thresh = channel_order, mask_thresh
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).reshape(-1, 1, 1), persistent=False)

    def loss(self, samples: list[Sample]) -> Losses:
        """See ``MetaArch.loss``.

        Raises:
            ValueError: a sample without a target.
        """
        images = self.preprocess(samples)
        targets = []
        for sample in samples:
            if sample.target is None:
                raise ValueError(f"training needs targets, and image {sample.image_id!r} {sample.file_name} has none")
            targets.append(sample.target.to(images.tensor.device, non_blocking=True))
        features = self.features(images)
        proposals, losses = self.proposal_generator.loss(images, features, targets)
        return losses | self.roi_heads.loss(features, proposals, targets)

    @torch.no_grad()
    def predict(self, samples: list[Sample]) -> list[Instances]:
        """See ``MetaArch.predict``."""
        images = self.preprocess(samples)
        features = self.features(images)
        proposals = self.proposal_generator.predict(images, features)
        instances = self.roi_heads.predict(features, proposals)
        return [to_original_size(i, s.original_size, self.mask_thresh) for i, s in zip(instances, samples)]

    def features(self, images: ImageList) -> Features:
        """The maps that proposals and regions are taken from."""
        features = self.backbone(images.tensor)
        return features if self.neck is None else self.neck(features)

    def preprocess(self, samples: list[Sample]) -> ImageList:
        """Moves images to the device, normalises and pads them there, channels-last.

        Raises:
            ValueError: an image of another number of channels than ``pixel_mean`` has values.
        """
        mean, std = self.get_buffer("pixel_mean"), self.get_buffer("pixel_std")
        multiple = self.backbone.size_divisibility if self.neck is not None else 1
        sizes = [(int(s.image.shape[-2]), int(s.image.shape[-1])) for s in samples]
        height = -(-max(h for h, _ in sizes) // multiple) * multiple
        width = -(-max(w for _, w in sizes) // multiple) * multiple
        rows = []
        for sample, (h, w) in zip(samples, sizes):
            if sample.image.shape[0] != len(mean):
                raise ValueError(
                    f"image {sample.image_id!r} {sample.file_name} has {sample.image.shape[0]} channels, the model "
                    f"expects {len(mean)} (model.pixel_mean has a value a channel)"
                )
            image = sample.image.to(mean.device, non_blocking=True)
            image = image.flip(0) if self.channel_order == "BGR" else image
            rows.append(F.pad((image.float() - mean) / std, (0, width - w, 0, height - h)))
        return ImageList(torch.stack(rows).contiguous(memory_format=torch.channels_last), sizes)
