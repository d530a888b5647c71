"""Every registered class keeps its role's contract. A class that registers without a case here fails."""

import inspect
import json
import typing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from panoptic_folder import write_panoptic
from small_folders import make_folder

import detkit.checkpoint
import detkit.doctor
import detkit.engine
import detkit.experiment
from detkit.checkpoint import as_checkpoint
from detkit.config import Recipe, parse
from detkit.config.schema import is_nested, registry_for, schema
from detkit.data.formats import FormatDataset, ImageLabels, open_dataset
from detkit.data.interfaces import Record
from detkit.evaluation.per_image import PerImageEvaluator
from detkit.experiment import Experiment
from detkit.export import form_of
from detkit.export.verify import AP_LIMITS
from detkit.layers import ShapeSpec
from detkit.modeling.anchors import GridAnchorGenerator
from detkit.modeling.box_coder import DeltaBoxCoder
from detkit.modeling.poolers import RoIAlignPooler
from detkit.modeling.roi_heads import Detection
from detkit.registry import Registry, Removed, options, role_of, runtime_arguments
from detkit.structures import BitMasks, Boxes, Instances, Keypoints, Losses, Masks, Prediction

ALL = [(registry.role, name) for registry in Registry.of.values() for name in registry.names()]
PYRAMID = {f"p{i}": ShapeSpec(16, 2**i) for i in (2, 3, 4, 5)}


def registered(role: str) -> list[type]:
    registry = next(r for r in Registry.of.values() if r.role == role)
    return [registry.get(n) for n in registry.names() if registry.get(n).__module__.startswith("detkit.")]


def names(cls: type) -> str:
    return cls.__name__


