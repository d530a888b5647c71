"""Writing a model's program, and a program in the place of a model."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.export.description import UNSEALED, Description, describe
from detkit.export.forms import FORMS, Engine, Form
from detkit.export.forms.interfaces import Precision, conversion
from detkit.export.tracing import ANY_SHAPE, InputShape, traced
from detkit.modeling.interfaces import KeypointHead
from detkit.modeling.meta_archs.features import FeatureModel, Outputs
from detkit.modeling.roi_heads import ConvUpsampleKeypointHead
from detkit.registry import ConfigError, DataError
from detkit.structures import Boxes, ImageList, Instances, Prediction, Sample

NO_VIEWS = (
    "data.test_views: views are merged by parts of the model, one after the other, and a program runs as a whole; "
    "take data.test_views=null (no --tta), or in detkit the model itself: its checkpoint, in torch"
)
"""Why there is no test-time augmentation with a program."""
_NO_FIELDS = ("boxes", "keypoint_maps", "semantic")
"""Outputs that are no field of the detections as they are; all others are."""


def form_of(path: str | os.PathLike[str]) -> type[Form]:
    """The form that a file's suffix says. Raises ConfigError for another suffix."""
    form = _form(Path(path).suffix)
    if form is None:
        known = ", ".join(f"{form.suffix} ({form.key})" for _, form in FORMS)
        raise ConfigError(f"{path}: the suffix says the form of a program: {known}; got {Path(path).suffix or 'none'}")
    return form


def _form(suffix: str) -> type[Form] | None:
    """The first form that was registered with a suffix; later ones are other engines for its files."""
    return next((form for _, form in FORMS if form.suffix == suffix.lower()), None)


def form_to_write(path: str | os.PathLike[str], precision: Precision) -> type[Form]:
    """The form in which a file will be written. Raises ConfigError for a precision or library that it has not."""
    form = form_of(path)
    if precision not in form.precisions:
        raise ConfigError(f"{path}: {form.suffix} is written in {', '.join(form.precisions)}, not in {precision}")
    form.check(precision)
    return form


