"""Predictor: a trained model as a function from images to predictions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from detkit.data import Augmentation
from detkit.data.images import DEFAULT_READING, ImageReading
from detkit.evaluation import coco_results
from detkit.experiment import torch_device
from detkit.inference import AnyTiling, Precision, Views, as_tested, augmented, optimized
from detkit.predictor.loading import files_of_run, load_model
from detkit.predictor.running import batches, readable, with_names
from detkit.predictor.sources import Item, frames_of, live_sources, resolve, resolve_one
from detkit.structures import Prediction, Sample
from detkit.utils.file_names import FreeNames
from detkit.visualization import (
    MAX_SIDE,
    ChannelOrder,
    Frame,
    ImageLike,
    draw_prediction,
    image_files,
    write_picture,
)


class Predictor:
    """Predicts what is on images, in the pixels of these images, on the CPU.

    ``predictor(image)`` gives a ``Prediction``, whose ``instances`` have ``boxes``, ``scores``, ``classes`` and, from a
    model with masks, ``masks``, best first, and know the names of their classes (``PredictedInstances``);
    ``predictor([image, ...])`` gives a list of them. ``stream`` gives them one by one, and says what is taken.
    ``class_names[c]`` is the name of class c; ``config`` is what the model was built from, where that is known.

    Args:
        model: a meta-architecture with its weights; it is moved to ``device`` and set to evaluation mode.
        class_names: the K names; None takes those that the model carries.
        augmentations: those of the images that the model was tested on, such as a resize.
        device: ``"auto"`` is a GPU where there is one.
        batch_size: images a forward pass.
        precision: ``"fp32"`` or ``"bf16"`` take a faster copy (see ``detkit.inference``), None the model itself.
        compile: whether the copy's static parts go through ``torch.compile``; without ``precision`` in fp32.
        reading: how image files are read: as those that the model was tested on.
        channel_order: of arrays and tensors, where a call does not say: ``"BGR"`` for OpenCV's.
        tile: the size of overlapping tiles in pixels, or a ``Tiling``; see ``TiledModel``. None: images as a whole.
        views: merges what several views of an image show (see ``ViewsModel``). None: one view.

    Raises:
        ValueError: a batch size below 1, an unknown precision or order, a tile without pixels.
        ConfigError: a device that is not there.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        class_names: Sequence[str] | None = None,
        augmentations: Sequence[Augmentation] = (),
        device: str | torch.device = "auto",
        batch_size: int = 4,
        precision: Precision | None = None,
        compile: bool = False,
        reading: ImageReading = DEFAULT_READING,
        channel_order: ChannelOrder = "RGB",
        tile: AnyTiling | None = None,
        views: Views | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if channel_order not in ("RGB", "BGR"):
            raise ValueError(f"channel_order: expected 'RGB' or 'BGR', got {channel_order!r}")
        names = getattr(model, "class_names", None) if class_names is None else class_names
        self.model = model.to(torch_device(device)).eval()
        if precision is not None or compile:
            self.model = optimized(self.model, precision or "fp32", compile)
        self._channels = getattr(getattr(model, "preprocess", None), "num_channels", 3)
        if tile is not None or views is not None:
            self.model = as_tested(self.model, views, tile, augmentations, batch_size).eval()
            augmentations, batch_size = (), 1  # of images, each of which has many tiles or views
        self.class_names: tuple[str, ...] = tuple(names or ())
        self.semantic_names: tuple[str, ...] = getattr(model, "semantic_names", ())
        self.config: Mapping[str, Any] | None = None
        self.category_ids: tuple[int, ...] | None = getattr(model, "category_ids", None)
        self.augmentations, self.batch_size, self.reading = tuple(augmentations), batch_size, reading
        self.channel_order: ChannelOrder = channel_order

    def __repr__(self) -> str:
        device = next((p.device for p in self.model.parameters()), "cpu")
        return f"Predictor({type(self.model).__name__} on {device}, {len(self.class_names)} classes)"

    @classmethod
    def from_run(
        cls,
        run_dir: str | Path,
        weights: str | Path = "model_final.pth",
        overrides: Sequence[str] = (),
        *,
        device: str | torch.device = "auto",
        batch_size: int = 4,
        precision: Precision | None = None,
        compile: bool = False,
        channel_order: ChannelOrder = "RGB",
        tile: AnyTiling | None = None,
        views: Views | None = None,
        trust_imports: bool = False,
    ) -> "Predictor":
        """The model of a training run.

        Args:
            run_dir: the run's folder, with its ``config.yaml``.
            weights: a file in it, a path or an address; the newest checkpoint where there is no ``model_final.pth``.
            overrides, trust_imports, ...: as for ``from_weights``.

        Raises:
            DataError: there is no such run, or it has no weights.
        """
        path, config = files_of_run(run_dir, weights)
        options: Any = {"device": device, "batch_size": batch_size, "precision": precision, "compile": compile}
        options |= {"channel_order": channel_order, "tile": tile, "views": views, "trust_imports": trust_imports}
        return cls.from_weights(path, overrides, config=config, **options)

    @classmethod
    def from_weights(
        cls,
        weights: str | Path,
        overrides: Sequence[str] = (),
        *,
        config: str | Path | None = None,
        device: str | torch.device = "auto",
        batch_size: int = 4,
        precision: Precision | None = None,
        compile: bool = False,
        channel_order: ChannelOrder = "RGB",
        tile: AnyTiling | None = None,
        views: Views | None = None,
        trust_imports: bool = False,
    ) -> "Predictor":
        """The model of a checkpoint; its classes are the checkpoint's, or else those of the training dataset.

        Args:
            weights: the file, its address, or a name such as ``torchvision://MaskRCNN_ResNet50_FPN_Weights.COCO_V1``.
            overrides: ``key.path=value`` changes, e.g. ``model.roi_heads.box_head.detection.score_thresh=0.3``.
            config: a YAML; None takes the config that detkit's checkpoints carry, or that a name belongs to.
            device, ..., tile, views: as in the constructor; None: the config's ``data.test_tiles`` and ``test_views``.
            trust_imports: whether the code that the config lists under ``imports`` may run.

        Raises:
            DataError: the weights cannot be read, or there is no config.
            ConfigError: the config is not right.
        """
        model, experiment = load_model(weights, overrides, config, trust_imports)
        data, options = experiment.data, {"device": device, "batch_size": batch_size, "precision": precision}
        more: Any = {"compile": compile, "channel_order": channel_order, "reading": data.reading, **options}
        more |= {"tile": tile or data.test_tiles, "views": views or data.test_views}
        predictor = cls(model, augmentations=[recipe() for recipe in data.test_augmentations], **more)
        predictor.config = experiment.tree
        return predictor

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

    def draw(
        self,
        image: ImageLike,
        prediction: Prediction,
        *,
        score_thresh: float = 0.5,
        show_best: int = 3,
        max_side: int | None = MAX_SIDE,
    ) -> np.ndarray:
        """The image with its prediction as ``(H', W', 3)`` uint8; the options are those of ``draw_prediction``."""
        options: Any = {"score_thresh": score_thresh, "show_best": show_best, "max_side": max_side}
        order = self.channel_order if prediction.frame is None else "RGB"  # frames are read here
        pixels = resolve_one(image, self.reading, order).pixels()
        return draw_prediction(pixels, prediction, self.class_names, semantic_names=self.semantic_names, **options)

    def write_pictures(
        self,
        images: Sequence[ImageLike],
        predictions: Sequence[Prediction],
        folder: str | Path,
        *,
        score_thresh: float = 0.5,
    ) -> list[Path]:
        """Draws each image with its prediction into ``folder``; returns the files.

        They are named after the images' files, or else by number, no two alike and none as one of the images.
        """
        written, there = list[Path](), Path(folder).resolve()
        files = [Path(image).resolve() for image in images if isinstance(image, str | Path)]
        free = FreeNames(Path(folder) / file.name for file in files if file.parent == there)
        for number, (image, prediction) in enumerate(zip(images, predictions, strict=True)):
            stem = Path(image).stem if isinstance(image, str | Path) else f"{number:06d}"
            picture = self.draw(image, prediction, score_thresh=score_thresh)
            written.append(write_picture(picture, free(Path(folder) / f"{stem}.png")))
        return written

    def to_coco_results(
        self, predictions: Sequence[Prediction], image_ids: Sequence[int | str] | None = None
    ) -> list[dict[str, Any]]:
        """The predictions' instances as COCO results, ready for JSON.

        ``category_id`` is the training data's; class index + 1 where the model does not carry it.

        Args:
            predictions: one for each image.
            image_ids: what stands in ``image_id``; None numbers the images from 1.
        """
        ids = range(1, len(predictions) + 1) if image_ids is None else image_ids
        found = [(p.instances, id_) for p, id_ in zip(predictions, ids, strict=True) if p.instances is not None]
        return [row for instances, id_ in found for row in coco_results(id_, instances, self.category_ids)]

    def sample(self, image: ImageLike | Item) -> Sample:
        """One image as the model takes it, after the augmentations, without a target. Raises as the call does."""
        item = image if isinstance(image, Item) else resolve_one(image, self.reading, self.channel_order)
        return augmented(item.pixels(self._channels), item.file_name, self.augmentations)

    def _predicted(
        self, items: Iterable[Item], batch_size: int | None = None, *, skip_unreadable: bool | None = None
    ) -> Iterator[tuple[Item, Prediction]]:
        """Each image with its prediction, a batch at a time."""
        for batch in batches(readable(items, self.sample, skip_unreadable), batch_size or self.batch_size):
            with torch.no_grad():
                predictions = self.model([sample for _, sample in batch])
            for (item, _), prediction in zip(batch, predictions):
                yield item, with_names(prediction.to("cpu"), item, self.class_names, self.category_ids)
