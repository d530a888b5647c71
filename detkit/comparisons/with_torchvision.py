"""detkit's model against torchvision's, stage by stage."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from detkit.comparisons.images import as_sample, with_made_up_objects
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
from detkit.comparisons.report import Difference, Report
from detkit.comparisons.stages import Stages
from detkit.comparisons.tie_breaking import TieBreaking
from detkit.comparisons.torchvision_reference import DetectionTrace, LossTrace, trace_detections, trace_losses
from detkit.data import Augmentation, Record
from detkit.modeling.interfaces import Features
from detkit.registry import ConfigError, DataError
from detkit.structures import ImageList, Instances, Resize, Sample


def compare_with_torchvision(
    model: nn.Module,
    reference: nn.Module,
    batches: Iterable[Sequence[Record]],
    *,
    name: str = "torchvision",
    augmentations: Sequence[Augmentation] = (),
    seed: int = 0,
    notes: Sequence[str] = (),
) -> Report:
    """The parity report of a model that is to be one of torchvision's.

    Both sides see the same images. Every stage is compared twice: as it comes out of a whole run, and when detkit's
    gets the input that torchvision's had. For the losses both sides use all anchors and proposals, and their norms use
    the running statistics; an image without annotations gets objects made up from torchvision's detections and boxes
    at random.

    Args:
        model: detkit's, with weights.
        reference: torchvision's, with the same weights, in evaluation mode.
        batches: images that go through together.
        name: what the report calls the reference.
        augmentations: what the model's config does to images before the model.
        seed: of made-up objects.
        notes: sentences that the report ends with.

    Raises:
        ConfigError: a model without the stages of a two-stage detector, or with another number of feature maps.
        DataError: an object of a class that the model has not.
    """
    stages, report = Stages(model), Report(name, notes=notes)
    for records in batches:
        pixels = [torch.from_numpy(r.image).permute(2, 0, 1).contiguous().float() / 255 for r in records]
        theirs = trace_detections(reference, pixels)
        records = [
            r if len(r.objects) else with_made_up_objects(r, found, stages.model.num_classes, seed)
            for r, found in zip(records, theirs.outputs)
        ]
        samples = [as_sample(record, augmentations, bitmaps=True) for record in records]
        _check_classes(records, stages.model.num_classes)
        _Batch(stages, samples, theirs, report, TieBreaking.of(reference)).compare()
        targets = [target for record in records if (target := as_sample(record, (), bitmaps=True).target) is not None]
        targets = targets if stages.has_masks else [target.without("masks") for target in targets]
        _losses(stages, samples, trace_losses(reference, pixels, targets), report)
    return report


class _Batch:
    """One batch: what both sides make of it, and the report on it but for the losses."""

    def __init__(
        self, stages: Stages, samples: list[Sample], theirs: DetectionTrace, report: Report, tie_breaking: TieBreaking
    ):
        self.stages, self.samples, self.theirs = stages, samples, theirs
        self.report, self.tie_breaking = report, tie_breaking
        self.images = stages.images(samples)
        self.features = stages.features(self.images)
        self.their_images = _with_infos(theirs.images, self.images)
        same_sizes = self.images.image_sizes == theirs.images.image_sizes
        same = same_sizes and torch.equal(self.images.tensor, theirs.images.tensor)
        self.isolated_features = self.features if same else stages.features(self.their_images)
        self.their_features = _named(theirs.features, self.features)

    def compare(self) -> None:
        """All stages, in their order."""
        ours, theirs = self.images, self.theirs.images
        self.report.add("input", "absolute", RELATIVE, absolute(ours.tensor, theirs.tensor))
        for level, expected in self.their_features.items():
            both = (relative(f[level], expected) for f in (self.features, self.isolated_features))
            self.report.add(f"features {level}", "relative", RELATIVE, *both)
        proposals = self.stages.proposals(self.images, self.features)
        isolated = self.stages.proposals(self.their_images, self.their_features)
        for ours_and_isolated, wanted in zip(zip(proposals, isolated), self.theirs.proposals):
            both = (set_difference("boxes", found, wanted) for found in ours_and_isolated)
            self.report.add("proposals", "pixels", PIXELS, *both)
        self._regions(proposals)

    def _regions(self, proposals: list[Instances]) -> None:
        stages, theirs = self.stages, self.theirs
        regions = stages.regions(self.features, proposals)
        outputs = [stages.outputs(d, s.original_size) for d, s in zip(regions.detections, self.samples)]
        expected = [Instances(p.image_size, info=self.images.info(i), boxes=p.boxes)
                    for i, p in enumerate(theirs.proposals)]  # fmt: skip
        isolated = stages.regions(self.their_features, expected, (theirs.logits, theirs.deltas))
        probs = absolute(isolated.logits.softmax(1), theirs.logits.softmax(1))
        end_to_end = []
        for ours, other, candidates in zip(outputs, theirs.outputs, theirs.candidates):
            moved = candidates.boxes.outlines(Resize(candidates.image_size, other.image_size))
            end_to_end.append(self.tie_breaking.differences(ours, other, candidates.with_fields(boxes=moved)))
        for scores, _ in end_to_end:
            self.report.add("class scores", "probability", SCORE, scores, probs)
        self.report.add("box deltas", "relative", RELATIVE, None, relative(isolated.deltas, theirs.deltas))
        for _, boxes in end_to_end:
            self.report.add("boxes", "pixels", PIXELS, boxes)
        for ours, other, candidates in zip(isolated.detections, theirs.detections, theirs.candidates):
            self.report.add("boxes", "pixels", PIXELS, None, self.tie_breaking.differences(ours, other, candidates)[1])
        if stages.has_masks:
            self._masks(outputs)

    def _masks(self, outputs: list[Instances]) -> None:
        stages, theirs = self.stages, self.theirs
        inside = [d.with_fields(row=torch.arange(len(d))) for d in theirs.detections]
        isolated = stages.masks(self.their_features, inside)
        for ours, single, sample, other in zip(outputs, isolated, self.samples, theirs.outputs):
            if "masks" not in other:
                raise ConfigError("model.roi_heads.mask_head: the reference has no masks; set it to null")
            rows, partners = match(ours, other)
            again = stages.outputs(single, sample.original_size)
            self.report.add(
                "masks",
                "1 - IoU",
                MASK,
                self._of_masks(ours[rows], other[partners]),
                self._of_masks(again, other[again.row]),
            )

    def _of_masks(self, ours: Instances, theirs: Instances) -> Difference:
        model = self.stages.model
        return mask_difference(ours.mask_probs, ours.boxes, theirs.masks.tensor, model.mask_paster, model.mask_thresh)


def _losses(stages: Stages, samples: list[Sample], theirs: LossTrace, report: Report) -> None:
    with stages.sampling_everything():
        end_to_end = stages.losses(samples)
        images = stages.images(samples)
        infos = _with_infos(theirs.images, images)
        features = _named(theirs.features, stages.features(images))
        isolated = stages.losses_of(infos, features, theirs.proposals, theirs.targets)
    for name, expected in theirs.losses.items():
        report.add(name, "relative", RELATIVE, *(_of_loss(ours.get(name), expected) for ours in (end_to_end, isolated)))


def _of_loss(ours: float | None, theirs: float) -> Difference:
    return Difference(math.inf) if ours is None else relative(torch.tensor(ours), torch.tensor(theirs))


def _with_infos(theirs: ImageList, ours: ImageList) -> ImageList:
    return dataclasses.replace(theirs, infos=ours.infos)


def _named(theirs: Sequence[Tensor], ours: Features) -> Features:
    """The reference's maps under our names."""
    if len(theirs) != len(ours):
        raise ConfigError(f"model: has {len(ours)} feature maps ({', '.join(ours)}), the reference {len(theirs)}")
    return dict(zip(ours, theirs))


def _check_classes(records: Sequence[Record], num_classes: int) -> None:
    for record in records:
        classes = record.objects.classes
        if len(classes) and classes.max() >= num_classes:
            raise DataError(
                f"{record.file_name}: has an object of class {classes.max()} (from 0), and the model has "
                f"{num_classes} classes"
            )
