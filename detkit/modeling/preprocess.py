"""Preprocessing: samples to a normalised and padded batch on the model's device, for every meta-architecture."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import Finite, Interval, Length, Positive, Recipe
from detkit.modeling.interfaces import Backbone, InputResize, Neck
from detkit.registry import Registry
from detkit.structures import ImageList, Instances, Sample


class Preprocess(nn.Module):
    """Normalises images, resizes them where the model's reference does, and pads them to a batch.

    Args:
        pixel_mean: what is subtracted, a value a channel in the order of ``channel_order``, on the scale that
            ``pixel_scale`` leaves. The number of values is the number of channels. Null, for both: those that the
            backbone's weights were trained with, where it knows them, with ``channel_order: RGB, pixel_scale: 1``.
        pixel_std: what is divided by.
        pixel_scale: what pixels, 0..255, are divided by before that; 255 for weights that were trained on 0..1.
        pixel_precision: what that is computed in; double where the reference did it in numpy (matterport), for the last
            bit (Apple's GPUs have no double). The network itself gets single precision.
        channel_order: the order in which the weights want the channels. Images come as RGB.
        resize: resizes normalised images, for models whose reference does that; null: images are taken as they come
            from the data's augmentations.
        size_divisibility: sides are padded to multiples of this; null: of what backbone and neck ask for. Detectron2
            pads for an FPN alone: 1 gives its numbers at the borders of images for a model without one.
        channels_last: the memory layout of images and weights. True is faster with mixed precision and in training
            on CPUs; false adds up in the order of the references, whose numbers then come out to the last bit.

    Raises:
        ValueError: ``pixel_mean`` and ``pixel_std`` of different lengths, a ``pixel_scale`` of 0 or less, BGR for
            other than three channels, or a divisibility below 1.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        pixel_mean: Annotated[tuple[Finite, ...], Length(1)] | None = (123.675, 116.28, 103.53),
        pixel_std: Annotated[tuple[Positive, ...], Length(1)] | None = (58.395, 57.12, 57.375),
        pixel_scale: Positive = 1.0,
        pixel_precision: Literal["single", "double"] = "single",
        channel_order: Literal["RGB", "BGR"] = "RGB",
        resize: Recipe[InputResize] | None = None,
        size_divisibility: Annotated[int, Interval(1, 4096)] | None = None,
        channels_last: bool = True,
    ):
        super().__init__()
        self._from_backbone = pixel_mean is None
        if pixel_mean is None or pixel_std is None:
            if (pixel_mean, pixel_std, pixel_scale, channel_order) != (None, None, 1, "RGB"):
                raise ValueError(
                    "preprocess.pixel_mean: null takes the backbone's own, with pixel_std: null, pixel_scale: 1 and "
                    f"channel_order: RGB; got {pixel_std}, {pixel_scale}, {channel_order}"
                )
            pixel_mean, pixel_std = (0.0,) * 3, (1.0,) * 3  # until the backbone is known
        if len(pixel_mean) != len(pixel_std) or (channel_order == "BGR" and len(pixel_mean) != 3):
            raise ValueError(
                f"preprocess: {len(pixel_mean)} values of pixel_mean, {len(pixel_std)} of pixel_std, channel_order "
                f"{channel_order}; give a value a channel, and BGR only to images of three channels"
            )
        if not pixel_scale > 0:
            raise ValueError(f"preprocess.pixel_scale: expected above 0, got {pixel_scale}")
        if size_divisibility is not None and size_divisibility < 1:
            raise ValueError(f"preprocess.size_divisibility: expected at least 1, got {size_divisibility}")
        dtype = torch.float32 if pixel_precision == "single" else torch.float64
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values, dtype=dtype).reshape(-1, 1, 1), persistent=False)
        self.pixel_scale, self.channel_order = pixel_scale, channel_order
        self.resize = None if resize is None else resize()
        self.channels_last = channels_last
        self._given_divisibility = size_divisibility
        self.size_divisibility, self.square_size = size_divisibility or 1, 0

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout of batches. It is no attribute, because torch.save could not pickle the model then."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def num_channels(self) -> int:
        """Channels of an image."""
        return len(self.pixel_mean)

    def adapt_to(self, backbone: Backbone, neck: Neck | None) -> None:
        """From now on pads images to the sizes that these parts of the model need, and normalises them as the
        backbone's weights want it where the config leaves that to it.

        Raises:
            ValueError: the config does, and the backbone has none.
        """
        if self._from_backbone:
            if backbone.pixel_statistics is None:
                raise ValueError(
                    "preprocess.pixel_mean: null takes the values that the backbone's weights were trained with, and "
                    f"{type(backbone).__name__} does not know them; give pixel_mean and pixel_std"
                )
            for buffer, values in zip((self.pixel_mean, self.pixel_std), backbone.pixel_statistics):
                buffer.copy_(torch.tensor(values, dtype=buffer.dtype).reshape(-1, 1, 1))
        parts = [part for part in (backbone, neck) if part is not None]
        if self._given_divisibility is None:
            self.size_divisibility = math.lcm(*(part.size_divisibility for part in parts))
        self.square_size = max(part.square_size or 0 for part in parts)

    def forward(self, samples: Sequence[Sample], *, training: bool = False) -> ImageList:
        """The batch alone: as for prediction, or as for training.

        Raises:
            ValueError: an image of another number of channels than ``pixel_mean`` has values, or one that is larger
                than the square that the model takes.
        """
        return self._batch([self._sized(sample, None, training) for sample in samples])

    def with_targets(self, samples: Sequence[Sample]) -> tuple[ImageList, list[Instances]]:
        """The batch as for training, and the targets in its pixels.

        Crowds are no objects: targets are without them, and their boxes stand in the ``info``.

        Raises:
            ValueError: a sample without a target; otherwise as the call.
        """
        sized = [self._sized(sample, self._target(sample), training=True) for sample in samples]
        return self._batch(sized), [target for _, target in sized]

    def pixels(self, image: Tensor) -> Tensor:
        """A normalised image ``(C, H, W)`` as it was before, uint8 RGB on the CPU; values are cut to 0..255."""
        values = (image.detach() * self.pixel_std + self.pixel_mean) * self.pixel_scale
        values = values.round().clamp(0, 255).to("cpu", torch.uint8)
        return values.flip(0) if self.channel_order == "BGR" else values

    def _target(self, sample: Sample) -> Instances:
        apart = sample.with_crowds_apart()
        if apart.target is None:
            raise ValueError(f"training needs targets, and image {sample.image_id!r} {sample.file_name} has none")
        target = Instances(apart.target.image_size, info=apart.info, **apart.target.fields)
        return target.to(self.pixel_mean.device, non_blocking=True)

    def _sized(self, sample: Sample, target: Instances | None, training: bool) -> tuple[Tensor, Instances]:
        """The image normalised and resized, and its target; where none is wanted one without fields."""
        image = self._normalised(sample)
        if target is None:
            target = Instances((image.shape[-2], image.shape[-1]), info=sample.info)
        return (image, target) if self.resize is None else self.resize(image, target, training=training)

    def _normalised(self, sample: Sample) -> Tensor:
        if sample.image.shape[0] != self.num_channels:
            raise ValueError(
                f"image {sample.image_id!r} {sample.file_name} has {sample.image.shape[0]} channels, the model "
                f"expects {self.num_channels} (model.preprocess.pixel_mean has a value a channel)"
            )
        image = sample.image.to(self.pixel_mean.device, non_blocking=True)
        image = image.flip(0) if self.channel_order == "BGR" else image
        values = image.to(torch.promote_types(self.pixel_mean.dtype, torch.float32))
        if self.pixel_scale != 1:
            values = values / self.pixel_scale
        return ((values - self.pixel_mean) / self.pixel_std).float()

    def _batch(self, sized: Sequence[tuple[Tensor, Instances]]) -> ImageList:
        sizes = [(image.shape[-2], image.shape[-1]) for image, _ in sized]
        height, width = (self._padded(max(sides)) for sides in zip(*sizes))
        padded = [F.pad(image, (0, width - w, 0, height - h)) for (image, _), (h, w) in zip(sized, sizes)]
        tensor = torch.stack(padded).contiguous(memory_format=self.memory_format)
        return ImageList(tensor, sizes, [target.info for _, target in sized])

    def _padded(self, side: int) -> int:
        if self.square_size and side > self.square_size:
            raise ValueError(
                f"an image has a side of {side} pixels, and the model takes squares of {self.square_size}; resize "
                f"images to at most {self.square_size} in data.train_augmentations and data.test_augmentations"
            )
        return -(-max(side, self.square_size) // self.size_divisibility) * self.size_divisibility


PREPROCESSES: Registry[Preprocess] = Registry("preprocessing", Preprocess)
PREPROCESSES.register(Preprocess)
