"""torchvision's detectors and detkit's configs for them: the same weights, the same outputs and losses, both ways."""

import dataclasses

import pytest
import torch
import torchvision
from parity_helpers import IMAGE, assert_losses, assert_masks, build, coco_target, pair, pixels, sample
from torch import nn

from detkit.checkpoint import export_state, load_weights
from detkit.structures import BitMasks

CONFIGS = {
    "fasterrcnn_resnet50_fpn": "faster_rcnn_R_50_FPN",
    "fasterrcnn_resnet50_fpn_v2": "faster_rcnn_R_50_FPN_v2",
    "maskrcnn_resnet50_fpn": "mask_rcnn_R_50_FPN",
    "maskrcnn_resnet50_fpn_v2": "mask_rcnn_R_50_FPN_v2",
    "fasterrcnn_mobilenet_v3_large_fpn": "faster_rcnn_mobilenet_v3_large_FPN",
    "fasterrcnn_mobilenet_v3_large_320_fpn": "faster_rcnn_mobilenet_v3_large_320_FPN",
}
SCORE_THRESH = 0.03
LIMIT = 100
"""Detections an image."""
PORTRAIT = "000000262227.jpg"
LOSSES = {
    "loss_objectness": "loss_rpn_cls",
    "loss_rpn_box_reg": "loss_rpn_loc",
    "loss_classifier": "loss_cls",
    "loss_box_reg": "loss_box_reg",
    "loss_mask": "loss_mask",
}


@pytest.fixture(scope="module")
def images(shared_data):
    """A landscape, a portrait, and a small one of odd sides."""
    landscape, portrait = pixels(shared_data), pixels(shared_data, PORTRAIT)
    assert landscape.shape[0] < landscape.shape[1]
    assert portrait.shape[0] > portrait.shape[1]
    return [landscape, portrait, landscape[200:331, 300:397].copy()]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The side lengths that images are resized to (the 320 model has its own), and how many proposals there are."""

    short: int
    long: int
    few: bool = False

    def theirs(self, name):
        """torchvision's arguments."""
        chosen = {} if "320" in name else {"min_size": self.short, "max_size": self.long}
        return chosen | ({"rpn_post_nms_top_n_train": 100, "rpn_post_nms_top_n_test": 60} if self.few else {})

    def ours(self, name):
        """detkit's overrides."""
        chosen = [f"model.preprocess.resize.short_edge=[{self.short}]", f"model.preprocess.resize.max_size={self.long}"]
        few = [f"model.proposal_generator.selection.post_nms_topk_{k}={n}" for k, n in (("train", 100), ("test", 60))]
        return ([] if "320" in name else chosen) + (few if self.few else [])


def theirs_empty(name, settings):
    """torchvision's model, whose sampling takes everything."""
    return getattr(torchvision.models.detection, name)(
        weights=None,
        weights_backbone=None,
        box_score_thresh=SCORE_THRESH,
        rpn_batch_size_per_image=1_000_000,
        box_batch_size_per_image=100_000,
        box_positive_fraction=0.5,
        **settings.theirs(name),
    ).eval()


def ours_of(name, state, settings):
    """detkit's model with these weights."""
    everything = (
        f"model.roi_heads.box_head.detection.score_thresh={SCORE_THRESH}",
        "model.proposal_generator.sampling.batch_size_per_image=1000000",
        "model.roi_heads.sampling.batch_size_per_image=100000",
        "model.roi_heads.sampling.positive_fraction=0.5",
    )
    model = build(f"torchvision/{CONFIGS[name]}.yaml", [*everything, *settings.ours(name)], num_classes=90)
    report = load_weights(model, state)
    assert report.exact, report
    return model


@torch.no_grad()
def enliven(model, images):
    """Norms with the statistics of real images, so that nothing dies on the way, and heads whose scores differ."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.6, 1.4)
        nn.init.normal_(norm.bias, std=0.2)
    for norm in norms:
        norm.train()
        norm.momentum = None  # the plain mean over what is seen
        norm.reset_running_stats()
    batch, _ = model.transform([sample(i).image / 255 for i in images])
    maps = model.backbone(batch.tensors)
    regions = [torch.tensor([[0.0, 0.0, w, h], [10.0, 20.0, 60.0, 90.0]]) for h, w in batch.image_sizes]
    pooled = model.roi_heads.box_roi_pool(maps, regions, batch.image_sizes)
    vectors = model.roi_heads.box_head(pooled)
    if model.roi_heads.mask_head is not None:
        model.roi_heads.mask_head(model.roi_heads.mask_roi_pool(maps, regions, batch.image_sizes))
    for norm in norms:
        norm.eval()
        norm.momentum = 0.1
    set_deviation(model.roi_heads.box_predictor.cls_score, vectors, 2.0)
    set_deviation(model.roi_heads.box_predictor.bbox_pred, vectors, 1.0)
    inner = model.rpn.head.conv(list(maps.values())[-2])
    set_deviation(model.rpn.head.cls_logits, inner, 2.0)
    set_deviation(model.rpn.head.bbox_pred, inner, 0.3)
    return model


def set_deviation(layer, x, std):
    """Scales a layer's weights until what it gives deviates that much."""
    layer.weight.mul_(std / layer(x).std())