def features(batch: int = 2, size: int = 64) -> dict[str, torch.Tensor]:
    return {n: torch.randn(batch, s.channels, size // s.stride, size // s.stride) for n, s in PYRAMID.items()}


def target(num: int = 2) -> Instances:
    boxes = torch.tensor([[4.0, 4, 30, 40], [20, 10, 60, 50]])[:num]
    masks = torch.zeros(num, 64, 64, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = True
    return Instances((64, 64), boxes=Boxes(boxes), classes=torch.arange(num), masks=BitMasks(masks))


def matched(num: int = 2) -> Instances:
    t = target(num)
    return Instances((64, 64), boxes=t.boxes, classes=t.classes, gt_boxes=t.boxes, gt_masks=t.masks)


@pytest.mark.parametrize(("role", "name"), ALL)
def test_schema_runtime_arguments_and_docstring(role, name):
    registry = next(r for r in Registry.of.values() if r.role == role)
    cls = registry.get(name)
    assert cls.__name__ == name
    assert runtime_arguments(cls) == runtime_arguments(registry.base)
    hints = typing.get_type_hints(cls.__init__)
    assert set(options(cls)) <= set(hints), "every option is annotated, with a type that is importable"
    doc = "\n".join(inspect.getdoc(base) or "" for base in cls.__mro__ if issubclass(base, registry.base))
    missing = [o for o in options(cls) if f"{o}:" not in doc and f"{o}, " not in doc and f" {o} " not in doc]
    assert not missing, "every option is explained under Args:"
    if all(p.default is not p.empty for p in options(cls).values()):
        assert parse({"name": name}, registry.base).cls is cls


def classes_at(want: object) -> set[type]:
    """The classes of which an object of the annotation ``want`` may be."""
    found = {want} if is_nested(want) else set()
    if isinstance(want, type) and registry_for(want) is not None:
        found |= {want, *(cls for _, cls in registry_for(want) if issubclass(cls, want))}
    elif typing.get_origin(want) is Recipe and registry_for(typing.get_args(want)[0]) is None:
        found |= {*typing.get_args(want)}
    return found.union(*(classes_at(arm) for arm in typing.get_args(want)))


def with_nested(*classes: type) -> set[type]:
    """``classes`` and all that stand in their signatures."""
    found: set[type] = set()
    while classes:
        found |= {*classes}
        wants = [option.want for cls in classes for option in schema(cls).options.values()]
        classes = tuple({cls for want in wants for cls in classes_at(want)} - found)
    return found


@pytest.mark.parametrize("cls", sorted(with_nested(Experiment), key=names), ids=names)
def test_every_earlier_option_leads_to_one_of_today(cls):
    for old, path in schema(cls).renamed.items():
        classes = {cls}
        for key in path.split(".") if isinstance(path, str) else ():
            wants = [schema(c).options[key].want for c in classes if key in schema(c).options]
            assert wants, f"{old}: there is no {path}"
            classes = {c for want in wants for c in classes_at(want)}
        if isinstance(path, Removed) and path.subclass is not None:
            today = schema(role_of(cls).get(path.subclass))
            assert old in {*today.options, *today.renamed}


BACKBONES = {
    "TorchvisionBackbone": {"model": "mobilenet_v3_small"},
    "TimmBackbone": {"model": "test_convnext"},
    "ResNet": {"depth": 18},
    "ResNeXt": {"depth": 50},
    "ViT": {"embed_dim": 8, "num_heads": 2},
    "Swin": {"embed_dim": 8, "depths": (1, 2, 1, 1), "num_heads": (1, 1, 2, 2)},
}


@pytest.mark.parametrize("cls", registered("backbone"), ids=names)
def test_backbone(cls):
    backbone = cls(ShapeSpec(3), **BACKBONES.get(cls.__name__, {})).eval()
    with torch.no_grad():
        out = backbone(torch.randn(1, 3, 64, 96))
    assert list(out) == list(backbone.output_shape)
    strides = [s.stride for s in backbone.output_shape.values()]
    assert strides == sorted(strides)
    for name, spec in backbone.output_shape.items():
        assert out[name].shape == (1, spec.channels, 64 // spec.stride, 96 // spec.stride)


@pytest.mark.parametrize("cls", registered("neck"), ids=names)
def test_neck(cls):
    neck = cls({f"c{i}": ShapeSpec(8 * i, 2**i) for i in (2, 3, 4, 5)}, out_channels=16)
    out = neck({f"c{i}": torch.randn(1, 8 * i, 64 // 2**i, 96 // 2**i) for i in (2, 3, 4, 5)})
    assert list(out) == list(neck.output_shape)
    for name, spec in neck.output_shape.items():
        assert out[name].shape == (1, 16, -(-64 // spec.stride), -(-96 // spec.stride))


@pytest.mark.parametrize("cls", registered("top block"), ids=names)
def test_top_block(cls):
    shapes = {"c4": ShapeSpec(8, 16), "c5": ShapeSpec(8, 32)}
    neck = detkit.modeling.necks.FPN(shapes, out_channels=16, top_block=partial(cls))
    out = neck({"c4": torch.randn(1, 8, 16, 16), "c5": torch.randn(1, 8, 8, 8)})
    assert len(out) > 2
    assert list(out) == list(neck.output_shape)


@pytest.mark.parametrize("cls", registered("anchor generator"), ids=names)
def test_anchor_generator(cls):
    sizes = {"sizes": ((16.0,), (32.0,))} if "sizes" in options(cls) else {}
    generator = cls([ShapeSpec(4, 8), ShapeSpec(4, 16)], **sizes)
    maps = [torch.zeros(1, 4, 6, 5), torch.zeros(1, 4, 3, 3)]
    assert [len(a) for a in generator(maps, (48, 40))] == [
        n * m.shape[2] * m.shape[3] for n, m in zip(generator.num_anchors, maps)
    ]


@pytest.mark.parametrize("cls", registered("RPN head"), ids=names)
def test_rpn_head(cls):
    objectness, deltas = cls(16, 3)([torch.randn(2, 16, 8, 8), torch.randn(2, 16, 4, 4)])
    assert [tuple(o.shape) for o in objectness] == [(2, 3, 8, 8), (2, 3, 4, 4)]
    assert [tuple(d.shape) for d in deltas] == [(2, 12, 8, 8), (2, 12, 4, 4)]


@pytest.mark.parametrize("cls", registered("norm"), ids=names)
def test_norm(cls):
    norm, x = cls(6), torch.randn(2, 6, 5, 7, requires_grad=True)
    assert norm(x).shape == x.shape
    norm(x).square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert {"weight", "bias"} <= set(norm.state_dict())


@pytest.mark.parametrize("cls", registered("box coder"), ids=names)
def test_box_coder(cls):
    reference = torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 30]])
    boxes = reference + torch.tensor([[1.0, 2, 3, 4]])
    deltas = cls().encode(reference, boxes)
    torch.testing.assert_close(cls().decode(reference, deltas), boxes)
    assert cls().decode(reference, deltas.repeat(1, 3)).shape == (2, 12)
    assert cls().decode(reference[:0], deltas[:0]).shape == (0, 4)


@pytest.mark.parametrize("cls", registered("box loss"), ids=names)
def test_box_loss(cls):
    loss, coder = cls(), DeltaBoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    reference = torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 30]])
    gt = reference + torch.tensor([[1.0, 2, 3, 4]])
    right = coder.encode(reference, gt)
    torch.testing.assert_close(loss(coder, right, reference, gt), torch.zeros(2), atol=1e-4, rtol=0)
    wrong = torch.zeros(2, 4, requires_grad=True)
    each = loss(coder, wrong, reference, gt)
    assert each.shape == (2,)
    assert (each > 0.1).all()
    each.sum().backward()
    assert wrong.grad.abs().sum() > 0
    assert loss(coder, right[:0], reference[:0], gt[:0]).shape == (0,)
    assert loss.normaliser(torch.tensor(2), torch.tensor(9)) in (2, 9)


@pytest.mark.parametrize("cls", registered("proposal generator"), ids=names)
def test_proposal_generator(cls):
    rpn = cls(
        PYRAMID,
        head=detkit.modeling.proposals.ConvRPNHead,
        anchor_generator=partial(GridAnchorGenerator, sizes=((16.0,), (32.0,), (48.0,), (64.0,))),
    )
    images = detkit.structures.ImageList(torch.zeros(2, 3, 64, 64), [(64, 64), (50, 60)])
    proposals, losses = rpn.loss(images, features(), [target(), target(0)])
    assert isinstance(losses, Losses)
    losses.total().backward()
    for found in (proposals, rpn.predict(images, features())):
        assert [p.image_size for p in found] == images.image_sizes
        for p in found:
            assert {"boxes", "objectness"} <= set(p.fields)
            assert not p.boxes.requires_grad
            assert (p.objectness.sigmoid().diff() <= 0).all()
            assert (p.boxes.tensor == p.boxes.clip(images.padded_size).tensor).all()


@pytest.mark.parametrize("cls", registered("dense head"), ids=names)
def test_dense_head(cls):
    generator = detkit.modeling.anchors.CellAnchorGenerator
    head = cls(PYRAMID, 3, anchor_generator=generator, num_conv=1, score_thresh=0.0, max_detections=7)
    images = detkit.structures.ImageList(torch.zeros(2, 3, 64, 64), [(64, 64), (50, 60)])
    losses = head.loss(images, features(), [target(), target(0)])
    assert all(v.ndim == 0 and not v.requires_grad for v in (*losses.metrics.values(), *losses.normalisers.values()))
    losses.total().backward()
    assert all(p.grad is not None for p in head.parameters())
    nothing = head.loss(images, features(), [target(0), target(0)])
    assert torch.isfinite(nothing.total())
    nothing.total().backward()
    found = head.predict(images, features())
    assert [f.image_size for f in found] == images.image_sizes
    for f in found:
        assert {"boxes", "scores", "classes"} == set(f.fields)
        assert not f.boxes.requires_grad
        assert (len(f), f.classes.dtype) == (7, torch.int64)
        assert (f.scores.diff() <= 0).all()
        assert ((f.scores >= 0) & (f.scores <= 1)).all()
        assert ((f.classes >= 0) & (f.classes < 3)).all()


@pytest.mark.parametrize("cls", registered("assigner"), ids=names)
def test_assigner(cls):
    generator = detkit.modeling.anchors.CellAnchorGenerator([*PYRAMID.values()])
    anchors = generator([*features().values()], (64, 64))
    rows, labels = cls()(anchors, target())
    assert rows.shape == labels.shape == (sum(map(len, anchors)),)
    assert (rows.dtype, labels.dtype) == (torch.int64, torch.int8)
    assert set(labels.tolist()) <= {-1, 0, 1}
    assert set(rows[labels == 1].tolist()) == {0, 1}, "each object is learned"
    assert (labels == 0).any()
    assert not cls()(anchors, target(0))[1].any()


@pytest.mark.parametrize("cls", registered("normaliser"), ids=names)
def test_normaliser(cls):
    normaliser = cls()
    for numbers in ([5, 0, 1], [0, 0]):
        divisors, entry = normaliser(torch.tensor(numbers))
        assert divisors.shape == (len(numbers),)
        assert (divisors > 0).all()
        assert entry is None or torch.equal(divisors, entry.clamp(min=1).expand(len(numbers)))


@pytest.mark.parametrize("cls", registered("RoI pooler"), ids=names)
def test_pooler(cls):
    if cls.__name__ == "RegionFeatures":  # for features that are pooled already
        pooled = torch.randn(3, 16, 7, 7)
        pooler = cls({"res5": ShapeSpec(16, height=7, width=7)})
        assert pooler.output_shape == ShapeSpec(16, height=7, width=7)
        assert torch.equal(pooler({"res5": pooled}, [target().boxes, target(1).boxes]), pooled)
        return
    pooler = cls(PYRAMID, output_size=7)
    out = pooler(features(), [target().boxes, target(1).boxes])
    shape = pooler.output_shape
    assert out.shape == (3, shape.channels, shape.height, shape.width)
    alone = pooler({n: f[1:] for n, f in features().items()}, [target(1).boxes])
    assert alone.shape == (1, 16, 7, 7)


@pytest.mark.parametrize("cls", registered("mask paster"), ids=names)
def test_mask_paster(cls):
    probs, boxes = torch.zeros(2, 28, 28), Boxes([[10.0, 6, 34, 30], [-8, 20, 16, 44]])
    probs[:, 7:21, 7:21] = 1  # an object in the middle half of its box
    masks = cls()(probs, boxes, (40, 50), 0.5)
    assert isinstance(masks, Masks)
    masks = masks.bitmaps()
    assert masks.shape == (2, 40, 50)
    for mask, (left, top, right, bottom) in zip(masks, [(16, 12, 28, 24), (-2, 26, 10, 38)]):
        rows, columns = torch.nonzero(mask, as_tuple=True)
        edges = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (edges - torch.tensor([left, top, right, bottom]).clamp(min=0)).abs().max() <= 1
    outside = Boxes([[60.0, 10, 90, 30], [-30, -30, -5, -5]])
    assert not cls()(torch.ones(2, 28, 28), outside, (40, 50), 0.5).nonempty().any()
    assert cls()(torch.zeros(0, 28, 28), Boxes([]), (40, 50), 0.5).bitmaps().shape == (0, 40, 50)


@pytest.mark.parametrize("cls", registered("class loss"), ids=names)
def test_class_loss(cls):
    loss = cls(3)
    logits, classes = torch.randn(6, loss.num_logits), torch.tensor([0, 2, 1, 3, 3, -1])
    own = logits.clone().requires_grad_()
    parts = loss(own, classes)
    assert all(part.ndim == 0 and part > 0 for part in parts.values())
    sum(parts.values()).backward()
    assert (own.grad[:5] != 0).any(dim=1).all()
    assert not own.grad[5].any(), "an ignored row learns nothing"
    assert all(loss.normaliser(part, torch.tensor(3), torch.tensor(5)) in (3, 5) for part in parts)
    scores = loss.scores(logits)
    assert scores.shape in ((6, 3), (6, 4))
    assert ((scores >= 0) & (scores <= 1)).all()
    sure = torch.full((3, loss.num_logits), -20.0)
    sure[:, :3].fill_diagonal_(20.0)
    if loss.num_logits == 5:  # an object, and not background
        sure[:, 3] = 20.0
    assert all(part < 1e-3 for part in loss(sure, torch.arange(3)).values())
    assert loss.scores(sure)[:, :3].argmax(dim=1).tolist() == [0, 1, 2]
    assert not sum(loss(logits[:0], classes[:0]).values())
    assert torch.isfinite(sum(loss(logits, torch.full((6,), 3)).values())), "no foreground"


@pytest.mark.parametrize("cls", registered("suppression"), ids=names)
def test_suppression(cls):
    nms = cls()
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 70]])
    scores, classes = torch.tensor([0.6, 0.9, 0.5, 0.8]), torch.tensor([0, 0, 1, 0])
    rows, kept = nms(boxes, scores, classes, 0.5, 100)
    assert rows[:3].tolist() == [1, 3, 2], "the best of a class, and other classes, stay as they are"
    assert torch.equal(kept[:3], scores[rows[:3]])
    assert (kept[3:] < 0.6).all()
    assert (kept.diff() <= 0).all()
    none, of_none = nms(boxes[:0], scores[:0], classes[:0], 0.5, 100)
    assert (len(none), none.dtype, len(of_none)) == (0, torch.int64, 0)
    _, of_equal = nms(boxes[:1].repeat(3, 1), torch.full((3,), 0.7), torch.zeros(3, dtype=torch.long), 0.5, 100)
    assert torch.isfinite(of_equal).all()
    assert (of_equal[:1] == 0.7).all()
    assert (of_equal[1:] < 0.3).all()


