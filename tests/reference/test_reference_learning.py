"""Rows of the reference's table: what the network learns from, and how. Each test is named after its row."""

import dataclasses
import itertools

import numpy as np
import pytest
import reference_oracles as oracles
import torch
from torch.nn import functional as F

from detkit.engine import Hook, Trainer
from detkit.structures import BitMasks, Boxes, CroppedMasks, ImageInfo, Instances, Losses

CROWD = (600.0, 600.0, 900.0, 900.0)


def scattered(count, low, high, side, seed=0):
    """Boxes of that side with corners in low..high."""
    corners = low + (high - low) * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat([corners, corners + side], 1)


def target_of(boxes, classes, crowds=(), size=(1000, 1000)):
    return Instances(
        size,
        info=ImageInfo(crowds=Boxes(torch.tensor(crowds).reshape(-1, 4))),
        boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)),
        classes=torch.tensor(classes, dtype=torch.int64),
    )


def test_detection_target_layer(small):
    """detection target layer: IoU >= 0.5; 200 RoIs, 33 %; background in proportion; no ground truth; crowds spared."""
    heads, truth = small.roi_heads, [[0.0, 0, 100, 100], [150, 0, 250, 100]]
    target = target_of(truth, [1, 2], [CROWD])
    on_objects = torch.tensor(truth).repeat(150, 1) + torch.rand(300, 4) * 8
    apart, on_crowd = scattered(400, 300, 500, 40), scattered(400, 620, 860, 20)
    (sampled,) = heads.sample(heads.label([_proposals(on_objects, apart, on_crowd)], [target]))
    positive = sampled.classes < 3
    assert (int(positive.sum()), int((~positive).sum())) == (66, 134)
    given = {tuple(row) for row in torch.cat([on_objects, apart]).tolist()}
    assert {tuple(row) for row in sampled.boxes.tensor.tolist()} <= given, "no ground truth, and nothing on the crowd"
    assert torch.equal(sampled.classes[positive], target.classes[sampled.gt_index[positive]])
    (few,) = heads.sample(heads.label([_proposals(on_objects[:20], apart, on_crowd)], [target]))
    assert (int((few.classes < 3).sum()), int((few.classes == 3).sum())) == (20, int(20 / 0.33 - 20))
    assert len(heads.sample(heads.label([_proposals(apart, on_crowd)], [target]))[0]) == 0
    # IoU of exactly one half is foreground; of the crowd, 0.001 is enough and a little less is not.
    edge = torch.tensor([[0.0, 0, 100, 50], [0, 0, 100, 49], [600, 600, 630, 603], [600, 600, 629, 603]])
    assert oracles.iou(edge[0].tolist(), truth[0]) == 0.5
    assert oracles.iou(edge[2].tolist(), CROWD) >= 0.001 > oracles.iou(edge[3].tolist(), CROWD)
    _, labels = heads.matcher.match(Boxes(edge), target)
    assert labels.tolist() == [1, 0, -1, 0]


def test_rpn_targets(small):
    """RPN targets: >= 0.7 or a box's best anchor; negative < 0.3; 256, at most half positive; crowds ignored."""
    rpn, target = small.proposal_generator, target_of([[0.0, 0, 100, 100], [300, 0, 320, 20]], [0, 1], [CROWD])
    rows = torch.tensor(
        [
            [0.0, 0, 100, 90],  # the best that the first box has
            [0, 0, 100, 70],  # 0.7
            [0, 0, 100, 69],  # in between
            [0, 0, 100, 31],
            [0, 0, 100, 29],  # below 0.3
            [300, 0, 400, 100],  # 0.04, and the best that the second box has
            [700, 700, 740, 740],  # on the crowd
            [400, 400, 450, 450],
        ]
    )
    (matches,), labels = rpn.label(Boxes(rows), [target])
    assert rpn.sampling.only_sampled(labels, background=0)[0].tolist() == [1, 1, -1, -1, 0, 1, -1, 0]
    assert matches[[1, 5]].tolist() == [0, 1]
    many = torch.cat([torch.tensor([[0.0, 0, 100, 100]]) + torch.rand(300, 1) * 5, scattered(900, 350, 500, 40)])
    target = target[:1]
    labels = rpn.sampling.only_sampled(rpn.label(Boxes(many), [target])[1], background=0)
    assert (int((labels == 1).sum()), int((labels == 0).sum())) == (128, 128)
    labels = rpn.sampling.only_sampled(rpn.label(Boxes(many[270:]), [target])[1], background=0)
    assert int((labels == 1).sum()) <= 31
    assert int((labels >= 0).sum()) == 256