def predict(model, images, *, theirs):
    """``(boxes, scores, classes)`` and masks or None, an image."""
    found = []
    with torch.no_grad():
        if theirs:
            for f in model([sample(i).image / 255 for i in images]):
                masks = f["masks"][:, 0] >= 0.5 if "masks" in f else None
                found.append(((f["boxes"], f["scores"], f["labels"] - 1), masks))
        else:
            for f in (prediction.instances for prediction in model([sample(i) for i in images])):
                masks = f.masks.tensor if "masks" in f else None
                found.append(((f.boxes.tensor, f.scores, f.classes), masks))
    return found


def assert_same(ours, theirs):
    for (our_parts, our_masks), (parts, masks) in zip(ours, theirs, strict=True):
        assert len(parts[0]) > 3, "nothing is compared"
        assert parts[1].unique().numel() > 0.7 * len(parts[1]), "scores are tied"
        order = pair(our_parts, parts, limit=LIMIT)
        assert (order < 0).sum() <= 2, "more than a tie at the end of the list"
        assert (our_masks is None) == (masks is None)
        if masks is not None:
            assert_masks(our_masks[order >= 0], masks[order[order >= 0]])


def losses_of(ours, theirs, shared_data):
    """Terms of both under the same names, in training mode, on the landscape and the portrait."""
    samples, targets = [], []
    for name in (IMAGE, PORTRAIT):
        seen = sample(pixels(shared_data, name))
        target = coco_target(shared_data, seen.original_size, file_name=name)
        masks = target.masks.bitmaps()
        target = target.with_fields(masks=BitMasks(masks.tensor))
        samples.append(dataclasses.replace(seen, target=target))
        targets.append(
            {
                "boxes": target.boxes.tensor.clone(),
                "labels": target.classes + 1,
                "masks": masks.tensor.to(torch.uint8),
            }
        )
    with torch.no_grad():
        expected = theirs([s.image / 255 for s in samples], targets)
    computed = ours(samples).terms
    return computed, {LOSSES[name]: value for name, value in expected.items()}


def train(ours, theirs, name):
    """Training mode; the first models' norms are frozen in detkit, as torchvision trains them."""
    ours.train()
    theirs.train()
    if not name.endswith("v2"):
        for norm in (m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.eval()


SLOW = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_320_fpn")
"""What they are made of, the other models have too."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in CONFIGS])
def test_outputs_losses_and_the_way_back(name, images, shared_data):
    settings = Settings(160, 320, few=True)
    theirs = enliven(theirs_empty(name, settings), images[:2])
    ours = ours_of(name, theirs.state_dict(), settings)
    expected = predict(theirs, images[1:], theirs=True)
    assert_same(predict(ours, images[1:], theirs=False), expected)

    again = theirs_empty(name, settings)
    again.load_state_dict(export_state(ours.state_dict(), "torchvision"), strict=True)
    for (parts, masks), (first, first_masks) in zip(predict(again, images[1:], theirs=True), expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(parts, first))
        assert masks is None or torch.equal(masks, first_masks)

    train(ours, theirs, name)
    assert_losses(*losses_of(ours, theirs, shared_data))


@pytest.mark.slow
@pytest.mark.parametrize(("short", "long"), [(224, 300), (333, 1000), (480, 640)])
@pytest.mark.parametrize("name", [name for name in CONFIGS if "320" not in name])
def test_other_sizes_and_batches(name, short, long, images, shared_data):
    settings = Settings(short, long)
    theirs = enliven(theirs_empty(name, settings), images)
    ours = ours_of(name, theirs.state_dict(), settings)
    for batch in (images[:1], images[1:2], images):
        assert_same(predict(ours, batch, theirs=False), predict(theirs, batch, theirs=True))
    train(ours, theirs, name)
    assert_losses(*losses_of(ours, theirs, shared_data))
