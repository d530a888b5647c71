"""What a program's file says of itself: what goes in, what comes out, and how images become what goes in."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from detkit import __version__
from detkit.export.tracing import Traced
from detkit.modeling.meta_archs import GeneralizedRCNN
from detkit.modeling.meta_archs.features import FeatureModel
from detkit.modeling.roi_heads import FastRCNNHead
from detkit.registry import DataError

FORMAT = 1
"""The version of the description; a reader takes no other."""
UNSEALED = "sha256:" + "0" * 64
"""Stands for the file's hash in the bytes that it is taken of."""

MEANINGS = {
    "images": "normalised images as the steps leave them, each at the left and top, zeros to its right and below",
    "regions": "x1, y1, x2, y2 of what is image: 0, 0, width, height, but for a step that pads, as ResizeAndPad does",
    "boxes": "x1, y1, x2, y2 in pixels of the input, best first",
    "scores": "0 to 1; -1 for a row without a detection",
    "classes": "index into class_names",
    "mask_probs": "probability of the object on a grid that spans its box",
    "keypoint_maps": "logits of each keypoint's place on a grid that spans the box",
    "semantic": "logits of each class of the semantic map",
}


MAX_VALUES = 2**28
"""Of an input (1 GiB) that a file may ask for, by a fixed size or a smallest one."""

_Side = Annotated[int, msgspec.Meta(ge=1)]


class TensorInfo(msgspec.Struct, frozen=True):
    """An input or output: dimensions are numbers, or names where a program takes any."""

    name: str
    type: str
    shape: list[_Side | str]
    meaning: str