@pytest.mark.parametrize("cls", registered("box head"), ids=names)
def test_box_head(cls):
    width = {"fc_dims": (16,)} if "fc_dims" in options(cls) else {"conv_dim": 16}
    head = cls(
        PYRAMID, 3, pooler=partial(RoIAlignPooler, output_size=7), detection=Detection(score_thresh=0.0), **width
    )
    losses = head.loss(features(), [matched(), matched(1)])
    losses.total().backward()
    before = [target(), target(0)]
    refined = head.boxes(head.predictions(features(), [t.boxes for t in before]), before)
    assert [len(boxes) for boxes in refined] == [len(t) for t in before]
    assert not any(boxes.requires_grad for boxes in refined)
    out = head.predict(features(), before)
    for o in out:
        assert {"boxes", "scores", "classes"} == set(o.fields)
        assert ((o.scores >= 0) & (o.scores <= 1)).all()
        assert ((o.classes >= 0) & (o.classes < 3)).all()
    assert len(out[1]) == 0
    assert "scores" not in before[0], "predictions are new instances"


@pytest.mark.parametrize("cls", registered("mask head"), ids=names)
def test_mask_head(cls):
    head = cls(PYRAMID, 3, pooler=partial(RoIAlignPooler, output_size=14))
    head.loss(features(), [matched(), matched(0)]).total().backward()
    missing = [n for n, p in head.named_parameters() if p.grad is None]
    assert not missing
    out = head.predict(features(), [target(), target(0)])
    assert out[0].mask_probs.shape[0] == 2
    assert ((out[0].mask_probs >= 0) & (out[0].mask_probs <= 1)).all()
    assert len(out[1].mask_probs) == 0


