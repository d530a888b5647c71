"""The reference's network in other sizes, paddings and anchor strides, against an oracle, and with crowds."""

import dataclasses
import re
import zlib

import numpy as np
import pytest
import reference_oracle as oracle
import torch
from parity_helpers import assert_losses, build, empty_record, pair, relative
from reference_oracle import Config

from detkit.checkpoint import load_weights
from detkit.data import to_sample
from detkit.data.augmentations import ResizeAndPad
from detkit.structures import BitMasks, Boxes, Instances

XYXY = [1, 0, 3, 2]
NUM_CLASSES = 4


@dataclasses.dataclass(frozen=True)
class Case:
    """An image of ``size`` (height, width) and how it is padded to that size."""

    size: tuple[int, int]
    padded: tuple[int, int]
    resize: ResizeAndPad
    anchor_stride: int = 1
    depth: int = 50

    @property
    def config(self):
        return Config(
            depth=self.depth,
            rpn_anchor_stride=self.anchor_stride,
            pre_nms_limit=400,
            post_nms_rois=60,
            detection_min_confidence=0.3,
            detection_max_instances=20,
        )


CASES = {
    "square, portrait": Case((150, 101), (192, 192), ResizeAndPad(min_size=128, max_size=192)),
    "square, down": Case((201, 333), (192, 192), ResizeAndPad(min_size=192, max_size=192), anchor_stride=2),
    "pad64, portrait": Case((170, 90), (256, 128), ResizeAndPad(min_size=128, mode="pad64")),
    "pad64, stride 2": Case((130, 205), (192, 256), ResizeAndPad(min_size=64, mode="pad64"), anchor_stride=2),
    "none": Case((128, 192), (128, 192), ResizeAndPad(mode="none")),
    "stride 3": Case((128, 192), (128, 192), ResizeAndPad(mode="none"), anchor_stride=3),
    "R-101": Case((99, 160), (128, 192), ResizeAndPad(min_size=64, mode="pad64"), depth=101),
}
FAST = ("square, portrait", "pad64, stride 2")
MARKED = [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in CASES]


def fill(shapes):
    """Weights by their names, so that activations neither die nor explode."""
    gains = ((r"C1\.0\.weight", 0.0333), (r"bn3\.weight", 0.5), (r"(conv[1234]|deconv|conv_shared)\.weight", 1.4))
    out = {}
    for name, shape in shapes.items():
        x = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        if len(shape) >= 2:
            x /= x[0].numel() ** 0.5
        else:
            x = 1 + 0.1 * x.abs() if re.search(r"running_var|(bn.|\.1)\.weight", name) else 0.05 * x
        for pattern, gain in gains:
            x *= gain if re.search(pattern, name) else 1
        out[name] = x
    return out


@torch.no_grad()
def scale_last_layers(weights, config, image):
    """Scales the last layers until objectness, classes, boxes and masks differ from place to place."""
    padded, maps = tuple(image.shape[1:]), oracle.features(weights, config, image)

    def scale(name, values, std):
        mean = values.mean(0)
        gain = std / (values - mean).std()
        weights[f"{name}.weight"] *= gain
        weights[f"{name}.bias"] = gain * (weights[f"{name}.bias"] - mean.flatten())

    logits, deltas = oracle.rpn(weights, config, maps)
    weights["rpn.conv_class.weight"] *= 2 / logits.std()
    weights["rpn.conv_bbox.weight"] *= 1.5 / deltas.std()
    boxes = oracle.proposals(config, *oracle.rpn(weights, config, maps), padded)
    logits, deltas = oracle.classifier(weights, maps, boxes, padded)
    scale("classifier.linear_class", logits, 2.0)
    scale("classifier.linear_bbox", deltas.flatten(1), 1.0)
    weights["mask.conv5.weight"] *= 1 / oracle.masks(weights, maps, boxes[:8], padded).logit(1e-6).std()


@dataclasses.dataclass
class Setup:
    case: Case
    weights: dict
    model: torch.nn.Module
    sample: object
    padded: tuple[int, int]


