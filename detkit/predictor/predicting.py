"""Predicts: images of every kind, in batches, through a model."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detkit.data import Augmentation
from detkit.data.images import ImageReading
from detkit.predictor.running import batches, predictions_of, readable, with_names
from detkit.predictor.sources import Item, frames_of, live_sources, resolve, resolve_one
from detkit.structures import Prediction, Sample
from detkit.views import augmented
from detkit.visualization import ChannelOrder, Frame, ImageLike, image_files


class Predicts:
    """What a ``Predictor`` does with images; it says what the attributes are."""

    model: nn.Module
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...] | None
    augmentations: tuple[Augmentation, ...]
    batch_size: int
    reading: ImageReading
    channel_order: ChannelOrder
    _channels: int

    def __call__(
        self, images: Any, *, channel_order: ChannelOrder | None = None, max_value: float | None = None
    ) -> Any:
        """The ``Prediction`` of one image; a list of them for what is several.

        The arguments are those of ``stream``, which takes cameras and streams besides.

        Raises:
            ValueError: anything else, or an image of another type or shape; the message says what is expected.
            DataError: a file that cannot be read.
        """
        found = resolve(images, self.reading, channel_order or self.channel_order, max_value)
        if isinstance(found, Item):
            return next(self._predicted([found]))[1]
        return [prediction for _, prediction in self._predicted(found)]

    def stream(
        self,
        images: Any,
        *,
        channel_order: ChannelOrder | None = None,
        max_value: float | None = None,
        skip_unreadable: bool = False,
    ) -> Iterator[Prediction]:
        """The ``Prediction`` of each image in turn, with its file or frame, a batch at a time. Raises as the call does.

        Args:
            images: a file; an http(s) address, which is fetched once and kept; a folder (its own images, not those of
                folders in it); a pattern, ``photos/*.jpg``, or ``photos/**`` for a folder with all that are in it; an
                array, a tensor on any device, a PIL image; a video, frame by frame; a list or an iterator of these. Or
                a camera (0, ``"/dev/video0"``) or a stream (``rtsp://...``), or a list of such: of each the newest
                frame in turn, so that what is shown during a prediction is skipped.
            channel_order: of arrays and tensors: RGB, or BGR as OpenCV has them; None: as in the constructor.
            max_value: of images of more than 8 bits the value that becomes 255, such as 4095, or 1.0 for numbers from 0
                to 1; None: that of the images that the model was tested on, or else, of 16 bits, the largest.
            skip_unreadable: a file that cannot be read is left out, with a warning, instead of ending the prediction.
        """
        if live_sources(images):
            return (prediction for _, _, prediction in self.predict_video(images))
        found = resolve(images, self.reading, channel_order or self.channel_order, max_value)
        items = [found] if isinstance(found, Item) else found
        return (prediction for _, prediction in self._predicted(items, skip_unreadable=skip_unreadable))

    def predict_folder(
        self, folder: str | Path, *, recursive: bool = False, skip_unreadable: bool = False
    ) -> Iterator[tuple[Path, Prediction]]:
        """Path and prediction of every image file of a folder, and ``recursive`` of folders in it, by name.

        A file that cannot be read is a DataError, after the predictions of those before, or with ``skip_unreadable``
        is left out, with a warning. Raises DataError too where there is no such folder, or no image in it.
        """
        return self.predict_files(image_files(folder, recursive=recursive), skip_unreadable=skip_unreadable)

    def predict_files(
        self, files: Iterable[Path], *, skip_unreadable: bool = False
    ) -> Iterator[tuple[Path, Prediction]]:
        """Every one of these image files, in their order; otherwise as ``predict_folder``."""
        items = (Item(path, self.reading, file_name=str(path)) for path in files)
        for item, prediction in self._predicted(items, skip_unreadable=skip_unreadable):
            yield item.image, prediction  # type: ignore[misc]

    def predict_video(self, path: str | Path | int | Sequence[Any]) -> Iterator[tuple[int, Frame, Prediction]]:
        """Number (from 0), RGB array (H, W, 3) and prediction of each frame, in order; the array has a ``time``.

        ``path`` is a video, or a list of some, or cameras and streams as ``stream`` takes them. Raises DataError where
        it cannot be read; ImportError, which says how to install it, where PyAV is missing.
        """
        live = live_sources(path)
        size = min(self.batch_size, len(live)) if live else self.batch_size
        for item, prediction in self._predicted(frames_of(path, self.reading), batch_size=size):
            yield item.frame, item.image, prediction  # type: ignore[misc]

    def sample(self, image: ImageLike | Item) -> Sample:
        """One image as the model takes it, after the augmentations, without a target. Raises as the call does."""
        item = image if isinstance(image, Item) else resolve_one(image, self.reading, self.channel_order)
        return augmented(item.pixels(self._channels), item.file_name, self.augmentations)

    def _predicted(
        self, items: Iterable[Item], batch_size: int | None = None, *, skip_unreadable: bool | None = None
    ) -> Iterator[tuple[Item, Prediction]]:
        """Each image with its prediction, a batch at a time."""
        for batch in batches(readable(items, self.sample, skip_unreadable), batch_size or self.batch_size):
            samples = [sample for _, sample in batch]
            with torch.no_grad():
                predictions = predictions_of(self.model, samples)
            for (item, _), prediction in zip(batch, predictions):
                yield item, with_names(prediction.to("cpu"), item, self.class_names, self.category_ids)
