"""detkit's model against a fixture file, stage by stage."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pycocotools.mask as coco_mask
import torch
from torch import Tensor, nn

from detkit.comparisons.fixtures import Fixture
from detkit.comparisons.images import as_sample
from detkit.comparisons.measure import (
    MASK,
    PIXELS,
    RELATIVE,
    SCORE,
    absolute,
    mask_difference,
    match,
    relative,
    set_difference,
)
from detkit.comparisons.report import Report
from detkit.comparisons.stages import DenseStages, FirstStages, Stages
from detkit.data import Augmentation, Record
from detkit.registry import ConfigError, DataError
from detkit.structures import BitMasks, Boxes, Instances, Resize

AREA = 1e-3
"""Tolerance of the sum of the masks' areas, relative."""
WHOLE_PIXELS = 1.0
"""Tolerance of boxes that were rounded to whole pixels."""


def compare_with_fixture(
    model: nn.Module, fixture: Fixture, record: Record, *, augmentations: Sequence[Augmentation] = ()
) -> Report:
    """The parity report of a model against what a reference wrote down.

    A fixture has no whole feature maps, so "the reference's own input" means its proposals for the scores, its
    detections for the masks, on detkit's features.

    Args:
        model: with the fixture's weights.
        fixture: of ``read_fixture``.
        record: the fixture's image; Detectron2's losses need its annotations.
        augmentations: what the model's config does to images before the model.

    Raises:
        ConfigError: a model without the stages of the fixture's detector, or without a map of the fixture.
        DataError: an image of another size than the fixture's, or an array that is missing.
    """
    kind: type[_Comparison] = _WithMatterport
    if fixture.kind == "Detectron2":
        kind = _WithDense if fixture.is_dense else _WithDetectron2
    comparison = kind(kind.stages_of(model), fixture, record, augmentations)
    comparison.compare_features()
    comparison.compare_rest()
    return comparison.report


class _Comparison:
    """The image's way through detkit's model, and the report on it."""

    stages_of: ClassVar[type[FirstStages[Any]]] = Stages

    def __init__(self, stages: Any, fixture: Fixture, record: Record, augmentations: Sequence[Augmentation]):
        self.stages, self.fixture, self.record, self.augmentations = stages, fixture, record, augmentations
        self.report = Report(f"{fixture.kind} ({fixture.path.name})")
        self.sample = as_sample(record, augmentations, bitmaps=False)
        self.images = stages.images([self.sample])
        self.features = stages.features(self.images)

    def compare_features(self) -> None:
        """The network's input and its maps, of which a fixture keeps a part."""
        if "input_sample" in self.fixture.arrays:
            part = self.images.tensor[0, :, ::37, ::41]
            self.report.add("input", "absolute", RELATIVE, absolute(part, self.fixture.tensor("input_sample")))
        for name in (name for name in self.fixture.arrays if name.startswith("feature_")):
            level = name.removeprefix("feature_")
            if level not in self.features:
                known = ", ".join(self.features)
                raise ConfigError(f"model: has no feature map {level}, which {self.fixture.path} has; it has {known}")
            part = self.features[level][0, :8, ::7, ::7]
            self.report.add(f"features {level}", "relative", RELATIVE, relative(part, self.fixture.tensor(name)))

    def compare_rest(self) -> None:
        """All other stages."""
        raise NotImplementedError

    def input_boxes(self, boxes: Tensor, **fields: Tensor) -> Instances:
        """Boxes in pixels of the network's input."""
        return Instances(self.images.image_sizes[0], info=self.images.info(0), boxes=Boxes(boxes), **fields)

    def area(self, probs: Tensor, boxes: Boxes, size: tuple[int, int]) -> float:
        """Of all masks together, pasted into an image of ``size``."""
        model = self.stages.model
        return float(model.mask_paster(probs, boxes, size, model.mask_thresh).areas().sum())

    def compare_areas(self, ours: float, theirs: float, isolated: bool) -> None:
        """The sums of the masks' areas."""
        difference = relative(*torch.tensor([[ours], [theirs]], dtype=torch.double))
        self.report.add("mask areas", "relative", AREA, *((None, difference) if isolated else (difference, None)))