@pytest.fixture(params=MARKED, scope="module")
def setup(request):
    """Weights with the reference implementation's names, detkit's model that read them, and the padded image."""
    case = CASES[request.param]
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 3, 9, 11, generator=generator) * 255
    picture = torch.nn.functional.interpolate(coarse, case.size, mode="bilinear")[0].byte().permute(1, 2, 0).numpy()
    sample = to_sample(case.resize(empty_record(picture), np.random.default_rng(0)))
    weights = fill(oracle.shapes(case.depth, NUM_CLASSES + 1))
    scale_last_layers(weights, case.config, sample.image)
    c = case.config
    overrides = [
        f"model.proposal_generator.head.anchor_stride={c.rpn_anchor_stride}",
        *(f"model.proposal_generator.selection.pre_nms_topk_{k}={c.pre_nms_limit}" for k in ("train", "test")),
        *(f"model.proposal_generator.selection.post_nms_topk_{k}={c.post_nms_rois}" for k in ("train", "test")),
        "model.proposal_generator.sampling.batch_size_per_image=1000000",
        "model.roi_heads.sampling.batch_size_per_image=1000000",
        "model.roi_heads.sampling.positive_fraction=0.001",
        f"model.roi_heads.box_head.detection.score_thresh={c.detection_min_confidence}",
        f"model.roi_heads.box_head.detection.max_detections={c.detection_max_instances}",
    ]
    model = build(f"matterport/mask_rcnn_R_{case.depth}_FPN.yaml", overrides, num_classes=NUM_CLASSES)
    report = load_weights(model, weights)
    assert report.exact, report
    return Setup(case, weights, model, sample, tuple(sample.image.shape[1:]))


