"""Predictor: a trained model as a function from images to predictions."""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from detkit.checkpoint import Checkpointer, load_all_weights, read_checkpoint
from detkit.data import Augmentation, bare_record, to_sample
from detkit.data.images import DEFAULT_READING, ImageReading
from detkit.evaluation import coco_results
from detkit.experiment import load_experiment, torch_device
from detkit.inference import Precision, optimized
from detkit.registry import DataError
from detkit.structures import Prediction, Sample
from detkit.utils.file_names import FreeNames
from detkit.utils.run_folder import run_file
from detkit.visualization import (
    MAX_SIDE,
    Frame,
    ImageLike,
    draw_prediction,
    image_files,
    to_array,
    video_frames,
    write_picture,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Predictor:
    """Predicts what is on images, in the pixels of these images, on the CPU.

    ``predictor(image)`` gives a ``Prediction``, whose ``instances`` have ``boxes``, ``scores``, ``classes`` and, from a
    model with masks, ``masks``, best first; ``predictor([image, ...])`` gives a list of them. ``class_names[c]`` is the
    name of class c.

    Args:
        model: a meta-architecture with its weights; it is moved to ``device`` and set to evaluation mode.
        class_names: the K names; None takes those that the model carries.
        augmentations: those of the images that the model was tested on, such as a resize.
        device: ``"auto"`` is a GPU where there is one.
        batch_size: images a forward pass.
        precision: ``"fp32"`` or ``"bf16"`` take a faster copy (see ``detkit.inference``), None the model itself.
        compile: whether the copy's static parts go through ``torch.compile``; without ``precision`` in fp32.
        reading: how image files are read: as those that the model was tested on.

    Raises:
        ValueError: a batch size below 1, or an unknown precision.
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
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        names = getattr(model, "class_names", None) if class_names is None else class_names
        self.model = model.to(torch_device(device)).eval()
        if precision is not None or compile:
            self.model = optimized(self.model, precision or "fp32", compile)
        self.class_names: tuple[str, ...] = tuple(names or ())
        self.category_ids: tuple[int, ...] | None = getattr(model, "category_ids", None)
        self.augmentations, self.batch_size, self.reading = tuple(augmentations), batch_size, reading
        self._channels = getattr(getattr(model, "preprocess", None), "num_channels", 3)

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
        trust_imports: bool = False,
    ) -> "Predictor":
        """The model of a training run.

        Args:
            run_dir: the run's folder, with its ``config.yaml``.
            weights: a file in it, or a path. Where ``model_final.pth`` is missing, because the run goes on still
                or was stopped, the newest checkpoint is taken, and the log says so.
            overrides: ``key.path=value`` changes, e.g. ``model.roi_heads.box_head.detection.score_thresh=0.3``.
            device, batch_size, precision, compile: as in the constructor.
            trust_imports: whether the code that the config lists under ``imports`` may run.

        Raises:
            DataError: there is no such run, or it has no weights.
            ConfigError: its config is not right.
        """
        run = Path(run_dir).expanduser()
        config = run_file(run, "config.yaml")
        if not config.is_file():
            raise DataError(f"{run}: is not the folder of a run, which has a config.yaml; or give config and weights")
        path = next((p for p in (run / weights, Path(weights)) if p.is_file()), None)
        if path is None and str(weights) == "model_final.pth":
            path = Checkpointer(run).latest()
            if path is not None:
                logger.warning("%s has no %s; taking its newest checkpoint, %s", run, weights, path.name)
        if path is None:
            found = ", ".join(sorted(p.name for p in run.glob("*.pth"))) or "none"
            raise DataError(f"{run}: has no {weights}; weights there: {found}")
        options: dict[str, Any] = {"device": device, "batch_size": batch_size, "trust_imports": trust_imports}
        return cls.from_weights(path, overrides, config=config, precision=precision, compile=compile, **options)

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
        trust_imports: bool = False,
    ) -> "Predictor":
        """The model of a checkpoint; its classes are the checkpoint's, or else those of the training dataset.

        Args:
            weights: the file.
            overrides: ``key.path=value`` changes to the config.
            config: a YAML; None takes the config that detkit's checkpoints carry.
            device, batch_size, precision, compile: as in the constructor.
            trust_imports: whether the code that the config lists under ``imports`` may run.

        Raises:
            DataError: the weights cannot be read, or there is no config.
            ConfigError: the config is not right.
        """
        checkpoint = read_checkpoint(weights)
        if config is None and checkpoint.config is None:
            raise DataError(f"{weights}: carries no config; give the one that it was trained with, as config=...")
        source = checkpoint.config or {} if config is None else Path(config)
        experiment = load_experiment(source, overrides, trust_imports=trust_imports)
        names, ids = checkpoint.class_names, checkpoint.category_ids
        if names is None:
            names, ids = experiment.data.train_set.class_names, experiment.data.train_set.category_ids
            logger.info("%s carries no class names; taking the training dataset's", checkpoint.source)
        model = experiment.build_model(class_names=names, pretrained=False)
        load_all_weights(model, checkpoint)
        model.category_ids = ids
        augmentations = [recipe() for recipe in experiment.data.test_augmentations]
        options: dict[str, Any] = {"device": device, "batch_size": batch_size, "reading": experiment.data.reading}
        return cls(model, augmentations=augmentations, precision=precision, compile=compile, **options)

    def __call__(self, images: "ImageLike | Sequence[ImageLike]") -> Any:
        """The ``Prediction`` of one image, or a list of them for a list (or tuple) of images.

        Raises:
            ValueError: an image of another type or shape; the message says what is expected.
            DataError: a file that cannot be read.
        """
        if isinstance(images, list | tuple):
            return list(self.stream(images))
        return next(self.stream([images]))  # type: ignore[list-item]

    def stream(self, images: Iterable[ImageLike]) -> Iterator[Prediction]:
        """The ``Prediction`` of each image in turn; only one batch is held at a time. Raises as the call does."""
        for batch in _batches(images, self.batch_size):
            yield from self._predict([self.sample(image) for image in batch])

    def predict_folder(
        self, folder: str | Path, *, recursive: bool = False, skip_unreadable: bool = False
    ) -> Iterator[tuple[Path, Prediction]]:
        """Every image file of a folder, in the order of their names.

        Args:
            folder: has the images.
            recursive: folders in it too.
            skip_unreadable: a file that cannot be read is left out, with a warning, instead of ending the prediction.

        Raises:
            DataError: there is no such folder, or no image in it; (while iterating, after the predictions of the files
                before) a file that cannot be read.
        """
        return self.predict_files(image_files(folder, recursive=recursive), skip_unreadable=skip_unreadable)

    def predict_files(
        self, files: Iterable[Path], *, skip_unreadable: bool = False
    ) -> Iterator[tuple[Path, Prediction]]:
        """Every one of these image files, in their order; otherwise as ``predict_folder``."""
        for batch in _batches(self._readable(files, skip_unreadable), self.batch_size):
            yield from zip([path for path, _ in batch], self._predict([sample for _, sample in batch]))

    def predict_video(self, path: str | Path) -> Iterator[tuple[int, Frame, Prediction]]:
        """Number (from 0), RGB array (H, W, 3) and prediction of each frame, in order; the array has a ``time``.

        Raises:
            DataError: the file cannot be read as a video.
            ImportError: PyAV is missing; the message says how to install it.
        """
        for batch in _batches(enumerate(video_frames(path, self.reading)), self.batch_size):
            predictions = self._predict([self.sample(frame) for _, frame in batch])
            for (number, frame), prediction in zip(batch, predictions):
                yield number, frame, prediction

    def draw(
        self,
        image: ImageLike,
        prediction: Prediction,
        *,
        score_thresh: float = 0.5,
        show_best: int = 3,
        max_side: int | None = MAX_SIDE,
    ) -> np.ndarray:
        """The image with its prediction, instances from ``score_thresh`` on, as ``(H', W', 3)`` uint8.

        ``show_best`` and ``max_side`` are those of ``draw_prediction``.
        """
        options: Any = {"score_thresh": score_thresh, "show_best": show_best, "max_side": max_side}
        return draw_prediction(to_array(image, reading=self.reading), prediction, self.class_names, **options)

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
        rows: list[dict[str, Any]] = []
        for prediction, image_id in zip(predictions, ids, strict=True):
            if prediction.instances is not None:
                rows += coco_results(image_id, prediction.instances, self.category_ids)
        return rows

    def _readable(self, files: Iterable[Path], skip_unreadable: bool) -> Iterator[tuple[Path, Sample]]:
        for path in files:
            try:
                sample = self.sample(path)
            except DataError as error:
                if not skip_unreadable:
                    raise DataError(f"{error}. To leave out what cannot be read: skip_unreadable=True") from None
                logger.warning("left out: %s", error)
                continue
            yield path, sample

    def sample(self, image: ImageLike) -> Sample:
        """An image as the model takes it, after the augmentations, without a target. Raises as the call does."""
        array = to_array(image, self._channels, self.reading)
        record = bare_record(array, str(image) if isinstance(image, str | Path) else "")
        rng = np.random.default_rng(0)
        for augmentation in self.augmentations:
            record = augmentation(record, rng)
        return dataclasses.replace(to_sample(record), target=None)

    @torch.no_grad()
    def _predict(self, samples: list[Sample]) -> list[Prediction]:
        return [prediction.to("cpu") for prediction in self.model(samples)]


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    batch: list[T] = []
    try:
        for item in items:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
    except DataError:  # the next one cannot be read, which costs nothing of those before
        if batch:
            yield batch
        raise
    if batch:
        yield batch