def description_of(path: str | os.PathLike[str]) -> Description:
    """The description in a program's file. Raises as ``Program``."""
    path, form = Path(path), form_of(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    return form.describe(path)


def is_program(path: object) -> bool:
    """Whether a file's suffix is that of a program."""
    return isinstance(path, str | os.PathLike) and _form(Path(path).suffix) is not None


def read_config(program: "Program") -> dict[str, Any]:
    """The config in a program. Raises DataError where it has none."""
    config = program.description.config
    if not config:
        raise DataError(
            f"{program.path}: was written without the model's config, so it runs only where the model is at hand "
            "(ProgramModel); export it by detkit export"
        )
    return config


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    precision: Precision = "fp32",
    shape: InputShape = ANY_SHAPE,
    calibration: Sequence[Sample] = (),
    config: Mapping[str, Any] | None = None,
    steps: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Writes a model as a program: what it does between the normalised batch and the heads' results.

    Args:
        model: a meta-architecture with its weights; it stays as it is.
        path: its suffix says the form: ``.onnx``, ``.xml``, ``.pt2``, or one of your own.
        precision: what convolutions and linear layers compute in. OpenVINO: fp32, bf16, fp16, int8; ONNX: fp32, fp16;
            torch: fp32, bf16, fp16.
        shape: the batches that it shall take.
        calibration: for int8: some hundred images of the kind that it will see, as the model takes them.
        config: the experiment's tree, without which a program runs only where the model is at hand.
        steps: the nodes of the augmentations that test images get.

    Raises:
        ConfigError: the suffix, a precision that the form has not, a model that has no static form or an operator that
            the form has not, or a library that is missing or too old.
    """
    path, form = Path(path), form_to_write(path, precision)
    if not isinstance(model, FeatureModel):
        raise ConfigError(f"export: takes a detector of backbone, neck and heads, got {type(model).__name__}")
    if config and config.get("data", {}).get("test_views") is not None:
        raise ConfigError(NO_VIEWS)
    if precision == "int8" and not calibration:
        raise ConfigError("export: int8 takes its ranges from images; give some hundred as calibration")
    graph = traced(model, shape, form.precisions[precision])
    description = describe(model, graph, precision, config or {}, steps)
    batches = _calibration(model, calibration, description, path) if precision == "int8" else None
    with conversion(form, path, precision):
        form.write(graph, description, precision, batches, path)
    return path


def _calibration(
    model: FeatureModel, samples: Sequence[Sample], description: Description, path: Path
) -> Iterator[tuple[Tensor, Tensor]]:
    """What the program is given for the samples: one by one where it takes any number, as they differ in size."""
    batch = description.inputs[0].shape[0]
    number = batch if isinstance(batch, int) else 1
    for start in range(0, len(samples), number):
        images = model.preprocess(samples[start : start + number])
        yield from fitted(*inputs_of(images), description, path)


def inputs_of(images: ImageList) -> tuple[Tensor, Tensor]:
    """What a program is given for a batch, on the CPU."""
    regions = [images.valid_region(i) for i in range(len(images))]
    return images.tensor.cpu().contiguous(), torch.tensor(regions, dtype=torch.float32)


def fitted(images: Tensor, regions: Tensor, description: Description, path: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """A batch as a program takes it: padded to its size, and split for its number, to which the last part is filled.

    Raises:
        DataError: images that are larger than the program's fixed size, or have other channels.
    """
    batch, channels = description.inputs[0].shape[:2]
    if images.shape[1] != channels:
        raise DataError(f"{path}: takes images of {channels} channels, got {images.shape[1]}")
    height, width = padded_size(images.shape[-2], images.shape[-1], description, path)
    images = F.pad(images, (0, width - images.shape[-1], 0, height - images.shape[-2]))
    number = batch if isinstance(batch, int) else max(1, len(images))
    for part, where in zip(images.split(number), regions.split(number)):
        lacking = (number - len(part)) if isinstance(batch, int) else 0
        yield F.pad(part, (0, 0) * 3 + (0, lacking)), F.pad(where, (0, 0, 0, lacking))


def padded_size(height: int, width: int, description: Description, path: Path) -> tuple[int, int]:
    """What a batch of this size is padded to: a fixed size, or at least the smallest. Raises as ``fitted``."""
    fixed = [side for side in description.inputs[0].shape[2:] if isinstance(side, int)]
    if fixed and (height > fixed[0] or width > fixed[1]):
        raise DataError(
            f"{path}: takes images of {fixed[0]} x {fixed[1]}, and one has {height} x {width} after the "
            "steps of the test images; export it for that size, or for any"
        )
    divisor = description.preprocessing.size_divisibility
    least = fixed or [-(-side // divisor) * divisor for side in description.min_size]
    return max(least[0], height), max(least[1], width)


class Program:
    """A program in a file, loaded into an engine.

    Args:
        path: of the file.
        engine: what runs it; None: what its form is for.
        threads: of an engine besides torch; 0: as many as torch uses.

    Raises:
        DataError: there is no such file, it is damaged, of another version, or no program of detkit's.
        ConfigError: there is no such engine, it is missing, does not read this form, or has no threads of its own.
    """

    def __init__(self, path: str | os.PathLike[str], engine: str | None = None, threads: int = 0):
        self.path, form = Path(path), form_of(path)
        runner = form if engine is None else FORMS.with_key(engine, "engine")
        if not runner.reads(form.suffix):
            able = ", ".join(key for key, other in FORMS.by_key().items() if other.reads(form.suffix))
            raise ConfigError(f"{self.path}: {engine} does not read {form.suffix}; it is for {able}")
        self.engine_name = runner.key
        self.description = description_of(self.path)
        self._run: Engine = runner.load(self.path, self.description, threads)

    def checksum(self) -> str:
        """Of its content: the seal, which has been compared with the files; of a form without one, of the file."""
        seal = self.description.seal
        return hashlib.sha256(self.path.read_bytes()).hexdigest() if seal == UNSEALED else seal

    def __call__(self, images: Tensor, regions: Tensor) -> dict[str, Tensor]:
        """What the heads say of a batch; see ``StaticDetector.forward`` and, for what is raised, ``fitted``."""
        parts = [self._run(*given) for given in fitted(images, regions, self.description, self.path)]
        return self._named([torch.cat(values)[: len(images)] for values in zip(*parts)])

    def _named(self, values: Sequence[Tensor]) -> dict[str, Tensor]:
        return {tensor.name: value for tensor, value in zip(self.description.outputs, values, strict=True)}


class ProgramModel(nn.Module):
    """A program in the place of the model that it was made of: samples to predictions.

    What comes before and after the program, preprocessing and the pasting of masks, is the model's own.

    Args:
        model: the meta-architecture, with or without weights: they are not used.
        program: made of it.
    """

    def __init__(self, model: FeatureModel, program: Program):
        super().__init__()
        self.preprocess = model.preprocess
        self.class_names, self.category_ids = model.class_names, model.category_ids
        self.semantic_names, self.keypoints = model.semantic_names, model.keypoints
        self.merge = getattr(model, "merge", None)  # as ``ViewsModel`` has it
        self.program = program
        self._model = (model,)  # no submodule, so that nothing moves weights that are not used

    def __repr__(self) -> str:
        return f"ProgramModel({self.program.description.model} in {self.program.engine_name}: {self.program.path})"

    @torch.no_grad()
    def forward(self, samples: list[Sample]) -> list[Prediction]:
        """One ``Prediction`` an image, as the model's."""
        images = self.preprocess(samples)
        return self._model[0].predictions(self.outputs(images), images, samples)

    predict = forward

    def outputs(self, images: ImageList) -> Outputs:
        """What the heads say, as ``FeatureModel.outputs``."""
        found = self.program(*inputs_of(images))
        semantic = self._semantic(found["semantic"], images) if "semantic" in found else None
        if "boxes" not in found:
            return Outputs(semantic=semantic)
        return Outputs([self._instances(i, images, found) for i in range(len(images))], semantic)

    def padded(self, images: ImageList) -> ImageList:
        """The batch as large as the program pads it."""
        height, width = padded_size(*images.padded_size, self.program.description, self.program.path)
        more = (0, width - images.padded_size[1], 0, height - images.padded_size[0])
        return dataclasses.replace(images, tensor=F.pad(images.tensor, more))

    def _semantic(self, logits: Tensor, images: ImageList) -> Tensor:
        """The logits of the batch, without those of what the program has padded it by."""
        size = padded_size(*images.padded_size, self.program.description, self.program.path)
        strides = [-(-side // cells) for side, cells in zip(size, logits.shape[-2:])]
        height, width = (-(-side // stride) for side, stride in zip(images.padded_size, strides))
        return logits[..., :height, :width]

    def _instances(self, image: int, images: ImageList, found: Mapping[str, Tensor]) -> Instances:
        there = found["scores"][image] >= 0
        fields = {name: values[image][there] for name, values in found.items() if name not in _NO_FIELDS}
        size, info = images.image_sizes[image], images.info(image)
        instances = Instances(size, info=info, boxes=Boxes(found["boxes"][image][there]), **fields)
        if "keypoint_maps" not in found:
            return instances
        head = next(part for part in self._model[0].modules() if isinstance(part, KeypointHead))
        assert isinstance(head, ConvUpsampleKeypointHead)
        return head.placed([instances], found["keypoint_maps"][image][there])[0]
