"""The checkpoint against the model: what would be loaded, whether pixels mean the same, what stays random."""

from collections.abc import Iterable, Mapping
from typing import Any

from detkit.checkpoint import examine_weights, random_parts
from detkit.checkpoint.report import NETWORK
from detkit.doctor.interfaces import CHECKS, Check, CheckContext, Finding
from detkit.registry import DataError

PIXELS = ("pixel_mean", "pixel_std", "pixel_scale", "channel_order")
FOREIGN_ORDER = {"Detectron2": "BGR", "Caffe2": "BGR", "torchvision": "RGB", "torchvision classifier": "RGB"}
"""The order of channels that a framework's weights are trained with, unless somebody changed it there."""


@CHECKS.register()
class WeightsFit(Check):
    """Weights to start from that the model would skip, miss or fill by class name only.

    A tensor that is skipped or missing stays random, and a detector with a random half trains, but badly.

    Fix: the config that the weights are of, or weights of this model; layers of other classes may differ.
    """

    needs = ("model", "checkpoint")

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        assert context.model is not None
        assert context.checkpoint is not None
        source = context.checkpoint.source
        try:
            report = examine_weights(context.model, context.checkpoint)
        except DataError as error:
            fix = "give weights of this architecture, or the config that they are of"
            yield Finding("error", source, "nothing in it is the model's", fix, detail=str(error))
            return
        for part, names in random_parts(context.model, report).items():
            if not context.experiment.train.partial_weights:
                what = f"most of the model's {part} would stay as initialised"
                yield Finding("error", source, what, "give weights of this model, or train.partial_weights=true", names)
        total = len(report.loaded) + len(report.skipped) + len(report.missing)
        if report.skipped:
            examples = [f"{name}: {report.reasons[name]}" for name in report.skipped]
            what = f"of the model's {total} tensors, some have another shape in the file and would stay random"
            yield Finding(
                "warning", source, what, "right for layers of other classes; else correct the model", examples
            )
        if report.missing:
            what = f"of the model's {total} tensors, some are not in the file and would stay as initialised"
            usual = report.of_backbone_alone and not any(name.startswith(NETWORK) for name in report.missing)
            fix = (
                "none: a detector begins so from a classifier"
                if usual
                else "right for new heads; else correct the model"
            )
            yield Finding("note" if usual else "warning", source, what, fix, report.missing)
        if report.unexpected:
            what = "tensors of the file that the model has no use for"
            yield Finding("note", source, what, "none, unless a part of the model is missing", report.unexpected)
        if report.notes:
            examples = [f"{name}: {words}" for name, words in report.notes.items()]
            what = "class layers that would be filled by class name"
            yield Finding("note", source, what, "look whether names are spelt as in the file", examples)
        for warning in report.warnings:
            yield Finding("warning", source, warning, "rename the classes, if they are the same")
        yield from _channel_order(context, report.format)


@CHECKS.register()
class PixelsFit(Check):
    """Pixel mean, deviation, scale or channel order that differ from those that the weights were trained with.

    The first layer then sees other numbers than it knows; nothing fails, but all metrics are lower.

    Fix: the values of the checkpoint's config.
    """

    needs = ("checkpoint",)

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        assert context.checkpoint is not None
        theirs, ours = _preprocess(context.checkpoint.config or {}), _preprocess(context.experiment.tree)
        for name in PIXELS:
            if name in theirs and name in ours and _plain(ours[name]) != _plain(theirs[name]):
                what = f"is {ours[name]}; {context.checkpoint.source} was trained with {theirs[name]}"
                path = f"model.preprocess.{name}"
                yield Finding("warning", path, what, f"set {path} to the checkpoint's")


@CHECKS.register()
class BackbonePixels(Check):
    """Pixels that are normalised in another way than those that the backbone's own ``weights`` were trained with.

    The first layer then sees other numbers than it knows; nothing fails, but all metrics are lower.

    Fix: ``pixel_mean: null`` and ``pixel_std: null``, which take the backbone's.
    """

    needs = ("model",)

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        backbone, preprocess = (getattr(context.model, name, None) for name in ("backbone", "preprocess"))
        theirs = getattr(backbone, "pixel_statistics", None)
        node: Any = context.experiment.tree["model"].get("backbone")
        if theirs is None or preprocess is None or context.weights is not None or not node.get("weights"):
            return
        ours = [preprocess.pixel_scale * values.flatten() for values in (preprocess.pixel_mean, preprocess.pixel_std)]
        ours = [values.flip(0) if preprocess.channel_order == "BGR" else values for values in ours]
        pairs = list(zip(ours, theirs))
        if all(len(own) == len(other) and (own - own.new_tensor(other)).abs().max() < 0.5 for own, other in pairs):
            return
        own, other = (
            " and deviation ".join(str([round(float(v), 1) for v in values]) for values in side) for side in zip(*pairs)
        )
        what = f"RGB of 0..255 has the mean {own}, and the backbone's weights were trained with {other}"
        fix = "model.preprocess: {pixel_mean: null, pixel_std: null, pixel_scale: 1, channel_order: RGB}"
        yield Finding("warning", "model.preprocess", what, fix)


@CHECKS.register()
class FrozenNoise(Check):
    """Layers that are frozen at random values, because no weights are named.

    Nothing can be learned through them.

    Fix: ``train.init_weights``, the backbone's ``weights``, or training from scratch with norms that learn.
    """

    needs = ("model",)
    quick = False  # the start of a training says it anyway

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        assert context.model is not None
        frozen = [name for name, p in context.model.named_parameters() if not p.requires_grad]
        if frozen and context.weights is None and not context.experiment.names_weights:
            fix = "give train.init_weights, or model.backbone.norm=BN model.backbone.freeze_at=0"
            yield Finding("warning", "model", "parameters are frozen at their random start", fix, frozen)


def _channel_order(context: CheckContext, framework: str) -> Iterable[Finding]:
    wanted, ours = FOREIGN_ORDER.get(framework), _preprocess(context.experiment.tree).get("channel_order")
    if wanted is not None and ours is not None and ours != wanted:
        what = f"is {ours}, but weights of {framework} are trained on {wanted}"
        yield Finding(
            "warning", "model.preprocess.channel_order", what, f"set it to {wanted}, with pixel_mean in that order"
        )


def _preprocess(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of ``model.preprocess``; a config of before has them in ``model`` itself."""
    model = tree.get("model") or {}
    return {**model, **(model.get("preprocess") or {})}


def _plain(value: Any) -> Any:
    return [float(v) for v in value] if isinstance(value, list | tuple) else value