@pytest.mark.parametrize("cls", registered("keypoint head"), ids=names)
def test_keypoint_head(cls):
    head = cls(PYRAMID, 3, pooler=partial(RoIAlignPooler, output_size=14), num_conv=2, conv_dim=8)
    points = Keypoints(torch.tensor([[20.0, 25, 2]]).expand(2, len(head.keypoints.names), 3))
    proposals = [matched().with_fields(gt_keypoints=points), matched(0)]
    head.loss(features(), proposals).total().backward()
    assert all(p.grad is not None for p in head.parameters())
    before = [target(), target(0)]
    out = head.predict(features(), before)
    assert [found.keypoints.shape for found in out] == [(n, len(head.keypoints.names), 3) for n in (2, 0)]
    assert out[0].keypoints.flip_pairs == head.keypoints.flip_pairs
    x, y = out[0].keypoints.tensor[..., 0], out[0].keypoints.tensor[..., 1]
    x1, y1, x2, y2 = before[0].boxes.tensor.T[..., None]
    assert ((x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)).all()
    assert "keypoints" not in before[0], "predictions are new instances"


@pytest.mark.parametrize("cls", registered("semantic head"), ids=names)
def test_semantic_head(cls):
    head, classes = cls(PYRAMID, 4), torch.randint(-1, 4, (2, 64, 64))
    losses = head.loss(features(), classes)
    losses.total().backward()
    assert all(p.grad is not None for p in head.parameters())
    assert losses.normalisers.keys() == losses.terms.keys()
    assert head.loss(features(), torch.full_like(classes, -1)).total() == 0, "nothing known, nothing learned"
    logits = head.eval().predict(features(3))
    assert logits.shape[:2] == (3, 4)
    assert 64 % logits.shape[-1] == 0
    assert logits.shape[-1] == logits.shape[-2]


