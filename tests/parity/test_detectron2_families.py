"""Detectron2's families of R-CNNs against an oracle: features, proposals, detections, masks and losses."""

import dataclasses
import re
import zlib

import detectron2_oracle as oracle
import pytest
import torch
from detectron2_oracle import Model, Weights
from parity_helpers import CONFIGS, assert_losses, assert_masks, build, pair, relative

from detkit.checkpoint import export_state, load_weights
from detkit.structures import Boxes, Instances, PolygonMasks, Sample

TOPK = {"pre_nms_topk": 300, "post_nms_topk": 50}
EVERYTHING = {"rpn_batch": 100_000, "score_thresh": 0.03}
X_STD = (57.375, 57.120, 58.395)


@dataclasses.dataclass(frozen=True)
class Case:
    """A config, what is overridden in it, and what Detectron2's config of that name says."""

    config: str
    model: Model
    overrides: tuple[str, ...] = ()


def of(**options):
    return Model(**{**TOPK, **EVERYTHING, **options})


MODULATED = ("model.backbone.deform={stages: [res3, res4, res5], modulated: true}",)
SYNC = ("model.backbone.norm=SyncBN", "model.neck.norm=SyncBN")
FAST = {
    "R_50_C4": Case("mask_rcnn_R_50_C4_1x", of(kind="C4", post_nms_topk=20)),
    "R_50_FPN_gn": Case("mask_rcnn_R_50_FPN_3x_gn", of(stride_in_1x1=False, box_convs=4, box_fcs=1)),
}
SLOW = {
    "R_50_C4_boxes": Case("faster_rcnn_R_50_C4_1x", of(kind="C4", mask=False)),
    "R_50_DC5": Case("mask_rcnn_R_50_DC5_1x", of(kind="DC5")),
    "R_50_DC5_boxes": Case("faster_rcnn_R_50_DC5_3x", of(kind="DC5", mask=False)),
    "R_50_FPN": Case("mask_rcnn_R_50_FPN_1x", of()),
    "R_50_FPN_boxes": Case("faster_rcnn_R_50_FPN_1x", of(mask=False)),
    "R_50_FPN_syncbn": Case("mask_rcnn_R_50_FPN_3x", of(), SYNC),
    "R_50_FPN_dconv": Case("mask_rcnn_R_50_FPN_3x_dconv_c3-c5", of()),
    "R_50_FPN_modulated": Case("mask_rcnn_R_50_FPN_3x_dconv_c3-c5", of(modulated=True), MODULATED),
    "R_101_C4": Case("mask_rcnn_R_101_C4_3x", of(kind="C4", depth=101)),
    "R_101_DC5": Case("mask_rcnn_R_101_DC5_3x", of(kind="DC5", depth=101)),
    "R_101_FPN": Case("mask_rcnn_R_101_FPN_3x", of(depth=101)),
    "R_101_FPN_boxes": Case("faster_rcnn_R_101_FPN_3x", of(depth=101, mask=False)),
    "X_101_FPN": Case("mask_rcnn_X_101_FPN_3x", of(depth=101, stride_in_1x1=False, pixel_std=X_STD)),
    "X_101_FPN_boxes": Case(
        "faster_rcnn_X_101_FPN_3x", of(depth=101, stride_in_1x1=False, pixel_std=X_STD, mask=False)
    ),
}
CASES = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]

SIZES = ((160, 224), (203, 131))
OUTPUT = ((200, 280), (203, 131))
"""The sizes of the files: predictions are given in their pixels."""


def fill(state, pixel_std):
    """Weights by their names, so that activations neither die nor explode."""
    stem = 0.0333 * max(pixel_std)
    gains = ((r"stem\.conv1\.weight", stem), (r"conv3\.norm\.weight", 0.5), (r"conv[123]\.weight|fc|fcn|deconv\.", 1.4))
    out = Weights()
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            out[name] = tensor.clone()
            continue
        x = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        if tensor.ndim >= 2:
            x /= tensor[0].numel() ** 0.5
        else:
            x = 1 + 0.1 * x.abs() if name.endswith(("running_var", "norm.weight")) else 0.05 * x
        for pattern, gain in gains:
            x *= gain if re.search(pattern, name) else 1
        out[name] = x
    return out


