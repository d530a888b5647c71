"""A model as a graph of operators: ``torch.export`` with images of any size and number."""

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from detkit.export.static import StaticDetector
from detkit.inference.optimize import DTYPES, lower
from detkit.modeling.meta_archs.features import FeatureModel
from detkit.registry import ConfigError

MAX_BATCH = 1024
"""Images at a time that a program of any number takes."""

EXAMPLE = (352, 416)
"""Height and width of what a graph for any size is traced with. No map of the network has a single cell, and no usual
window divides a map, for 11 and 13 are prime: where one does, torch takes it that it always does."""


@dataclasses.dataclass(frozen=True)
class InputShape:
    """The batches that a program takes.

    Args:
        batch: images at a time; None: any number.
        size: ``(height, width)`` of the padded images; None: any that the backbone takes.
    """

    batch: int | None = None
    size: tuple[int, int] | None = None


ANY_SHAPE = InputShape()


@dataclasses.dataclass(frozen=True)
class Traced:
    """A model as a graph.

    Args:
        graph: from ``images`` and ``regions`` to the outputs.
        outputs: their names, in order.
        example: what it was traced with.
        shape: the batches that it takes; of a model that takes one size alone, this size.
        min_size: the smallest height and width where they are not fixed.
    """

    graph: ExportedProgram
    outputs: tuple[str, ...]
    example: tuple[Tensor, Tensor]
    shape: InputShape
    min_size: tuple[int, int]


def traced(model: FeatureModel, shape: InputShape = ANY_SHAPE, precision: str = "fp32") -> Traced:
    """The model's static form as a graph.

    Args:
        model: in evaluation mode; it stays as it is.
        shape: the batches that the graph shall take.
        precision: what convolutions and linear layers compute in: ``fp32``, ``fp16`` or ``bf16``; inputs and outputs
            are float32 in any case.

    Raises:
        ConfigError: a size that the model does not take, a part that has no static form, or something in it cannot be
            traced.
    """
    shape, divisor = _shape_for(model, shape), model.preprocess.size_divisibility
    static = StaticDetector(model).to("cpu")
    if precision != "fp32":
        lower(static, {**DTYPES, "fp16": torch.float16}[precision])
    height, width = shape.size or tuple(-(-side // divisor) * divisor for side in EXAMPLE)
    number = shape.batch or 2
    example = torch.zeros(number, model.preprocess.num_channels, height, width), torch.zeros(number, 4)
    batch = None if shape.batch else Dim("batch", min=1, max=MAX_BATCH)
    of_images = {0: batch} if batch else {}
    sides = {} if shape.size else {2: divisor * Dim("rows", min=2), 3: divisor * Dim("columns", min=2)}
    try:
        with quiet(), torch.no_grad():
            graph = torch.export.export(
                static, example, dynamic_shapes=({**of_images, **sides}, of_images), strict=False
            )
            outputs = tuple(static(*example))
            if shape.size is None:  # a graph may hold for sizes like the example's alone, which its own checks say
                unit = -(-32 // divisor) * divisor
                graph.module()(torch.zeros(number, *example[0].shape[1:2], 5 * unit, 7 * unit), example[1])
    except ConfigError:
        raise
    except Exception as error:  # torch.export fails with many types
        what = str(error).strip().splitlines()
        raise ConfigError(
            f"{type(model).__name__}: torch.export does not take it with images of "
            f"{'any size' if shape.size is None else 'this size'} and {'any number' if batch else str(shape.batch)}: "
            f"{what[0] if what else type(error).__name__}. A fixed size or batch (--size HEIGHT WIDTH, --batch N) may "
            "help, and a part of your own must not depend on the values of tensors"
        ) from error
    return Traced(graph, outputs, example, shape, shape.size or _smallest(graph, example, divisor))


def _shape_for(model: FeatureModel, shape: InputShape) -> InputShape:
    """The shape, with the size of a model that takes one alone. Raises ConfigError for a size that it does not take."""
    square, divisor = model.preprocess.square_size, model.preprocess.size_divisibility
    if square:
        if shape.size not in (None, (square, square)):
            raise ConfigError(
                f"size: {shape.size[0]} x {shape.size[1]}; the model takes images padded to {square} x {square} alone: "
                "leave out the size"
            )
        shape = InputShape(shape.batch, (square, square))
    if shape.size is not None and any(side % divisor for side in shape.size):
        raise ConfigError(f"size: {shape.size[0]} x {shape.size[1]}; expected multiples of {divisor}, which images get")
    return shape


def _smallest(graph: ExportedProgram, example: tuple[Tensor, Tensor], divisor: int) -> tuple[int, int]:
    """The smallest height and width, multiples of the divisor, for which the graph's own checks hold."""
    images = next(node for node in graph.graph.nodes if node.name == "images").meta["val"]
    limits = [
        graph.range_constraints.get(side.node.expr) for side in images.shape[2:] if isinstance(side, torch.SymInt)
    ]
    height, width = (-(-(1 if limit is None else int(limit.lower)) // divisor) * divisor for limit in limits)
    module = graph.module()
    while height < example[0].shape[2] and width < example[0].shape[3]:
        try:
            with torch.no_grad():
                module(example[0][:, :, :height, :width], example[1])
            break
        except AssertionError:  # such as that the coarsest map has more than one cell
            height, width = height + divisor, width + divisor
    return height, width


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporters say of themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "torch")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before):
                logger.setLevel(level)