@pytest.mark.parametrize("cls", registered("input resize"), ids=names)
def test_input_resize(cls):
    resize, t = cls(), target()
    image, resized = resize(torch.randn(3, 64, 64), t, training=True)
    assert resized.image_size == tuple(image.shape[-2:])
    scale = image.shape[-1] / 64
    torch.testing.assert_close(resized.boxes.tensor, t.boxes.tensor * scale)
    assert resized.masks.image_size == resized.image_size
    torch.testing.assert_close(resized.masks.areas(), t.masks.areas() * scale**2, rtol=0.05, atol=0)
    assert torch.equal(t.boxes, target().boxes), "the argument is left as it was"
    _, nothing = resize(torch.randn(3, 64, 64), Instances((64, 64)), training=False)
    assert nothing.image_size == resized.image_size


@pytest.mark.parametrize("cls", registered("RoI heads"), ids=names)
def test_roi_heads(cls):
    pooler = partial(RoIAlignPooler, output_size=7)
    own = {"pooler": pooler} if "pooler" in options(cls) else {}
    pooler = partial(detkit.modeling.poolers.RegionFeatures) if own else pooler
    heads = cls(
        PYRAMID,
        3,
        box_head=partial(detkit.modeling.roi_heads.FastRCNNConvFCHead, pooler=pooler, fc_dims=(16,)),
        mask_head=partial(detkit.modeling.roi_heads.ConvUpsampleMaskHead, pooler=pooler, num_conv=1, conv_dim=8),
        **own,
    )
    proposals = [Instances((64, 64), boxes=target().boxes, objectness=torch.zeros(2)) for _ in range(2)]
    losses = heads.loss(features(), proposals, [target(), target(0)])
    assert {"loss_cls", "loss_box_reg", "loss_mask"} == {name.split("_stage")[0] for name in losses.terms}
    assert all(v.ndim == 0 and not v.requires_grad for v in losses.metrics.values())
    losses.total().backward()
    assert all(p.grad is not None for p in heads.parameters())


def record(height: int = 60, width: int = 80) -> Record:
    t = target()
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[:, :60, :64] = t.masks[:, :height, :64]
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ids = torch.arange(2)
    fields = {"classes": ids, "crowd": ids < 0, "annotation_ids": ids, "masks": BitMasks(masks)}
    return Record(image, 7, "seven.png", (height, width), Instances((height, width), boxes=t.boxes, **fields))


AUGMENTATIONS = {
    "Mosaic": {"size": (96, 128)},
    "OneOf": {"choices": ((detkit.data.augmentations.RandomFlip(),), ())},
    "RandomCrop": {"size": (0.5, 0.5)},
    "Resize": {"size": (40, 100)},
    "ResizeAndPad": {"min_size": 70, "max_size": 128},
    "TorchvisionV2": {"transform": "RandomAffine", "options": {"degrees": 30, "shear": 15, "scale": [0.7, 1.2]}},
}