@torch.no_grad()
def scale_last_layers(weights, model, batch, sizes):
    """Scales the last layers until objectness, classes, boxes and masks differ from place to place."""

    def scale(name, values, std):
        weights[f"{name}.weight"] = weights[f"{name}.weight"] * (std / values.std())

    maps = oracle.features(weights, model, batch)
    levels = oracle.rpn(weights, model, maps)
    head = "proposal_generator.rpn_head"
    scale(f"{head}.objectness_logits", torch.cat([logits.flatten() for _, logits, _ in levels]), 2.0)
    scale(f"{head}.anchor_deltas", torch.cat([deltas.flatten() for _, _, deltas in levels]), 0.3)
    boxes = [found for found, _ in oracle.proposals(weights, model, maps, sizes)]
    logits, deltas = oracle.box_predictor(weights, oracle.box_features(weights, model, maps, boxes))
    mean = logits.mean(0)
    gain = 2.0 / (logits - mean).std()
    weights["roi_heads.box_predictor.cls_score.weight"] *= gain  # regions differ less than classes do
    weights["roi_heads.box_predictor.cls_score.bias"] = gain * (
        weights["roi_heads.box_predictor.cls_score.bias"] - mean
    )
    scale("roi_heads.box_predictor.bbox_pred", deltas, 1.0)
    if model.mask:
        masks = oracle.mask_logits(weights, model, maps, [b[:4] for b in boxes])
        scale("roi_heads.mask_head.predictor", masks, 2.0)


