"""Two-stage detectors."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from detkit.config import Recipe
from detkit.layers import ShapeSpec
from detkit.modeling.fillers import without_fillers
from detkit.modeling.interfaces import (
    META_ARCHS,
    Backbone,
    Features,
    InputResize,
    MaskPaster,
    MetaArch,
    Neck,
    ProposalGenerator,
    RoIHeads,
)
from detkit.modeling.mask_pasters import GridSampleMaskPaster
from detkit.modeling.postprocess import to_original_size
from detkit.structures import ImageList, Instances, Losses, Prediction, Sample


@META_ARCHS.register()
class GeneralizedRCNN(MetaArch):
    """Backbone, neck, proposals, RoI heads: Faster R-CNN, Mask R-CNN and their kin (Ren 2015, He 2017).

    Args:
        backbone: image to feature maps.
        neck: feature maps to feature maps; null for none.
        proposal_generator: feature maps to proposals.
        roi_heads: proposals to detections.
        pixel_mean: what is subtracted, a value a channel in the order of ``channel_order``, on the scale that
            ``pixel_scale`` leaves. The number of values is the number of channels.
        pixel_std: what is divided by.
        pixel_scale: what pixels, 0..255, are divided by before that; 255 for weights that were trained on 0..1.
        pixel_precision: what that is computed in; double where the reference did it in numpy (matterport), for the last
            bit (Apple's GPUs have no double). The network itself gets single precision.
        channel_order: the order in which the weights want the channels. Images come as RGB.
        resize: resizes normalised images, for models whose reference does that; null: images are taken as they come
            from the data's augmentations.
        mask_paster: from the mask head's small masks to masks of the image's size.
        mask_thresh: probability from which a pixel belongs to an object.
        channels_last: how images and weights lie in memory. True is faster with mixed precision on GPUs and in training
            on CPUs; false adds up in the order of the references, whose numbers then come out to the last bit.

    Raises:
        ValueError: ``pixel_mean`` and ``pixel_std`` of different lengths, a ``pixel_scale`` of 0 or less, or BGR for
            other than three channels.
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
        pixel_scale: float = 1.0,
        pixel_precision: Literal["single", "double"] = "single",
        channel_order: Literal["RGB", "BGR"] = "RGB",
        resize: Recipe[InputResize] | None = None,
        mask_paster: Recipe[MaskPaster] = Recipe(GridSampleMaskPaster),
        mask_thresh: float = 0.5,
        channels_last: bool = True,
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
        if not pixel_scale > 0:
            raise ValueError(f"model.pixel_scale: expected above 0, got {pixel_scale}")
        self.channel_order, self.pixel_scale, self.mask_thresh = channel_order, pixel_scale, mask_thresh
        self.resize = None if resize is None else resize()
        self.mask_paster = mask_paster()
        dtype = torch.float32 if pixel_precision == "single" else torch.float64
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values, dtype=dtype).reshape(-1, 1, 1), persistent=False)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    def loss(self, samples: list[Sample]) -> Losses:
        """See ``MetaArch.loss``.

        Raises:
            ValueError: a sample without a target.
        """
        images, targets = self._prepare(samples, training=True)
        features = self.features(images)
        proposals, losses = self.proposal_generator.loss(images, features, targets)
        if not self.roi_heads.takes_fillers:
            proposals = without_fillers(proposals)
        return losses | self.roi_heads.loss(features, proposals, targets)

    @torch.no_grad()
    def predict(self, samples: list[Sample]) -> list[Prediction]:
        """See ``MetaArch.predict``."""
        images = self.preprocess(samples)
        features = self.features(images)
        proposals = self.proposal_generator.predict(images, features)
        instances = self.roi_heads.predict(features, proposals)
        return [
            Prediction(to_original_size(i, s.original_size, self.mask_paster, self.mask_thresh))
            for i, s in zip(instances, samples)
        ]

    def features(self, images: ImageList) -> Features:
        """The maps that proposals and regions are taken from."""
        features = self.backbone(images.tensor)
        return features if self.neck is None else self.neck(features)

    def preprocess(self, samples: list[Sample]) -> ImageList:
        """Moves images to the device, normalises, resizes and pads them there, as for prediction.

        Raises:
            ValueError: an image of another number of channels than ``pixel_mean`` has values.
        """
        return self._prepare(samples, training=False)[0]

    def _prepare(self, samples: list[Sample], *, training: bool) -> tuple[ImageList, list[Instances]]:
        """The batch, and in training the targets: objects alone, with the crowds' boxes in their ``info``."""
        device = self.get_buffer("pixel_mean").device
        rows, sizes, infos, targets = [], [], [], []
        for sample in samples:
            image = self._normalise(sample)
            target = Instances((image.shape[-2], image.shape[-1]), info=sample.info)  # at prediction it has no fields
            if training:
                target = _objects(sample).to(device, non_blocking=True)
            if self.resize is not None:
                image, target = self.resize(image, target, training=training)
            rows.append(image)
            sizes.append((image.shape[-2], image.shape[-1]))
            infos.append(target.info)
            targets.append(target)
        batch = ImageList(self._pad(rows, sizes), sizes, infos)
        return batch, targets if training else []

    def _normalise(self, sample: Sample) -> Tensor:
        mean, std = self.get_buffer("pixel_mean"), self.get_buffer("pixel_std")
        if sample.image.shape[0] != len(mean):
            raise ValueError(
                f"image {sample.image_id!r} {sample.file_name} has {sample.image.shape[0]} channels, the model "
                f"expects {len(mean)} (model.pixel_mean has a value a channel)"
            )
        image = sample.image.to(mean.device, non_blocking=True)
        image = image.flip(0) if self.channel_order == "BGR" else image
        pixels = image.to(torch.promote_types(mean.dtype, torch.float32))
        if self.pixel_scale != 1:
            pixels = pixels / self.pixel_scale
        return ((pixels - mean) / std).float()

    def _pad(self, images: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        multiple = self.backbone.size_divisibility if self.neck is not None else 1
        height = -(-max(h for h, _ in sizes) // multiple) * multiple
        width = -(-max(w for _, w in sizes) // multiple) * multiple
        padded = [F.pad(image, (0, width - w, 0, height - h)) for image, (h, w) in zip(images, sizes)]
        return torch.stack(padded).contiguous(memory_format=self.memory_format)


def _objects(sample: Sample) -> Instances:
    """The target without its crowds, which are no objects; their boxes stand in its ``info``."""
    if sample.target is None:
        raise ValueError(f"training needs targets, and image {sample.image_id!r} {sample.file_name} has none")
    apart = sample.with_crowds_apart()
    assert apart.target is not None, "what has a target keeps it"
    return Instances(apart.target.image_size, info=apart.info, **apart.target.fields)