class Angle:
    """A user's own field: the direction in which each object points, in radians, clockwise from x."""

    def __init__(self, radians):
        self.radians = radians

    def __len__(self):
        return len(self.radians)

    def __getitem__(self, rows):
        return Angle(self.radians[rows])

    def transform(self, transform):
        direction = torch.stack([self.radians.cos(), self.radians.sin()])
        x, y = torch.from_numpy(transform.matrix[:2, :2]) @ direction
        return Angle(torch.atan2(y, x))

    @staticmethod
    def cat(parts):
        return Angle(torch.cat([part.radians for part in parts]))


def pointing(before: Record, seed: int) -> Record:
    """The record with an angle, and with two keypoints on each object that lie in that direction."""
    angle = Angle(torch.rand(len(before.objects), generator=torch.Generator().manual_seed(seed)).double() * 6)
    centre = (before.objects.boxes[:, :2] + before.objects.boxes[:, 2:]) / 2
    ahead = centre + torch.stack([angle.radians.cos(), angle.radians.sin()], 1) * 5
    points = torch.nn.functional.pad(torch.stack([centre.double(), ahead], 1), (0, 1), value=2.0)
    return before.with_objects(before.objects.with_fields(angle=angle, keypoints=Keypoints(points)))


@pytest.mark.parametrize("cls", registered("augmentation"), ids=names)
def test_augmentation(cls):
    cls = partial(cls, **AUGMENTATIONS.get(cls.__name__, {}))
    before = record()
    kept = before.image.copy()
    for seed in range(8):
        others = [record(60, 70 + n) for n in range(cls().num_others)]
        after = cls()(before, np.random.default_rng(seed), others)
        again = cls()(before, np.random.default_rng(seed), others)
        assert np.array_equal(after.image, again.image), "all randomness comes from rng"
        assert after.image.dtype == np.uint8
        assert after.objects.masks.image_size == after.objects.image_size == after.size
        assert after.original_size == (60, 80)
        if len(after.objects):
            tight = after.objects.masks.boxes() - after.objects.boxes
            assert tight.abs().max() <= 1.5, "boxes and masks stay in register"
    assert np.array_equal(before.image, kept), "the argument is left as it was"


@pytest.mark.parametrize("cls", registered("augmentation"), ids=names)
def test_a_field_of_a_users_own_goes_through_every_augmentation(cls):
    augment = cls(**AUGMENTATIONS.get(cls.__name__, {}))
    seen = 0
    for seed in range(8):
        others = [pointing(record(60, 70 + n), seed + n) for n in range(augment.num_others)]
        objects = augment(pointing(record(), seed), np.random.default_rng(seed), others).objects
        both = objects.keypoints.visible().all(1)
        x, y = (objects.keypoints.tensor[:, 1, :2] - objects.keypoints.tensor[:, 0, :2]).double().T
        turned = torch.atan2(y, x) - objects.angle.radians
        assert torch.allclose(turned[both].cos(), torch.ones(int(both.sum())).double(), atol=1e-3)
        assert len(objects.angle) == len(objects.boxes)
        seen += int(both.sum())
    assert seen >= 4


@pytest.mark.parametrize("cls", registered("sampler"), ids=names)
def test_sampler(cls):
    dataset = detkit.data.Shapes(num_images=10, image_size=(96, 128))
    stream = iter(cls(dataset, 2, 5, 0, 1))
    seen = [next(stream) for _ in range(10)]
    assert [len(batch) for batch in seen] == [2] * 10
    again = iter(cls(dataset, 2, 5, 0, 1))
    assert seen == [next(again) for _ in range(10)]
    if cls is not detkit.data.ClassBalancedSampler:  # has images of rare classes more often
        assert {epoch for batch in seen for epoch, _ in batch} == {0, 1}
        assert sorted(index for batch in seen for epoch, index in batch if epoch == 0) == list(range(10))
    halves = [iter(cls(dataset, 1, 5, rank, 2)) for rank in range(2)]
    for batch in seen:
        assert sorted(batch) == sorted(next(halves[0]) + next(halves[1])), "ranks share the stream of one process"


@pytest.mark.parametrize("cls", registered("optimizer"), ids=names)
def test_optimizer(cls):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 1, 1))
    model[2].requires_grad_(False)
    optimizer = cls(model, 0.5, lr=0.1)
    assert all(g["lr"] == pytest.approx(0.05) for g in optimizer.param_groups)
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}
    before = model[0].weight.detach().clone()
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, model[0].weight)


@pytest.mark.parametrize("cls", registered("learning-rate schedule"), ids=names)
def test_schedule(cls):
    schedule = cls(warmup_iters=100)
    values = [schedule(step, 3000) for step in range(0, 3000, 10)]
    assert values == [schedule(step, 3000) for step in range(0, 3000, 10)], "a pure function"
    assert max(values) == pytest.approx(1, abs=0.02)
    assert min(values) >= 0
    assert values[0] < 0.1
    assert values[-1] < 0.2
    assert all(0 <= cls()(step, 3) <= 1 for step in range(3)), "also for a run of three steps"