def pictures():
    """Smooth pictures: noise has no parts that differ."""
    generator = torch.Generator().manual_seed(7)
    coarse = [torch.rand(1, 3, h // 16, w // 16, generator=generator) * 255 for h, w in SIZES]
    smooth = [torch.nn.functional.interpolate(x, s, mode="bilinear")[0] for x, s in zip(coarse, SIZES)]
    return [(x + 20 * torch.randn(x.shape, generator=generator)).clamp(0, 255).byte() for x in smooth]


def targets():
    """Boxes, classes and polygons of a few objects an image, one of them in two pieces."""
    first = torch.tensor([[10.0, 12.0, 90.0, 100.0], [60.5, 40.25, 210.0, 150.0], [5.0, 90.0, 40.0, 150.0]])
    second = torch.tensor([[20.0, 30.0, 120.0, 180.0], [0.0, 5.0, 33.3, 44.4]])
    out = []
    for boxes, classes in ((first, [3, 79, 0]), (second, [17, 3])):
        polygons = []
        for x1, y1, x2, y2 in boxes.tolist():
            middle = (x1 + x2) / 2
            polygons.append([[x1, y1, x2, y1, middle, y2]])
        polygons[0].append([x1, y2, x2, y2, x2, y1])
        out.append((boxes, torch.tensor(classes), polygons))
    return out


def samples_of(images, wanted):
    samples = []
    for image, output, (boxes, classes, polygons) in zip(images, OUTPUT, wanted):
        size = tuple(image.shape[1:])
        target = Instances(size, boxes=Boxes(boxes), classes=classes, masks=PolygonMasks(polygons, size))
        samples.append(Sample(image=image, original_size=output, target=target))
    return samples


def load(case, tmp_path, images):
    """Weights with Detectron2's names, and detkit's model that has read them from a file."""
    m = case.model
    overrides = [
        *case.overrides,
        *(f"model.proposal_generator.selection.pre_nms_topk_{k}={m.pre_nms_topk}" for k in ("train", "test")),
        *(f"model.proposal_generator.selection.post_nms_topk_{k}={m.post_nms_topk}" for k in ("train", "test")),
        f"model.proposal_generator.sampling.batch_size_per_image={m.rpn_batch}",
        "model.roi_heads.sampling.batch_size_per_image=10000",
        *(() if m.kind == "FPN" else ("model.preprocess.size_divisibility=1",)),  # only FPN pads to multiples
        f"model.roi_heads.box_head.detection.score_thresh={m.score_thresh}",
    ]
    model = build(f"coco/{case.config}.yaml", overrides)
    weights = fill(export_state(model.state_dict(), "detectron2"), m.pixel_std)
    scale_last_layers(weights, m, *oracle.batch_images(m, images))
    torch.save({"model": dict(weights)}, tmp_path / "model_final.pth")
    report = load_weights(model, tmp_path / "model_final.pth")
    assert report.format == "Detectron2"
    assert report.complete, report
    return weights, model


def compare(model, weights, case, samples):
    """One batch through both: each stage from what its own side computed before."""
    m, sizes = case.model, [tuple(s.image.shape[1:]) for s in samples]
    with torch.no_grad():
        batch, _ = oracle.batch_images(m, [s.image for s in samples])
        images = model.preprocess(samples)
        assert torch.equal(images.tensor, batch)
        theirs, ours = oracle.features(weights, m, batch), model.features(images)
        assert set(ours) == set(theirs)
        for name, value in theirs.items():
            assert relative(ours[name], value) < 1e-5, name
        found, wanted = model.proposal_generator.predict(images, ours), oracle.proposals(weights, m, theirs, sizes)
        for own, (boxes, scores) in zip(found, wanted, strict=True):
            pair((own.boxes.tensor, own.objectness), (boxes, scores), score=1e-4)
        expected = oracle.detections(weights, m, theirs, wanted, sizes, [s.original_size for s in samples])
        outputs = [prediction.instances for prediction in model(samples)]
        for own, (boxes, scores, classes, masks) in zip(outputs, expected, strict=True):
            assert len(boxes) >= 10, "nothing is compared"
            assert classes.unique().numel() > 3
            order = pair((own.boxes.tensor, own.scores, own.classes), (boxes, scores, classes))
            assert ("masks" in own) == m.mask
            if m.mask:
                assert masks.any()
                assert_masks(own.masks.tensor, masks[order])


@pytest.mark.parametrize("name", CASES)
def test_family(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DETKIT_DATASETS", "datasets")
    case = {**FAST, **SLOW}[name]
    images, wanted = pictures(), targets()
    weights, model = load(case, tmp_path, images)
    samples = samples_of(images, wanted)
    compare(model, weights, case, samples)
    if name in SLOW:
        compare(model, weights, case, samples[:1])
        compare(model, weights, case, samples[1:])
    compare_losses(model, weights, case, samples, wanted)
    assert set(weights) - weights.read <= {n for n in weights if n.endswith("num_batches_tracked")}


def compare_losses(model, weights, case, samples, wanted):
    """The model without gradients; with them, where norms are folded, from the oracle's own proposals.

    The last bit of a feature decides in some places whether a box suppresses another; the losses would show it.
    """
    if any("SyncBN" in override for override in case.overrides):
        return  # its training takes the batch's statistics, on GPUs
    batch, sizes = oracle.batch_images(case.model, [s.image for s in samples])
    with torch.no_grad():
        maps = oracle.features(weights, case.model, batch)
        expected = oracle.losses(weights, case.model, maps, sizes, wanted)
        found = oracle.proposals(weights, case.model, maps, sizes)
        assert_losses(model.train()(samples).terms, expected)
    images, targets = model.preprocess(samples), [s.target for s in samples]
    features = model.features(images)
    losses = model.proposal_generator.loss(images, features, targets)[1]
    proposals = [Instances(size, boxes=Boxes(boxes)) for size, (boxes, _) in zip(sizes, found)]
    assert_losses((losses | model.roi_heads.loss(features, proposals, targets)).terms, expected)


def test_every_config_for_detectron2s_weights_is_known():
    families = {case.config for case in (*FAST.values(), *SLOW.values())}
    schedules = {re.sub(r"_[13]x|_100ep_LSJ", "", name) for name in families}
    there = {path.stem for path in (CONFIGS / "coco").glob("*.yaml")}
    assert families <= there
    known = {re.sub(r"_[13]x|_100ep_LSJ", "", name) for name in there if re.match("(mask|faster)_rcnn_[RX]_", name)}
    left = known - schedules  # other detectors and backbones have tests of their own
    assert left <= {"faster_rcnn_R_101_C4", "faster_rcnn_R_101_DC5", "mask_rcnn_R_50_FPN_pointrend"}, left