class _Detectron2(_Comparison):
    """What the fixtures of all of Detectron2's detectors have."""

    def expected(self) -> Instances:
        """The reference's detections in pixels of the image. Raises DataError for an image of another size."""
        size, reference = self.sample.original_size, self.fixture.meta["reference"]
        if (reference.get("height", size[0]), reference.get("width", size[1])) != size:
            other = reference["image"]
            raise DataError(f"{self.sample.file_name}: is of size {size}, the fixture's image is another ({other})")
        boxes, scores, classes = map(self.fixture.tensor, ("pred_boxes", "scores", "pred_classes"))
        return Instances(size, boxes=Boxes(boxes), scores=scores, classes=classes)

    def compare_detections(self, expected: Instances, *ours: Instances) -> None:
        """Of the whole run, and where there is such from the reference's own input."""
        self.report.add("class scores", "probability", SCORE, *(set_difference("scores", o, expected) for o in ours))
        self.report.add("boxes", "pixels", PIXELS, *(set_difference("boxes", o, expected) for o in ours))

    def compare_losses(self) -> None:
        """Of the annotations that the reference's losses were computed for, in its order."""
        record, reference = self.record, self.fixture.meta["reference"]
        if not len(record.objects):
            self.report.notes.append("no losses: they need the image's annotations")
            return
        wanted = reference.get("annotation_ids")
        if wanted is not None:
            rows = {number: row for row, number in enumerate(record.objects.annotation_ids.tolist())}
            missing = [number for number in wanted if number not in rows]
            if missing:
                raise DataError(f"{record.file_name}: has no annotation {missing[0]}, which the fixture's losses need")
            record = record.select(sorted(rows[number] for number in wanted))
        try:
            ours = self.stages.losses([as_sample(record, self.augmentations, bitmaps=False)])
        except ValueError as error:  # a truth that is no part of the annotations, such as a semantic map
            self.report.notes.append(f"no losses: {error}")
            return
        for name, expected in reference.get("losses", {}).items():
            values = torch.tensor([[ours.get(name, math.inf)], [expected]], dtype=torch.double)
            self.report.add(name, "relative", RELATIVE, relative(*values))


class _WithDense(_Detectron2):
    stages_of = DenseStages

    def compare_rest(self) -> None:
        """See the base class."""
        expected = self.expected()
        (found,) = self.stages.detections(self.images, self.features)
        ours = self.stages.outputs(found, expected.image_size)[: len(expected)]  # a limit may have cut those off
        self.compare_detections(expected, ours)
        self.compare_losses()


class _WithDetectron2(_Detectron2):
    def compare_rest(self) -> None:
        """See the base class."""
        expected, reference = self.expected(), self.fixture.meta["reference"]
        size = expected.image_size
        (proposals,) = self.stages.proposals(self.images, self.features)
        theirs = self.input_boxes(self.fixture.tensor("proposal_boxes"))
        self.report.add("proposals", "pixels", PIXELS, set_difference("boxes", proposals, theirs))
        logits = self.fixture.tensor("objectness_logits").sort(descending=True).values
        ours = proposals.objectness.sort(descending=True).values
        self.report.add("objectness", "relative", RELATIVE, relative(ours, logits))
        outputs = [
            self.stages.outputs(self.stages.regions(self.features, [p]).detections[0], size)
            for p in (proposals, theirs)
        ]
        self.compare_detections(expected, *outputs)
        if "mask_rle" in reference:
            masks = [coco_mask.decode({"size": list(size), "counts": text}) for text in reference["mask_rle"]]
            bitmaps = BitMasks(np.stack(masks) if masks else np.zeros((0, *size)))
            self._compare_masks(outputs[0], expected.with_fields(masks=bitmaps))
        self.compare_losses()

    def _compare_masks(self, ours: Instances, theirs: Instances) -> None:
        if not self.stages.has_masks:
            raise ConfigError("model.roi_heads.mask_head: is null, and the fixture has masks")
        model = self.stages.model
        inside = self.images.image_sizes[0]
        boxes = theirs.boxes.outlines(Resize(theirs.image_size, inside)).tensor
        given = self.input_boxes(boxes, scores=theirs.scores, classes=theirs.classes)
        isolated = self.stages.masks(self.features, [given])[0].mask_probs
        rows, partners = match(ours, theirs)
        pairs = ((ours.mask_probs[rows], theirs[partners]), (isolated, theirs))
        differences = (
            mask_difference(probs, t.boxes, t.masks.tensor, model.mask_paster, model.mask_thresh) for probs, t in pairs
        )
        self.report.add("masks", "1 - IoU", MASK, *differences)
        parts = [slice(i, i + 32) for i in range(0, len(theirs), 32)]  # masks of full size are large
        area = sum(self.area(isolated[part], theirs.boxes[part], theirs.image_size) for part in parts)
        self.compare_areas(area, float(theirs.masks.tensor.sum()), isolated=True)