@pytest.mark.parametrize("cls", registered("evaluator"), ids=names)
def test_evaluator(cls):
    of_maps = issubclass(cls, PerImageEvaluator)
    dataset = detkit.data.Shapes(num_images=3, image_size=(96, 96), panoptic=of_maps)
    evaluator = cls(dataset)
    evaluator.reset()
    mapper = detkit.data.Mapper(dataset, (), seed=0, mask_format="bitmap", train=False)
    for batch in detkit.data.test_loader(dataset, mapper, 2, 0, 0, 1):
        truth = [s.target for s in batch]
        found = [t.with_fields(scores=torch.ones(len(t))) for t in truth]
        maps = [dataset.panoptic_map(s.image_id) for s in batch] if of_maps else [None] * len(batch)
        semantic = [None if m is None else m.semantic.long() for m in maps]
        evaluator.update(batch, [Prediction(*parts) for parts in zip(found, semantic, maps)])
    results = evaluator.compute()
    assert {*results} <= {*evaluator.result_names}
    if of_maps:
        assert evaluator.report(results)
        assert next(iter(results.values()))[{"PanopticEvaluator": "PQ", "SemanticEvaluator": "mIoU"}[cls.__name__]] == 1
        return
    if cls.__name__ == "DetectionErrors":
        assert results["errors"]["AP50"] == pytest.approx(1)
    else:
        assert results["box"]["AP"] == pytest.approx(1)
        assert results["mask"]["AP"] == pytest.approx(1)
    assert "AP" in evaluator.report(results)


@pytest.mark.parametrize(
    ("cls", "other", "own"),
    [
        (detkit.data.AutoDataset, FormatDataset, {"format"}),
        (detkit.data.CocoPanoptic, detkit.data.CocoInstances, {"panoptic_json", "panoptic_root"}),
    ],
    ids=["AutoDataset", "CocoPanoptic"],
)
def test_a_dataset_that_lists_the_options_of_another_again_has_them_alike(cls, other, own):
    listed, given = options(cls), options(other)
    assert listed.keys() - given.keys() == own
    assert all(listed[name] == given[name] for name in listed.keys() & given.keys())


@pytest.mark.parametrize("cls", registered("dataset"), ids=names)
def test_dataset(cls, request):
    if cls.__name__ == "CocoInstances":
        root = request.getfixturevalue("shared_data") / "balloon"
        dataset = cls(json_file=str(root / "annotations/instances_val.json"), image_root=str(root / "val"))
    elif cls.__name__ == "CocoResults":
        root = request.getfixturevalue("shared_data") / "balloon"
        images, results = root / "annotations/instances_val.json", request.getfixturevalue("tmp_path") / "results.json"
        rows = [{**a, "score": 0.5} for a in json.loads(images.read_text())["annotations"]]
        results.write_text(json.dumps(rows))
        dataset = cls(json_file=str(results), images_file=str(images), image_root=str(root / "val"))
    elif cls.__name__ == "ConcatDataset":
        dataset = cls(datasets=(partial(detkit.data.Shapes, num_images=2), partial(detkit.data.Shapes, num_images=3)))
    elif cls.__name__ == "TiledDataset":
        dataset = cls(dataset=partial(detkit.data.Shapes, num_images=2), size=80)
    elif cls.__name__ == "CocoPanoptic":
        dataset = cls(**write_panoptic(request.getfixturevalue("tmp_path"))[0])
    elif issubclass(cls, FormatDataset):
        dataset = cls(path=str(make_folder(cls.__name__, request.getfixturevalue("tmp_path"))))
    else:
        dataset = cls(num_images=6)
    one = dataset[0]
    assert one.image.dtype == np.uint8
    assert one.image.shape == (*dataset.image_size(0), 3)
    assert one.original_size == dataset.image_size(0)
    assert one.objects.boxes.dtype == torch.float32
    assert {"boxes", "classes", "crowd", "annotation_ids"} <= one.objects.fields.keys()
    assert (one.objects.classes < len(dataset.class_names)).all()
    assert one.active_classes is None or one.active_classes.shape == (len(dataset.class_names),)
    assert one.valid_region is None
    maps = dataset.maps(0)
    assert one.maps.keys() == maps.keys()
    assert all(values.shape == one.original_size for values in maps.values())
    assert ("semantic" in maps) == bool(dataset.semantic_names)
    coco = dataset.coco()
    assert [c["name"] for c in coco["categories"]] == list(dataset.class_names)
    assert [c["id"] for c in coco["categories"]] == list(dataset.category_ids)
    assert len(coco["images"]) == len(dataset)
    of_one = [a for a in coco["annotations"] if a["image_id"] == one.image_id]
    assert [a["category_id"] for a in of_one] == [dataset.category_ids[c] for c in one.objects.classes]
    assert str(len(dataset)) in dataset.summary()


