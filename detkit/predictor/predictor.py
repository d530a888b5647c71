"""Predictor: a trained model as a function from images to predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from detkit.data import Augmentation
from detkit.data.images import DEFAULT_READING, ImageReading
from detkit.evaluation import coco_results
from detkit.experiment import torch_device
from detkit.export import is_program
from detkit.inference import Precision
from detkit.predictor.engines import in_engine, load_program
from detkit.predictor.instances import PredictedInstances
from detkit.predictor.loading import files_of_run, load_model
from detkit.predictor.predicting import Predicts
from detkit.predictor.sources import resolve_one
from detkit.structures import KeypointSpec, Prediction
from detkit.utils.file_names import FreeNames
from detkit.views import AnyTiling, Views, as_tested
from detkit.visualization import (
    MAX_SIDE,
    ChannelOrder,
    ImageLike,
    draw_prediction,
    write_picture,
)


class Predictor(Predicts):
    """Predicts what is on images, in the pixels of these images, on the CPU.

    ``predictor(image)`` gives a ``Prediction``, whose ``instances`` have ``boxes``, ``scores``, ``classes`` and, from a
    model with masks, ``masks``, best first, and know the names of their classes (``PredictedInstances``);
    ``predictor([image, ...])`` gives a list of them. ``stream`` gives them one by one, and says what is taken.
    ``class_names[c]`` is the name of class c, and ``keypoints`` says what the keypoints are; ``config`` is what the
    model was built from, where that is known; ``inner_model`` is the model without tiles and views.

    Args:
        model: a meta-architecture with its weights; it is moved to ``device`` and set to evaluation mode.
        class_names: the K names; None takes those that the model carries.
        augmentations: those of the images that the model was tested on, such as a resize.
        device: ``"auto"`` is a GPU where there is one.
        batch_size: images a forward pass.
        engine: what runs the model: None or ``"torch"``; ``"openvino"``, ``"onnxruntime"`` or one of your own, for
            which a program is made of it (half a minute; ``detkit export`` keeps one in a file); ``"auto"``: OpenVINO
            on a CPU where it is installed and faster for this model, which is tried out.
        precision: ``"fp32"`` or ``"bf16"`` take a faster copy (see ``detkit.inference``), None the model itself.
        compile: whether the copy's static parts go through ``torch.compile``; without ``precision`` in fp32.
        reading: how image files are read: as those that the model was tested on.
        channel_order: of arrays and tensors, where a call does not say: ``"BGR"`` for OpenCV's.
        tile: the size of overlapping tiles in pixels, or a ``Tiling``; see ``TiledModel``. None: images as a whole.
        views: merges what several views of an image show (see ``ViewsModel``), in torch alone. None: one view.

    Raises:
        ValueError: no model, a batch size below 1, an unknown precision or order, a tile without pixels.
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
        engine: str | None = None,
        precision: Precision | None = None,
        compile: bool = False,
        reading: ImageReading = DEFAULT_READING,
        channel_order: ChannelOrder = "RGB",
        tile: AnyTiling | None = None,
        views: Views | None = None,
    ):
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"Predictor({model!r:.100}): expected a model; Predictor.from_run(FOLDER) takes a run,"
                " from_weights(FILE) a checkpoint or a name of weights"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if channel_order not in ("RGB", "BGR"):
            raise ValueError(f"channel_order: expected 'RGB' or 'BGR', got {channel_order!r}")
        names = getattr(model, "class_names", None) if class_names is None else class_names
        self.inner_model = in_engine(
            model.to(torch_device(device)).eval(), engine, precision, compile, views is not None
        )
        self.model = self.inner_model
        self._channels = getattr(getattr(model, "preprocess", None), "num_channels", 3)
        if tile is not None or views is not None:
            self.model = as_tested(self.inner_model, views, tile, augmentations, batch_size).eval()
            augmentations, batch_size = (), 1  # of images, each of which has many tiles or views
        self.class_names: tuple[str, ...] = tuple(names or ())
        self.semantic_names: tuple[str, ...] = getattr(model, "semantic_names", ())
        self.keypoints: KeypointSpec | None = getattr(model, "keypoints", None)
        self.config: Mapping[str, Any] | None = None
        self.category_ids: tuple[int, ...] | None = getattr(model, "category_ids", None)
        self.stuff_ids: tuple[int, ...] = ()
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
        engine: str | None = None,
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
        return cls.from_weights(
            path,
            overrides,
            config=config,
            device=device,
            batch_size=batch_size,
            engine=engine,
            precision=precision,
            compile=compile,
            channel_order=channel_order,
            tile=tile,
            views=views,
            trust_imports=trust_imports,
        )

    @classmethod
    def from_weights(
        cls,
        weights: str | Path,
        overrides: Sequence[str] = (),
        *,
        config: str | Path | None = None,
        device: str | torch.device = "auto",
        batch_size: int = 4,
        engine: str | None = None,
        precision: Precision | None = None,
        compile: bool = False,
        channel_order: ChannelOrder = "RGB",
        tile: AnyTiling | None = None,
        views: Views | None = None,
        trust_imports: bool = False,
    ) -> "Predictor":
        """The model of a checkpoint; its classes are the checkpoint's, or else those of the training dataset.

        Args:
            weights: the file, its address, or a name such as ``torchvision://MaskRCNN_ResNet50_FPN_Weights.COCO_V1``;
                or a program, see ``from_export``.
            overrides: ``key.path=value`` changes, e.g. ``model.roi_heads.box_head.detection.score_thresh=0.3``.
            config: a YAML; None takes the config that detkit's checkpoints carry, or that a name belongs to. The
                model of a program is fixed, and the config has to have the same.
            device, ..., tile, views: as in the constructor; None: the config's ``data.test_tiles`` and ``test_views``.
            trust_imports: whether the code that the config lists under ``imports`` may run.

        Raises:
            DataError: the weights cannot be read, or there is no config.
            ConfigError: the config is not right.
        """
        model: nn.Module
        if is_program(weights):
            model, experiment = load_program(weights, overrides, config, engine, trust_imports)
            engine = None
        else:
            model, experiment = load_model(weights, overrides, config, trust_imports)
        data = experiment.data
        predictor = cls(
            model,
            augmentations=[recipe() for recipe in data.test_augmentations],
            device=device,
            batch_size=batch_size,
            engine=engine,
            precision=precision,
            compile=compile,
            reading=data.reading,
            channel_order=channel_order,
            tile=tile or data.test_tiles,
            views=views or data.test_views,
        )
        predictor.config = experiment.tree
        return predictor

    @classmethod
    def from_export(
        cls, path: str | Path, *, engine: str | None = None, trust_imports: bool = False, **options: Any
    ) -> "Predictor":
        """The model of a program that ``detkit export`` wrote.

        Args:
            path: the file.
            engine: what runs it; None: what its form is for.
            trust_imports: whether the code that the program's config lists under ``imports`` may run.
            **options: ``batch_size``, ``channel_order`` and ``tile``, as of ``from_weights``.

        Raises:
            DataError: the program is damaged, of another version, or none of detkit's.
            ConfigError: there is no such engine, it is missing, or does not read this form.
        """
        return cls.from_weights(path, engine=engine, trust_imports=trust_imports, **options)

    def draw(
        self,
        image: ImageLike,
        prediction: Prediction,
        *,
        score_thresh: float = 0.5,
        show_best: int = 3,
        max_side: int | None = MAX_SIDE,
    ) -> np.ndarray:
        """The image with its prediction as ``(H', W', 3)`` uint8; the options are those of ``draw_prediction``.

        The image is read as it was for the prediction: in its order of channels, with its value of white.
        """
        options: Any = {"score_thresh": score_thresh, "show_best": show_best, "max_side": max_side}
        found = prediction.instances
        known = found if isinstance(found, PredictedInstances) else self
        order = known.channel_order if prediction.frame is None else "RGB"  # frames are read here
        pixels = resolve_one(image, known.reading, order).pixels()
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