class _WithMatterport(_Comparison):
    def compare_rest(self) -> None:
        """See the base class."""
        stages, tensor = self.stages, self.fixture.tensor
        self._compare_anchors()
        height, width = self.images.padded_size
        (proposals,) = stages.proposals(self.images, self.features)
        shares = _xyxy(tensor("proposals_yxyx_normalized"))
        theirs = self.input_boxes(shares * torch.tensor([width, height, width, height]))
        self.report.add("proposals", "pixels", PIXELS, set_difference("boxes", proposals, theirs))

        end_to_end, isolated = (stages.regions(self.features, [p]) for p in (proposals, theirs))
        probs = tensor("class_probs_sample")  # of every 50th proposal, background first
        scores = absolute(isolated.logits.softmax(1)[::50], torch.cat([probs[:, 1:], probs[:, :1]], dim=1))
        deltas = isolated.deltas.unflatten(1, (-1, 4))[::50]
        table = tensor("detections_yxyx_class_score")
        expected = self.input_boxes(_xyxy(table), scores=table[:, 5], classes=table[:, 4].long() - 1)
        ours = end_to_end.detections[0]
        whole_scores = set_difference("scores", ours, expected, WHOLE_PIXELS)
        self.report.add("class scores", "probability", SCORE, whole_scores, scores)
        difference = relative(deltas, _xyxy(tensor("class_deltas_sample")[:, 1:]))
        self.report.add("box deltas", "relative", RELATIVE, None, difference)
        both = (ours, isolated.detections[0])
        boxes = (set_difference("boxes", found, expected, WHOLE_PIXELS) for found in both)
        self.report.add("boxes", "pixels", WHOLE_PIXELS, *boxes)
        masks = stages.masks(self.features, [expected])[0].mask_probs[::10]
        difference = absolute(masks, tensor("mask_probs_of_class_sample"))
        self.report.add("masks", "probability", RELATIVE, None, difference)
        self._compare_outputs(stages.outputs(ours, self.sample.original_size))
        self.report.notes.append("no losses: the fixture has none")

    def _compare_anchors(self) -> None:
        tensor = self.fixture.tensor
        anchors, logits, deltas = (part[::997] for part in self.stages.anchors(self.images, self.features))
        pairs = tensor("rpn_logits_sample")  # background, object
        self.report.add("anchors", "pixels", PIXELS, absolute(anchors, _xyxy(tensor("anchors_sample"))))
        self.report.add("objectness", "relative", RELATIVE, relative(logits, pairs[:, 1] - pairs[:, 0]))
        self.report.add("anchor deltas", "relative", RELATIVE, relative(deltas, _xyxy(tensor("rpn_deltas_sample"))))

    def _compare_outputs(self, outputs: Instances) -> None:
        size, tensor = self.sample.original_size, self.fixture.tensor
        boxes, classes = _xyxy(tensor("final_boxes_yxyx")).float(), tensor("final_class_ids").long() - 1
        final = Instances(size, boxes=Boxes(boxes), scores=tensor("final_scores"), classes=classes)
        self.report.add("final boxes", "pixels", WHOLE_PIXELS, set_difference("boxes", outputs, final, WHOLE_PIXELS))
        area = self.area(outputs.mask_probs, outputs.boxes, size)
        self.compare_areas(area, float(tensor("final_mask_areas").double().sum()), isolated=False)


def _xyxy(rows: Tensor) -> Tensor:
    """``(..., 4 or more)`` in the order y, x, y, x -> ``(..., 4)`` in the order x, y, x, y."""
    return rows[..., [1, 0, 3, 2]]
