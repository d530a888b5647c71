"""What the reference does wrong and detkit must not; ``tests/test_reference_parts.py`` says where each is tested."""

import dataclasses

import numpy as np
import pytest
import reference_oracles as oracles
import torch
from torch import nn

from detkit.modeling.matcher import Matcher
from detkit.structures import Boxes, Instances


@pytest.fixture
def finding(small):
    """The preset's network with heads that find something."""
    for layer, std in ((small.roi_heads.box_head.cls_score, 0.7), (small.proposal_generator.head.class_logits, 0.3)):
        nn.init.normal_(layer.weight, std=std, generator=torch.Generator().manual_seed(1))
    head = small.roi_heads.box_head
    head.detection = dataclasses.replace(head.detection, score_thresh=0.3)
    return small


def test_batches_of_any_size(finding, sample):
    """Batch size 1 only: images of a batch do not see each other, and each learns from its own objects."""
    one, two = sample(seed=1), sample(seed=2, boxes=((60, 70, 90, 120),), classes=(1,))
    alone = [finding.predict([image])[0].instances for image in (one, two)]
    together_in_a_batch = [prediction.instances for prediction in finding.predict([one, two])]
    for apart, together in zip(alone, together_in_a_batch, strict=True):
        assert len(apart) > 3
        assert torch.equal(together.classes, apart.classes)
        assert torch.allclose(together.boxes.tensor, apart.boxes.tensor, atol=1)  # they are rounded
        assert torch.allclose(together.scores, apart.scores, atol=1e-4)
        assert (together.masks.tensor != apart.masks.tensor).float().mean() < 0.01
    rpn = finding.proposal_generator
    anchors = torch.cat([b.tensor for b in rpn.anchor_generator([torch.zeros(1, 1, 32, 32)], (128, 128))])
    for image in (one, two):
        (matches,), _ = rpn.label(Boxes(anchors), [image.target])
        best = [max(range(len(anchors)), key=lambda i: oracles.iou(anchors[i].tolist(), b)) for b in _boxes(image)]
        assert matches[best].tolist() == list(range(len(best)))
    losses = finding.train().loss([one, two])
    losses.total().backward()
    assert {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"} == set(losses.terms)
    assert all(torch.isfinite(term) for term in losses.terms.values())


@pytest.mark.parametrize(("height", "width"), [(64, 192), (192, 64)])
def test_rectangular_images(height, width, finding, sample):
    """SamePad2d with height and width swapped: a picture and its transpose are no squares."""
    features = finding.features(finding.preprocess([sample(height, width, boxes=((5, 5, 50, 60),), classes=(1,))]))
    assert [tuple(f.shape[2:]) for f in features.values()] == [(height >> n, width >> n) for n in range(2, 7)]
    found = finding.predict([sample(height, width, boxes=(), classes=())])[0].instances
    assert found.image_size == (height, width)
    assert len(found) > 0
    assert (found.boxes.tensor[:, 2] <= width).all()
    assert (found.boxes.tensor[:, 3] <= height).all()
    assert (found.boxes.tensor[:, 2 if width > height else 3] > 64).any()


def test_overlaps():
    """x1 = max(b1_x1, b2_x2) in the IoU: labels are those of overlaps that are counted box by box."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 60, (200, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 50, (200, 2))], 1).astype(np.float32)
    truth = boxes[:5] + np.float32([3, -2, 4, 1])
    target = Instances((100, 100), boxes=Boxes(truth), classes=torch.zeros(5, dtype=torch.int64))
    matches, labels = Matcher(0.3, 0.5).match(Boxes(boxes), target)
    overlaps = np.array([[oracles.iou(box, true) for true in truth] for box in boxes])
    best = overlaps.max(1)
    assert labels.tolist() == [1 if v >= 0.5 else 0 if v < 0.3 else -1 for v in best]
    assert matches[best > 0].tolist() == overlaps.argmax(1)[best > 0].tolist()
    assert set(labels.tolist()) == {-1, 0, 1}


def test_ground_truth_is_not_edited(finding, sample):
    """A step leaves the targets as they were, so that the next epoch sees them again."""
    given = sample()
    before = dataclasses.replace(given, target=given.target.with_fields(boxes=Boxes(given.target.boxes.tensor.clone())))
    finding.train().loss([given])
    assert torch.equal(given.target.boxes.tensor, before.target.boxes.tensor)
    assert torch.equal(given.image, before.image)


def _boxes(image):
    return image.target.boxes.tensor.tolist()
