"""detkit's model against a fixture file, stage by stage."""

import math
from collections.abc import Sequence

import numpy as np
import pycocotools.mask as coco_mask
import torch
from torch import Tensor, nn

from detkit.comparison.fixtures import Fixture
from detkit.comparison.images import as_sample
from detkit.comparison.measure import (
    MASK,
    PIXELS,
    RELATIVE,
    SCORE,
    absolute,
    box_difference,
    mask_difference,
    match,
    paired,
    relative,
    score_difference,
)
from detkit.comparison.report import Difference, Report, Rows
from detkit.comparison.stages import Stages
from detkit.data import Augmentation, Record
from detkit.modeling.interfaces import Features
from detkit.registry import ConfigError, DataError
from detkit.structures import BitMasks, Boxes, ImageList, Instances, Sample

AREA = 1e-3
"""Tolerance of the sum of the masks' areas, relative."""
WHOLE_PIXELS = 1.0
"""Tolerance of boxes that were rounded to whole pixels."""


def compare_with_fixture(
    model: nn.Module,
    fixture: Fixture,
    record: Record,
    *,
    augmentations: Sequence[Augmentation] = (),
    notes: Sequence[str] = (),
) -> Report:
    """The parity report of a model against what a reference wrote down.

    A fixture has no whole feature maps, so "the reference's own input" means its proposals for the scores, its
    detections for the masks, on detkit's features.

    Args:
        model: with the fixture's weights.
        fixture: of ``read_fixture``.
        record: the fixture's image; Detectron2's losses need its annotations.
        augmentations: what the model's config does to images before the model.
        notes: sentences that the report ends with.

    Raises:
        ConfigError: a model without the stages of a two-stage detector, or without a map of the fixture.
        DataError: an image of another size than the fixture's, or an array that is missing.
    """
    stages, rows, notes = Stages(model), Rows(), list(notes)
    sample = as_sample(record, augmentations, bitmaps=False)
    images = stages.images([sample])
    features = stages.features(images)
    if "input_sample" in fixture.arrays:
        ours = images.tensor[0, :, ::37, ::41]
        rows.add("input", "absolute", RELATIVE, absolute(ours, fixture.tensor("input_sample")))
    for name in (name for name in fixture.arrays if name.startswith("feature_")):
        level = name.removeprefix("feature_")
        if level not in features:
            raise ConfigError(f"model: has no feature map {level}, which {fixture.path} has; it has {list(features)}")
        part = features[level][0, :8, ::7, ::7]  # of a map a fixture keeps this
        rows.add(f"features {level}", "relative", RELATIVE, relative(part, fixture.tensor(name)))
    if fixture.kind == "Detectron2":
        _detectron2(stages, fixture, sample, images, features, rows)
        if sample.target is not None and len(sample.target):
            _losses(stages, fixture, _with_targets_of(fixture, record, augmentations), rows)
        else:
            notes.append("no losses: they need the image's annotations")
    else:
        _matterport(stages, fixture, sample, images, features, rows)
        notes.append("no losses: the fixture has none")
    return rows.report(f"{fixture.kind} ({fixture.path.name})", tuple(notes))


def _detectron2(
    stages: Stages, fixture: Fixture, sample: Sample, images: ImageList, features: Features, rows: Rows
) -> None:
    size, reference = sample.original_size, fixture.meta["reference"]
    if (reference.get("height", size[0]), reference.get("width", size[1])) != size:
        raise DataError(f"{sample.file_name}: is of size {size}, the fixture's image is another ({reference['image']})")
    inside, info = images.image_sizes[0], images.info(0)
    proposals = stages.proposals(images, features)
    theirs = Instances(inside, info=info, boxes=Boxes(fixture.tensor("proposal_boxes")))
    rows.add("proposals", "pixels", PIXELS, box_difference(proposals[0], theirs))
    logits = fixture.tensor("objectness_logits").sort(descending=True).values
    mine = proposals[0].objectness.sort(descending=True).values
    rows.add("objectness", "relative", RELATIVE, relative(mine, logits))
    expected = Instances(
        size,
        boxes=Boxes(fixture.tensor("pred_boxes")),
        scores=fixture.tensor("scores"),
        classes=fixture.tensor("pred_classes"),
    )
    whole = stages.outputs(stages.regions(features, proposals).detections[0], size)
    alone = stages.outputs(stages.regions(features, [theirs]).detections[0], size)
    both = (whole, alone)
    rows.add("class scores", "probability", SCORE, *(score_difference(d, expected) for d in both))
    rows.add("boxes", "pixels", PIXELS, *(box_difference(d, expected) for d in both))
    if "mask_rle" in reference:
        masks = [coco_mask.decode({"size": list(size), "counts": text}) for text in reference["mask_rle"]]
        expected = expected.with_fields(masks=BitMasks(np.stack(masks) if masks else np.zeros((0, *size))))
        _pasted(stages, features, whole, expected, inside, images, rows)