@pytest.mark.parametrize("cls", registered("hook"), ids=names)
def test_hook(cls, tmp_path):
    model = torch.nn.Linear(1, 1)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, samples):
            return Losses({"loss": self.inner(torch.ones(1, 1)).square().sum()})

    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    batch = [detkit.structures.Sample(torch.zeros(3, 4, 4, dtype=torch.uint8), (4, 4))]
    needed = {
        "WandbWriter": {"mode": "disabled"},
        "FreezeSchedule": {"stages": (detkit.engine.FreezeStage(1.0),)},
        "BestCheckpoint": {"metric": "total_loss", "mode": "min"},
        "EarlyStopping": {"metric": "total_loss", "mode": "min", "patience": 3},
    }
    hook = cls(**needed.get(cls.__name__, {}))
    trainer = detkit.engine.Trainer(
        net,
        optimizer,
        lambda step, n: 1.0,
        lambda start: iter([batch] * 20),
        15,
        hooks=[hook],
        output_dir=tmp_path,
        test_batches=[batch],
    )
    trainer.train()
    assert trainer.finished == 15
    hook.load_state_dict(hook.state_dict())


@pytest.mark.parametrize("cls", registered("label writer"), ids=names)
def test_label_writer(cls, tmp_path):
    image = ImageLabels(
        "a.png", (30, 40), [{"category_id": 3, "bbox": [4, 5, 20, 10]}], pixels=lambda: np.zeros((30, 40, 3), np.uint8)
    )
    with cls(tmp_path / "out", [{"id": 3, "name": "cat"}], predicted=True) as writer:
        writer.add("train", image)
    read = open_dataset(tmp_path / "out")
    assert read.class_names == ("cat",)
    assert read[0].boxes.tensor[0].tolist() == pytest.approx([4, 5, 24, 15])


@pytest.mark.parametrize("cls", registered("program form"), ids=names)
def test_program_form(cls):
    """Programs in it are compared with their models in tests/export."""
    assert form_of(f"model{cls.suffix.upper()}") is cls
    assert cls.reads(cls.suffix)
    assert {*cls.precisions} <= {*AP_LIMITS}
    assert cls.files(Path(f"model{cls.suffix}"))[0].suffix == cls.suffix


@pytest.mark.parametrize("cls", registered("parallelism"), ids=names)
def test_parallelism(cls):
    model = torch.nn.Linear(2, 1)
    assert cls().wrap(model) is model, "nothing to share in one process; tests/engine/test_parallel.py has two"


@pytest.mark.parametrize("cls", registered("importer"), ids=names)
def test_importer(cls):
    importer, state = cls(), {"strange.weight": torch.ones(2)}
    assert not importer.recognises(state)
    found = importer.convert(state, {})
    assert state == {"strange.weight": state["strange.weight"]}, "a file's tensors are not changed"
    assert "strange.weight" in {*found.origin.values(), *found.model, *found.unused}
    assert importer.name not in {kind.name for _, kind in detkit.checkpoint.IMPORTERS if kind is not cls}


def test_every_role_of_detkit_has_a_case():
    cases = {f[len("test_") :] for f in globals() if f.startswith("test_")}
    roles = {
        r.role for r in Registry.of.values() if any(c.__module__.startswith("detkit.") for c in registered(r.role))
    }
    aliases = {
        "RoI pooler": "pooler",
        "RPN head": "rpn_head",
        "RoI heads": "roi_heads",
        "learning-rate schedule": "schedule",
    }
    covered_elsewhere = {"meta-architecture", "preprocessing"}  # tests/modeling/test_rcnn.py, test_preprocess.py
    missing = {r for r in roles - covered_elsewhere if aliases.get(r, r.replace(" ", "_")) not in cases}
    assert not missing


@pytest.fixture(scope="module")
def healthy():
    """An experiment without mistakes."""
    shapes = "{name: Shapes, num_images: 30, image_size: [64, 64], min_scale: 0.3, max_objects: 4, seed: "
    datasets = [f"data.{name}_dataset={shapes}{seed}}}" for seed, name in enumerate(("train", "test"))]
    small = ["model.backbone.width=8", "model.neck.out_channels=16", "model.roi_heads.box_head.fc_dims=[16]"]
    config = Path(__file__).resolve().parents[1] / "configs/quick_start/mask_rcnn_shapes.yaml"
    context = detkit.doctor.CheckContext(detkit.experiment.load_experiment(config, [*datasets, *small])).load()
    context.checkpoint = as_checkpoint(context.model.state_dict())
    return context


@pytest.mark.parametrize("cls", registered("check"), ids=names)
def test_check(cls, healthy):
    assert list(cls()(healthy)) == []
    assert all(getattr(healthy, need) is not None for need in cls.needs)
    assert "Fix:" in (inspect.getdoc(cls) or "")