class Preprocessing(msgspec.Struct, frozen=True):
    """``(pixel / scale - mean) / std``, a value a channel, after the steps."""

    steps: list[dict[str, Any]]
    resize: dict[str, Any] | None
    channel_order: str
    scale: float
    mean: list[float]
    std: list[float]
    size_divisibility: Annotated[int, msgspec.Meta(ge=1, le=4096)]


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in a program's file, as JSON.

    Attributes:
        format: ``FORMAT``.
        version: detkit's.
        model: the meta-architecture.
        precision: what convolutions and linear layers compute in.
        inputs, outputs: in order.
        min_size: the smallest height and width.
        preprocessing: of images before they go in.
        thresholds: those that the program has applied, and ``mask_thresh`` for mask probabilities.
        class_names, category_ids, semantic_names: as of a meta-architecture.
        keypoints: as in a category of COCO's files.
        config: the experiment's, so that detkit can do the rest.
        weights_hash: of an OpenVINO program's second file.
        seal: hash of the file with ``UNSEALED`` in this place.
    """

    format: int = FORMAT
    version: str = __version__
    model: str
    precision: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    min_size: tuple[_Side, _Side]
    preprocessing: Preprocessing
    thresholds: dict[str, float]
    class_names: list[str]
    category_ids: list[int] | None
    semantic_names: list[str]
    keypoints: dict[str, Any] | None
    config: dict[str, Any]
    weights_hash: str = ""
    seal: Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}$")] = UNSEALED

    def json(self) -> str:
        """The description as JSON in ASCII, so that its bytes are the same in every file."""
        return json.dumps(msgspec.to_builtins(self), separators=(",", ":"))


def describe(
    model: FeatureModel, traced: Traced, precision: str, config: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]
) -> Description:
    """The description of a model's program.

    Args:
        model: what was traced.
        traced: its graph.
        precision: of the program.
        config: the experiment's tree; empty where nobody knows it.
        steps: the nodes of the augmentations that test images get.
    """
    preprocess = model.preprocess
    resize = config.get("model", {}).get("preprocess", {}).get("resize") if config else None
    batch, (height, width) = traced.shape.batch or "batch", traced.shape.size or ("height", "width")
    images = TensorInfo("images", "float32", [batch, preprocess.num_channels, height, width], MEANINGS["images"])
    regions = TensorInfo("regions", "float32", [batch, 4], MEANINGS["regions"])
    spec = model.keypoints
    return Description(
        model=type(model).__name__,
        precision=precision,
        inputs=[images, regions],
        outputs=_outputs(traced, batch),
        min_size=traced.min_size,
        preprocessing=Preprocessing(
            steps=[dict(step) for step in steps],
            resize=resize,
            channel_order=preprocess.channel_order,
            scale=float(preprocess.pixel_scale),
            mean=[float(v) for v in preprocess.pixel_mean.flatten()],
            std=[float(v) for v in preprocess.pixel_std.flatten()],
            size_divisibility=preprocess.size_divisibility,
        ),
        thresholds=_thresholds(model),
        class_names=list(model.class_names or [str(c) for c in range(model.num_classes)]),
        category_ids=None if model.category_ids is None else list(model.category_ids),
        semantic_names=list(model.semantic_names),
        keypoints=None if spec is None else spec.coco(),
        config=dict(config),
    )


def _outputs(traced: Traced, batch: int | str) -> list[TensorInfo]:
    values = [node.meta["val"] for node in traced.graph.graph.nodes if node.op == "output" for node in node.args[0]]
    names = ("batch", "", "height/stride", "width/stride")
    return [
        TensorInfo(
            name,
            str(value.dtype).removeprefix("torch."),
            [batch, *(d if isinstance(d, int) else names[i + 1] for i, d in enumerate(value.shape[1:]))],
            MEANINGS.get(name, ""),
        )
        for name, value in zip(traced.outputs, values)
    ]


def _thresholds(model: FeatureModel) -> dict[str, float]:
    found = {}
    for part in model.modules():
        options = part.detection if isinstance(part, FastRCNNHead) else part
        for option in ("score_thresh", "nms_thresh", "max_detections"):
            if isinstance(getattr(options, option, None), int | float):
                found[option] = float(getattr(options, option))
    if isinstance(model, GeneralizedRCNN):
        found["mask_thresh"] = model.mask_thresh
    return found


def sealed(content: bytes) -> bytes:
    """The bytes of a file that has ``UNSEALED`` in it once, with their hash in its place."""
    assert content.count(UNSEALED.encode()) == 1
    return content.replace(UNSEALED.encode(), f"sha256:{hashlib.sha256(content).hexdigest()}".encode())


def check_seal(content: bytes, description: Description, source: str) -> None:
    """Raises DataError where the bytes are not those that were written."""
    before, *after = content.split(description.seal.encode(), 2)
    with_zeros = before + UNSEALED.encode() + b"".join(after)
    if len(after) != 1 or description.seal != f"sha256:{hashlib.sha256(with_zeros).hexdigest()}":
        raise DataError(f"{source}: is damaged or was changed: its hash is not the one written in it; export it again")


def _check_input(description: Description) -> None:
    """Raises ValueError for an input that is no batch of images, or larger than ``MAX_VALUES``."""
    batch, channels, *sides = description.inputs[0].shape if description.inputs else ("none", "none")
    least = [side if isinstance(side, int) else free for side, free in zip(sides, description.min_size, strict=True)]
    values = math.prod(number for number in (batch, channels, *least) if isinstance(number, int))
    half_fixed = len({type(side) for side in sides}) > 1
    if values > MAX_VALUES or half_fixed or channels != len(description.preprocessing.mean):
        raise ValueError(f"an input of {batch} x {channels} x {' x '.join(map(str, least))}")


def read_description(text: str | None, source: str) -> Description:
    """The description in a file.

    Raises:
        DataError: there is none, it is damaged, or of another version.
    """
    again = "export the model again: detkit export RUN FILE"
    if not text:
        raise DataError(f"{source}: is no program that detkit has exported, as it does not describe itself; {again}")
    try:
        version = msgspec.json.decode(text, type=dict[str, Any]).get("format")
        if version == FORMAT:
            found = msgspec.json.decode(text, type=Description)
            numbers = [*found.preprocessing.mean, *found.preprocessing.std, *found.thresholds.values()]
            if not all(map(math.isfinite, numbers)):
                raise ValueError("a value that is no number")
            _check_input(found)
            return found
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: its description is damaged ({error}); {again}") from None
    raise DataError(
        f"{source}: its description is of version {version!r}, and this detkit ({__version__}) reads {FORMAT}; {again}"
    )