def test_mask_targets(small, shapes):
    """mask targets: cropped and resized to 28 x 28, rounded; mini-masks of 56 x 56 inside their boxes."""
    rng = np.random.default_rng(1)
    bitmap = np.zeros((90, 120), bool)
    bitmap[20:80, 30:100] = rng.random((6, 7)).repeat(10, 0).repeat(10, 1) > 0.4
    bitmaps = BitMasks(torch.from_numpy(bitmap)[None])
    x1, y1, x2, y2 = bitmaps.boxes().tensor[0].tolist()
    box = np.array([x1 - 12.5, y1 + 6, x2 - 20, y2 + 9.25])
    rules = small.roi_heads.mask_head.targets
    cut = bitmaps.crop_and_resize(Boxes(box[None]), 28, rules.method, rules.binary)[0]
    parts = oracles.swap(box) / (90, 120, 90, 120)
    wanted = oracles.crop_and_resize(bitmap.astype(float), parts, 28)
    clear = np.abs(wanted - 0.5) > 1e-4
    assert np.array_equal(cut.numpy()[clear], np.round(wanted).astype(bool)[clear])
    assert 0.2 < cut.float().mean() < 0.8
    mini = CroppedMasks.mini(bitmaps)
    parts = (oracles.swap(box) - (y1, x1, y1, x1)) / ((y2 - y1, x2 - x1) * 2)
    wanted = oracles.crop_and_resize(mini.cells[0].numpy().astype(float), parts, 28)
    cut = mini.crop_and_resize(Boxes(box[None]), 28, rules.method, rules.binary)[0]
    clear = np.abs(wanted - 0.5) > 1e-4
    assert np.array_equal(cut.numpy()[clear], np.round(wanted).astype(bool)[clear])
    target = next(iter(shapes.data.train()))[0].target
    assert isinstance(target.masks, CroppedMasks)
    assert target.masks.size == 56
    ones = BitMasks(torch.ones(1, 90, 120))
    inside = CroppedMasks.mini(ones).crop_and_resize(Boxes([[10.0, 10, 60, 50]]), 28, rules.method, rules.binary)
    assert inside.all(), "a mini-mask of nothing but ones stays so"


def test_losses(small, monkeypatch):
    """losses: cross entropies; smooth L1 (beta 1) as a mean over positives; BCE on the target class; weights of 1."""
    rpn, box_head, mask_head = small.proposal_generator, small.roi_heads.box_head, small.roi_heads.mask_head
    rng, target = np.random.default_rng(2), target_of([[0.0, 0, 100, 100], [300, 0, 380, 90]], [0, 2])
    anchors = torch.cat([torch.tensor([[5.0, 5, 90, 110], [290, 5, 370, 70]]), scattered(30, 400, 500, 30)])
    labels = torch.tensor([1, 1] + [0] * 20 + [-1] * 10)
    matched = torch.tensor([0, 1] + [0] * 30).repeat(2, 1), labels.repeat(2, 1)
    monkeypatch.setattr(rpn, "label", lambda anchors, targets: matched)
    pairs, deltas = torch.randn(2, 32, 2), torch.randn(2, 32, 4)
    found = rpn.losses(Boxes(anchors), pairs[..., 1] - pairs[..., 0], deltas, [target, target]).terms
    scored = F.cross_entropy(pairs.flatten(0, 1), labels.repeat(2).clamp(min=0), reduction="none")
    assert float(found["loss_rpn_cls"]) == pytest.approx(float(scored[labels.repeat(2) >= 0].mean()), rel=1e-5)
    truth = [oracles.refinement(a, b) for a, b in zip(oracles.swap(anchors[:2]), oracles.swap(target.boxes.tensor))]
    moves = oracles.smooth_l1(oracles.swap(deltas[:, :2].numpy()) - np.array(truth))
    assert float(found["loss_rpn_loc"]) == pytest.approx(moves.mean(), rel=1e-5)

    regions = Instances(
        (1000, 1000),
        boxes=Boxes(anchors[:6]),
        classes=torch.tensor([0, 2, 3, 3, 3, 3]),
        gt_boxes=Boxes(target.boxes.tensor[[0, 1, 0, 0, 0, 0]]),
    )
    logits, per_class = torch.randn(6, 4), torch.randn(6, 12)
    monkeypatch.setattr(box_head, "forward", lambda features, boxes: (logits, per_class))
    found = box_head.loss({}, [regions]).terms
    assert float(found["loss_cls"]) == pytest.approx(float(F.cross_entropy(logits, regions.classes)), rel=1e-5)
    own = np.stack([per_class[0, 0:4].numpy(), per_class[1, 8:12].numpy()])
    assert float(found["loss_box_reg"]) == pytest.approx(
        oracles.smooth_l1(oracles.swap(own) - np.array(truth)).mean(), rel=1e-5
    )

    foreground = regions[:2].with_fields(gt_masks=BitMasks(rng.random((2, 1000, 1000)) > 0.5))
    logits = torch.randn(2, 3, 28, 28)
    monkeypatch.setattr(mask_head, "forward", lambda features, boxes: logits)
    wanted = foreground.gt_masks.crop_and_resize(foreground.boxes, 28, "crop_and_resize").double()
    probs = torch.stack([logits[0, 0], logits[1, 2]]).double().sigmoid()
    bce = -(wanted * probs.log() + (1 - wanted) * (1 - probs).log()).mean()
    assert float(mask_head.loss({}, [foreground]).terms["loss_mask"]) == pytest.approx(float(bce), rel=1e-5)