def _pasted(
    stages: Stages,
    features: Features,
    whole: Instances,
    theirs: Instances,
    inside: tuple[int, int],
    images: ImageList,
    rows: Rows,
) -> None:
    if not stages.has_masks:
        raise ConfigError("model.roi_heads.mask_head: is null, and the fixture has masks")
    model, size = stages.model, theirs.image_size
    scaled = theirs.boxes.scale(inside[0] / size[0], inside[1] / size[1])
    given = Instances(inside, info=images.info(0), boxes=scaled, scores=theirs.scores, classes=theirs.classes)
    again = stages.masks(features, [given])[0]
    ours, expected, _, _ = paired(whole, theirs, match(whole, theirs))
    pairs = ((ours.mask_probs, expected), (again.mask_probs, theirs))
    rows.add(
        "masks",
        "1 - IoU",
        MASK,
        *(mask_difference(p, t.boxes, t.masks.tensor, model.mask_paster, model.mask_thresh) for p, t in pairs),
    )
    total = sum(
        model.mask_paster(again.mask_probs[i : i + 32], theirs.boxes[i : i + 32], size, model.mask_thresh).sum()
        for i in range(0, len(theirs), 32)
    )
    rows.add("mask areas", "relative", AREA, None, _of_numbers(float(total), float(theirs.masks.tensor.sum())))


def _with_targets_of(fixture: Fixture, record: Record, augmentations: Sequence[Augmentation]) -> Sample:
    """The image with the annotations that the reference's losses were computed for, in its order."""
    wanted = fixture.meta["reference"].get("annotation_ids")
    if wanted is not None:
        rows = {number: row for row, number in enumerate(record.objects.annotation_ids.tolist())}
        missing = [number for number in wanted if number not in rows]
        if missing:
            raise DataError(f"{record.file_name}: has no annotation {missing[0]}, which the fixture's losses need")
        record = record.select(sorted(rows[number] for number in wanted))
    return as_sample(record, augmentations, bitmaps=False)


def _losses(stages: Stages, fixture: Fixture, sample: Sample, rows: Rows) -> None:
    ours = stages.losses([sample])
    for name, expected in fixture.meta["reference"].get("losses", {}).items():
        rows.add(name, "relative", RELATIVE, _of_numbers(ours.get(name, math.inf), expected))


def _of_numbers(ours: float, theirs: float) -> Difference:
    return relative(torch.tensor(ours, dtype=torch.double), torch.tensor(theirs, dtype=torch.double))


def _matterport(
    stages: Stages, fixture: Fixture, sample: Sample, images: ImageList, features: Features, rows: Rows
) -> None:
    model, (height, width) = stages.model, images.padded_size
    inside, info = images.image_sizes[0], images.info(0)
    _matterport_rpn(stages, fixture, images, features, rows)
    proposals = stages.proposals(images, features)
    corners = _xyxy(fixture.tensor("proposals_yxyx_normalized")) * torch.tensor([width, height, width, height])
    theirs = Instances(inside, info=info, boxes=Boxes(corners))
    rows.add("proposals", "pixels", PIXELS, box_difference(proposals[0], theirs))

    whole, alone = (stages.regions(features, p) for p in (proposals, [theirs]))
    probs = fixture.tensor("class_probs_sample")  # of every 50th proposal, background first
    ours = alone.logits.softmax(1)[::50]
    sampled = absolute(ours, torch.cat([probs[:, 1:], probs[:, :1]], dim=1))
    deltas = fixture.tensor("class_deltas_sample")[:, 1:]
    mine = alone.deltas.unflatten(1, (-1, 4))[::50]
    table = fixture.tensor("detections_yxyx_class_score")
    expected = Instances(
        inside, info=info, boxes=Boxes(_xyxy(table)), scores=table[:, 5], classes=table[:, 4].long() - 1
    )
    found = whole.detections[0]
    rows.add("class scores", "probability", SCORE, score_difference(found, expected, WHOLE_PIXELS), sampled)
    rows.add("box deltas", "relative", RELATIVE, None, relative(mine, _xyxy(deltas)))
    both = (box_difference(r.detections[0], expected, WHOLE_PIXELS) for r in (whole, alone))
    rows.add("boxes", "pixels", WHOLE_PIXELS, *both)
    again = stages.masks(features, [expected])[0]
    masks = fixture.tensor("mask_probs_of_class_sample")
    rows.add("masks", "probability", RELATIVE, None, absolute(again.mask_probs[::10], masks))

    final = Instances(
        sample.original_size,
        boxes=Boxes(_xyxy(fixture.tensor("final_boxes_yxyx")).float()),
        scores=fixture.tensor("final_scores"),
        classes=fixture.tensor("final_class_ids").long() - 1,
    )
    outputs = stages.outputs(found, sample.original_size)
    rows.add("final boxes", "pixels", WHOLE_PIXELS, box_difference(outputs, final, WHOLE_PIXELS))
    area = model.mask_paster(outputs.mask_probs, outputs.boxes, sample.original_size, model.mask_thresh).sum()
    total = float(np.asarray(fixture.arrays["final_mask_areas"]).sum())
    rows.add("mask areas", "relative", AREA, _of_numbers(float(area), total))


def _matterport_rpn(stages: Stages, fixture: Fixture, images: ImageList, features: Features, rows: Rows) -> None:
    anchors, logits, deltas = stages.anchors(images, features)
    rows.add("anchors", "pixels", PIXELS, absolute(anchors[::997], _xyxy(fixture.tensor("anchors_sample"))))
    pairs = fixture.tensor("rpn_logits_sample")  # background, object
    rows.add("objectness", "relative", RELATIVE, relative(logits[::997], pairs[:, 1] - pairs[:, 0]))
    rows.add("anchor deltas", "relative", RELATIVE, relative(deltas[::997], _xyxy(fixture.tensor("rpn_deltas_sample"))))


def _xyxy(rows: Tensor) -> Tensor:
    """``(..., 4 or more)`` in the order y, x, y, x -> ``(..., 4)`` in the order x, y, x, y."""
    return rows[..., [1, 0, 3, 2]]
