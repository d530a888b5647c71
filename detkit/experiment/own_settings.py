"""Settings that follow from the data: image and anchor sizes, the length of the training and its periods, limits."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from detkit.config import assignment
from detkit.config.merge import split
from detkit.data.interfaces import Dataset
from detkit.registry import DataError
from detkit.utils.words import amount

PASSES = 6
"""Over the training images, at least; a few images are seen more often, as often as the template's steps say."""

LAST_LAYERS = {"box_head.init.cls_score": 0.01, "box_head.init.bbox_pred": 0.001, "mask_head.init.predictor": 0.001}
"""The standard deviations that Detectron2's heads begin with."""

SMALL = 16.0
"""Pixels of an object, the square root of its area, below which larger images are worth their time."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One value that the data decide.

    Args:
        path: its place in the config.
        value: plain data.
        reason: why it is that, in a few words.
    """

    path: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return assignment(self.path, self.value)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What settings depend on.

    Args:
        images: their number.
        short_side, long_side: of half of the images at least so long, in pixels.
        sizes: ``(A,)`` square roots of the objects' box areas, each as a share of its image's shorter side.
        elongated: the share of objects that are over three times as long as wide, or as wide as long.
        most: the number of objects in the fullest image.
        has_masks: whether objects have masks.
    """

    images: int
    short_side: float
    long_side: float
    sizes: np.ndarray
    elongated: float
    most: int
    has_masks: bool

    @staticmethod
    def of(dataset: Dataset, purpose: str) -> "Facts":
        """Of the part of the data to ``purpose``. Raises DataError where it has no object."""
        objects = dataset.objects()
        kept = ~objects.crowd
        if not kept.any():
            where = getattr(dataset, "source", "the data")
            raise DataError(f"{where}: the part to {purpose} has no object; label some, and give the folder again")
        boxes, images = objects.boxes[kept], objects.images[kept]
        image_sizes = np.array([dataset.image_size(i) for i in range(len(dataset))], np.float64)
        sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
        return Facts(
            images=len(dataset),
            short_side=float(np.median(image_sizes.min(1))),
            long_side=float(np.median(image_sizes.max(1))),
            sizes=np.sqrt(sides.prod(1)) / image_sizes.min(1)[images],
            elongated=float((sides.max(1) / sides.min(1) > 3).mean()),
            most=int(np.bincount(images).max()),
            has_masks=bool(np.isfinite(objects.extents[kept]).all(1).any()),
        )


def derived(tree: Mapping[str, Any], facts: Facts, tested: Facts, is_given: Callable[[str], bool]) -> Iterator[Setting]:
    """The settings of a template of ``configs/own_data`` that fit the data.

    Args:
        tree: the complete config, with what the user has changed: in the place of any part of the template there may
            be another, or none, and no setting follows from it then.
        facts: of the training images.
        tested: of the images to evaluate on.
        is_given: whether the user says what stands at a path, whose setting is then not used.
    """
    boxes_only = not facts.has_masks
    if boxes_only:
        yield Setting("model.roi_heads.mask_head", None, "the objects have boxes only")
    if boxes_only or not _node(tree, "model.roi_heads.mask_head"):
        yield Setting("train.hooks[1].metric", "ema/box/AP", "without masks")
    elif not tested.has_masks:
        yield Setting("train.hooks[1].metric", "ema/box/AP", "the images to evaluate on have no masks")
    yield from _sizes(tree, facts, is_given)
    yield from _limits(tree, facts)
    yield from _duration(tree, facts, tested.images, is_given)


def _node(tree: Mapping[str, Any], path: str, name: str | None = None) -> Mapping[str, Any]:
    """The node at a path, of the class ``name`` if that is given; empty where there is none."""
    found: Any = tree
    for key in split(path):
        try:
            found = found[key]
        except (KeyError, IndexError, TypeError):
            return {}
    return found if isinstance(found, Mapping) and name in (None, found.get("name")) else {}


def _sizes(tree: Mapping[str, Any], facts: Facts, is_given: Callable[[str], bool]) -> Iterator[Setting]:
    test = _node(tree, "data.test_augmentations[0]", "ResizeShortestEdge")
    if not test:
        return
    usual, longest = test["short_edge"][0], test["max_size"]
    small = float(np.quantile(facts.sizes, 0.2))
    wanted = usual * min(2.0, max(1.0, SMALL / (small * usual)))
    edge = 8 * round(max(min(wanted, facts.short_side), usual / 2) / 8)
    if is_given("data.test_augmentations[0].short_edge"):
        edge = usual
    why = f"images are {facts.short_side:.0f} x {facts.long_side:.0f}, a fifth of the objects is below"
    why += f" {small * edge:.0f} pixels then"
    limit = longest if is_given("data.test_augmentations[0].max_size") else round(longest * edge / usual)
    edges = [max(8, 8 * round(edge * scale / 8)) for scale in (0.7, 0.8, 0.9, 1.0, 1.1)]
    yield Setting("data.test_augmentations[0].short_edge", [edge], why)
    yield Setting("data.test_augmentations[0].max_size", limit, "in proportion")
    yield Setting("data.train_augmentations[0].short_edge", edges, "0.7 to 1.1 of that, which measured best")
    yield Setting("data.train_augmentations[0].max_size", round(1.1 * limit), "in proportion")
    generator = _node(tree, "model.proposal_generator.anchor_generator", "GridAnchorGenerator")
    knows_sizes = "RCNN" in str(tree["train"]["init_weights"])  # a detector's weights: those that they have seen
    if generator and not knows_sizes:
        least = float(np.quantile(facts.sizes, 0.05)) * edge
        first = 2 ** min(5, max(3, math.floor(math.log2(least * 1.2))))
        levels = len(generator["sizes"])
        why = f"one in twenty objects is below {least:.0f} pixels"
        yield Setting("model.proposal_generator.anchor_generator.sizes", [[first * 2**i] for i in range(levels)], why)
        if facts.elongated > 0.25:
            why = f"{facts.elongated:.0%} of the objects are over three times as long as wide"
            ratios = [0.25, 0.5, 1.0, 2.0, 4.0]
            yield Setting("model.proposal_generator.anchor_generator.aspect_ratios", ratios, why)


def _limits(tree: Mapping[str, Any], facts: Facts) -> Iterator[Setting]:
    most = min(1000, max(100, 50 * math.ceil(1.5 * facts.most / 50)))
    why = f"up to {facts.most} objects in an image"
    yield Setting("model.roi_heads.box_head.detection.max_detections", most, why)
    yield Setting("evaluators[0].max_detections", most, "as many")
    selection = _node(tree, "model.proposal_generator.selection")
    for option, least in (("pre_nms_topk", 2.5 * most), ("post_nms_topk", 1.5 * most)):
        for mode in ("train", "test"):
            if selection.get(f"{option}_{mode}", least) < least:
                path = f"model.proposal_generator.selection.{option}_{mode}"
                yield Setting(path, round(least), "enough proposals for that")
    samples = _node(tree, "model.roi_heads.sampling").get("batch_size_per_image")
    if samples is not None and facts.most > samples / 2:
        yield Setting("model.roi_heads.sampling.batch_size_per_image", min(512, 2 * samples), why)


def _duration(
    tree: Mapping[str, Any], facts: Facts, test_images: int, is_given: Callable[[str], bool]
) -> Iterator[Setting]:
    solver, epochs = tree["solver"], tree["solver"]["epochs"]
    batch = tree["data"]["batch_size"] * solver["accumulate"]
    from_scratch = tree["train"]["init_weights"] is None and not _node(tree, "model.backbone").get("weights")
    steps = solver["max_iter"] if epochs is None else math.ceil(epochs * facts.images / batch)
    if not is_given("solver.max_iter"):
        steps = max(steps, math.ceil(PASSES * facts.images / batch)) * (3 if from_scratch else 1)
        why = f"{steps * batch / facts.images:.0f} passes over {facts.images} images"
        yield Setting("solver.max_iter", steps, why + (", three times as many without weights" if from_scratch else ""))
    if from_scratch:
        yield from _without_weights(tree, facts.has_masks)
    yield Setting("solver.schedule.warmup_iters", min(1000, steps // 10), "a tenth of the steps")
    evaluations = min(10, max(1, int(0.15 * steps * batch / max(test_images, 1))))
    period = math.ceil(steps / evaluations)
    yield Setting(
        "train.eval_period",
        period,
        f"{amount(evaluations, 'evaluation')} on {amount(test_images, 'image')}",
    )
    yield Setting("train.checkpoint_period", period, "with each of them")
    yield Setting("train.hooks[0].decay", round(min(0.9998, max(0.5, 1 - 10 / steps)), 4), "over a tenth of the steps")


def _without_weights(tree: Mapping[str, Any], has_masks: bool) -> Iterator[Setting]:
    yield Setting("model.backbone.norm", "BN", "without weights, norms must learn")
    yield Setting("model.backbone.freeze_at", 0, "without weights, everything must learn")
    if (rate := tree["solver"]["optimizer"].get("lr")) is not None:
        yield Setting("solver.optimizer.lr", 2 * rate, "twice as much without weights")
    for layer, deviation in LAST_LAYERS.items():
        head, _, name = layer.partition(".init.")
        if name in _node(tree, f"model.roi_heads.{head}.init") and (has_masks or head != "mask_head"):
            yield Setting(f"model.roi_heads.{layer}", deviation, "Detectron2's, which is best without weights")