class Watch(Hook):
    """What learns in each step, what moves, and the gradient's norm."""

    def __init__(self):
        super().__init__()
        self.learning, self.moved, self.norms, self.rates = [], [], [], []

    def before_train(self, trainer):
        self.before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}

    def after_step(self, trainer):
        named = dict(trainer.model.named_parameters())
        self.learning.append({n for n, p in named.items() if p.requires_grad})
        self.moved.append({n for n, p in named.items() if not torch.equal(p, self.before[n])})
        self.norms.append(torch.stack([p.grad.norm() for p in named.values() if p.grad is not None]).norm())
        self.rates += [group["lr"] for group in trainer.optimizer.param_groups]
        self.before = {name: p.detach().clone() for name, p in named.items()}


@pytest.mark.parametrize("depth", [50, 101])
def test_training(depth, small, preset, monkeypatch, caplog):
    """training: SGD 0.001, 0.9, 1e-4; norm 5.0; 16 images a step; heads, 4+, all, the rate / 10 in the last stage."""
    exp = preset(depth=depth)
    assert exp.images_per_step == exp.data.batch_size * exp.solver.accumulate == 16
    caplog.set_level("INFO", "detkit")  # batches of nothing cannot be described, as a run in another test would ask
    monkeypatch.setattr(small, "loss", lambda samples: Losses({"sum": sum(p.sum() for p in small.parameters())}))
    optimizer, watch = exp.build_optimizer(small), Watch()
    trainer = Trainer(
        small,
        optimizer,
        exp.build_schedule(),
        itertools.repeat([]),
        8,
        clip_grad_norm=exp.solver.clip_grad_norm,
        accumulate=exp.solver.accumulate,
        loss_mean=exp.solver.loss_mean,
        hooks=[*exp.build_hooks(), watch],
    )
    trainer.train()
    names = {name for name, _ in small.named_parameters()}
    heads = {name for name in names if not name.startswith("backbone")}
    four = heads | {name for name in names if name.startswith(("backbone.res4", "backbone.res5"))}
    assert heads < four < names
    assert watch.learning == [heads] * 2 + [four] * 4 + [names] * 2, "what was frozen learns again"
    assert watch.moved == watch.learning
    assert watch.rates == pytest.approx([0.001] * 6 + [0.0001] * 2)
    assert [float(norm) for norm in watch.norms] == pytest.approx([5.0] * 8, rel=1e-4)
    assert {(g["momentum"], g["weight_decay"]) for g in optimizer.param_groups} == {(0.9, 1e-4)}
    norms = preset("model.backbone.norm=BN", "model.backbone.width=8").build_model(3)
    decays = [g["weight_decay"] for g in exp.build_optimizer(norms).param_groups]
    assert sorted(decays) == [0.0, 1e-4], "norms that learn do not decay"


def test_training_averages(small, preset, sample, monkeypatch):
    """training: gradients are averaged over the batches of a step, not summed."""
    solver = preset().solver
    accumulate, loss_mean = solver.accumulate, solver.loss_mean

    def loss(samples):
        return Losses({"sum": samples[0].image.float().mean() * small.neck.laterals["res2"].weight.sum()})

    monkeypatch.setattr(small, "loss", loss)
    images = [dataclasses.replace(sample(seed=n), target=None) for n in range(accumulate)]
    optimizer = torch.optim.SGD(small.parameters(), lr=0.0)
    options = {"accumulate": accumulate, "loss_mean": loss_mean}
    Trainer(small, optimizer, lambda step, n: 1.0, iter([[i] for i in images]), 1, **options).train()
    wanted = np.mean([image.image.float().mean() for image in images])
    assert (accumulate > 1, loss_mean) == (True, "batch")
    assert small.neck.laterals["res2"].weight.grad.mean() == pytest.approx(wanted, rel=1e-5)


def _proposals(*boxes):
    joined = torch.cat(boxes)
    return Instances((1000, 1000), boxes=Boxes(joined), objectness=torch.zeros(len(joined)))