def test_padded_size_and_valid_region(setup):
    assert setup.padded == setup.case.padded
    if setup.sample.valid_region is None:
        assert setup.case.size == setup.case.padded
        return
    x1, y1, x2, y2 = setup.sample.valid_region
    height, width = setup.padded
    assert (y1, x1) == ((height - (y2 - y1)) // 2, (width - (x2 - x1)) // 2), "not in the middle"
    padding = torch.ones(setup.padded, dtype=torch.bool)
    padding[y1:y2, x1:x2] = False
    assert not setup.sample.image[:, padding].any()
    assert (y2 - y1) / (x2 - x1) == pytest.approx(setup.case.size[0] / setup.case.size[1], rel=0.02)


@torch.no_grad()
def test_prediction(setup):
    w, config, model, padded = setup.weights, setup.case.config, setup.model.eval(), setup.padded
    images = model.preprocess([setup.sample])
    assert images.padded_size == padded
    ours, theirs = model.features(images), oracle.features(w, config, setup.sample.image)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert relative(ours[name], value) < 1e-5, name

    logits, deltas = oracle.rpn(w, config, theirs)
    maps = model.proposal_generator.head([ours[name] for name in model.proposal_generator.in_features])
    flat = torch.cat([x[0].permute(1, 2, 0).flatten() for x in maps[0]])
    assert relative(flat, logits[:, 1] - logits[:, 0]) < 1e-5
    anchors = Boxes.cat(model.proposal_generator.anchor_generator(maps[0], padded)).tensor
    torch.testing.assert_close(anchors[:, XYXY], oracle.anchors(config, padded))

    found = model.proposal_generator.predict(images, ours)[0]
    wanted = oracle.proposals(config, logits, deltas, padded)
    pixels = (wanted * oracle.scale_of(padded))[:, XYXY]
    nothing = torch.zeros(len(pixels))
    pair((found.boxes.tensor, nothing), (pixels, nothing))
    assert (found.boxes.tensor >= 0).all()
    assert (found.boxes.tensor <= torch.tensor([padded[1], padded[0]] * 2)).all()

    scores, moves = oracle.classifier(w, theirs, wanted, padded)
    region = setup.sample.info.valid_region_in(padded)
    boxes, classes, scores = oracle.refine_detections(
        config, wanted, scores.softmax(1), moves, np.array(region)[XYXY].tolist(), padded
    )
    assert len(boxes) >= 5, "nothing is compared"
    assert classes.unique().numel() > 1
    detections = model.roi_heads.predict(ours, [found])[0]
    parts = (detections.boxes.tensor, detections.scores, detections.classes + 1)
    order = pair(parts, (boxes[:, XYXY], scores, classes))
    small = oracle.masks(w, theirs, boxes / oracle.scale_of(padded), padded)[torch.arange(len(boxes)), classes]
    assert (detections.mask_probs - small[order]).abs().max() < 1e-4
    assert (detections.boxes.tensor[:, :2] >= torch.tensor(region[:2])).all()
    assert (detections.boxes.tensor[:, 2:] <= torch.tensor(region[2:])).all()

    final = model([setup.sample])[0].instances
    in_file = boxes[:, XYXY] - torch.tensor(region[:2] * 2)
    ratio = torch.tensor([s / (b - a) for s, a, b in zip(setup.case.size[::-1], region[:2], region[2:])] * 2)
    solid = ((in_file[:, 2:] - in_file[:, :2]) > 0).all(1)
    pair(
        (final.boxes.tensor, final.scores, final.classes + 1), ((in_file * ratio)[solid], scores[solid], classes[solid])
    )
    assert final.masks.tensor.shape[1:] == setup.case.size


def truth(setup, crowds):
    """Three objects, one of them where a proposal is, and crowds over a corner."""
    w, config, padded = setup.weights, setup.case.config, setup.padded
    maps = oracle.features(w, config, setup.sample.image)
    found = oracle.proposals(config, *oracle.rpn(w, config, maps), padded) * oracle.scale_of(padded)
    sides = found[:, 2:] - found[:, :2]
    likely = found[(sides > 20).all(1)][0]
    gt = torch.stack([likely, torch.tensor([11.3, 7.1, 60.2, 71.9]), torch.tensor([50.6, 40.2, 111.7, 90.4])])
    masks = torch.zeros(len(gt), *padded, dtype=torch.bool)
    for mask, (y1, x1, y2, x2) in zip(masks, gt.round().int().tolist()):
        mask[y1:y2, x1:x2] = True
        mask[y1 : (y1 + y2) // 2, x1 : (x1 + x2) // 2] = False
    crowd = torch.tensor([[padded[0] - 60.0, 0.0, padded[0], 50.0], [0.0, padded[1] - 45.0, 40.0, padded[1] * 1.0]])
    return gt, torch.tensor([1, 4, 2]), masks, crowd if crowds else torch.zeros(0, 4)


def sample_with(setup, gt, classes, masks, crowds):
    """The sample with its objects, and crowds as rows that are flagged."""
    rows = torch.cat([gt, crowds])
    flags = torch.arange(len(rows)) >= len(gt)
    empty = torch.zeros(len(crowds), *setup.padded, dtype=torch.bool)
    target = Instances(
        setup.padded,
        boxes=Boxes(rows[:, XYXY]),
        classes=torch.cat([classes - 1, torch.zeros(len(crowds), dtype=torch.long)]),
        masks=BitMasks(torch.cat([masks, empty])),
        crowd=flags,
    )
    return dataclasses.replace(setup.sample, target=target)


@pytest.mark.parametrize("crowds", [False, True], ids=["plain", "crowds"])
def test_losses_and_what_counts(setup, crowds):
    w, config, model, padded = setup.weights, setup.case.config, setup.model.train(), setup.padded
    gt, classes, masks, crowd = truth(setup, crowds)
    sample = sample_with(setup, gt, classes, masks, crowd)
    with torch.no_grad():
        maps = oracle.features(w, config, setup.sample.image)
        logits, deltas = oracle.rpn(w, config, maps)
        boxes = oracle.proposals(config, logits, deltas, padded)
        expected = oracle.rpn_losses(config, padded, logits, deltas, gt, crowd)
        expected |= oracle.roi_losses(w, maps, padded, boxes, gt, classes, masks, crowd)
    losses = model([sample])
    assert_losses(losses.terms, expected)

    labels, _ = oracle.rpn_targets(config, padded, gt, crowd)
    positive, negative, _ = oracle.detection_targets(
        boxes, gt / oracle.scale_of(padded), crowd / oracle.scale_of(padded)
    )
    counts = {
        "rpn/num_foreground": (labels == 1).sum(),
        "rpn/num_background": (labels == -1).sum(),
        "roi_heads/num_foreground": len(positive),
        "roi_heads/num_background": len(negative),
    }
    for name, count in counts.items():
        assert float(losses.metrics[name]) == float(count), name
    if crowds:
        assert ((labels == 0).sum() > (oracle.rpn_targets(config, padded, gt, crowd[:0])[0] == 0).sum()).item()


def test_a_batch_is_its_images(setup):
    """The reference implementation takes one image at a time; more at once change nothing."""
    turned = dataclasses.replace(setup.sample, image=setup.sample.image.flip(2))
    model = setup.model.eval()
    both = model([setup.sample, turned])
    for together, alone in zip(both, (model([setup.sample])[0], model([turned])[0])):
        mine, single = ((x.boxes.tensor, x.scores, x.classes) for x in (together.instances, alone.instances))
        pair(mine, single)
