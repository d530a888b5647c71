"""torchvision's RetinaNet and FCOS and detkit's configs for them: the same weights, outputs and losses, both ways."""

import dataclasses

import pytest
import torch
import torchvision
from parity_helpers import IMAGE, assert_losses, build, coco_target, pair, pixels, sample
from torch import nn

from detkit.checkpoint import export_state, load_weights

PORTRAIT = "000000262227.jpg"
CONFIGS = {
    "retinanet_resnet50_fpn": "retinanet_R_50_FPN",
    "retinanet_resnet50_fpn_v2": "retinanet_R_50_FPN_v2",
    "fcos_resnet50_fpn": "fcos_R_50_FPN",
}
RETINANET = {"classification": "loss_cls", "bbox_regression": "loss_box_reg"}
FCOS = {"classification": "loss_fcos_cls", "bbox_regression": "loss_fcos_loc", "bbox_ctrness": "loss_fcos_ctr"}
SCORE_THRESH, SHORT, LONG = 0.1, 160, 320


def empty(name, num_classes=91):
    """torchvision's model, with images made small."""
    return getattr(torchvision.models.detection, name)(
        weights=None,
        weights_backbone=None,
        num_classes=num_classes,
        score_thresh=SCORE_THRESH,
        min_size=SHORT,
        max_size=LONG,
    ).eval()


@torch.no_grad()
def enliven(model, images):
    """Norms with the statistics of real images, and heads whose scores and boxes differ."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = None  # the plain mean over what is seen
        norm.reset_running_stats()
    batch, _ = model.transform([sample(i).image / 255 for i in images])
    level = list(model.backbone(batch.tensors).values())[1]
    for norm in norms:
        norm.eval()
        norm.momentum = 0.1
    scores, boxes = model.head.classification_head, model.head.regression_head
    for layer, tower, std in ((scores.cls_logits, scores.conv, 1.5), (boxes.bbox_reg, boxes.conv, 0.5)):
        layer.weight.mul_(std / layer(tower(level)).std())
    if hasattr(boxes, "bbox_ctrness"):
        boxes.bbox_ctrness.weight.mul_(0.5 / boxes.bbox_ctrness(boxes.conv(level)).std())
        boxes.bbox_reg.bias.fill_(2.0)
    return model


def ours_of(name, state, num_classes=91):
    """detkit's model with these weights."""
    resize = f"model.preprocess.resize={{short_edge: [{SHORT}], max_size: {LONG}}}"
    config, overrides = f"torchvision/{CONFIGS[name]}.yaml", [resize, f"model.head.score_thresh={SCORE_THRESH}"]
    model = build(config, overrides, num_classes=num_classes)
    report = load_weights(model, state)
    assert report.exact, report
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_losses_and_the_way_back(name, shared_data):
    files = (IMAGE, PORTRAIT)
    images = [pixels(shared_data, file) for file in files]
    torch.manual_seed(0)
    theirs = enliven(empty(name), images)
    ours = ours_of(name, theirs.state_dict())
    with torch.no_grad():
        expected, found = theirs([sample(i).image / 255 for i in images]), ours([sample(i) for i in images])
    for e, f in zip(expected, (prediction.instances for prediction in found)):
        assert len(e["scores"].unique()) > 50, "nothing is compared"
        parts = (f.boxes.tensor, f.scores, f.classes)
        assert (pair(parts, (e["boxes"], e["scores"], e["labels"]), limit=len(e["scores"])) < 0).sum() <= 2

    again = empty(name)
    again.load_state_dict(export_state(ours.state_dict(), "torchvision"), strict=True)
    counters = [n for n in again.state_dict() if n.endswith("num_batches_tracked")]
    assert all(n in counters or torch.equal(v, theirs.state_dict()[n]) for n, v in again.state_dict().items())

    samples, targets = [], []
    for file, image in zip(files, images):
        target = coco_target(shared_data, image.shape[:2], file_name=file)
        samples.append(dataclasses.replace(sample(image), target=target))
        targets.append({"boxes": target.boxes.tensor.clone(), "labels": target.classes})
    ours.train()
    theirs.train()
    for norm in (m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d) and not name.endswith("v2")):
        norm.eval()  # detkit's are frozen, as torchvision trains them
    with torch.no_grad():
        wanted, names = theirs([s.image / 255 for s in samples], targets), FCOS if "fcos" in name else RETINANET
        assert_losses(ours(samples).terms, {names[part]: value for part, value in wanted.items()})


def test_class_0_goes_away_where_the_labels_of_91_classes_are_category_ids(shared_data):
    torch.manual_seed(0)
    state = empty("retinanet_resnet50_fpn").state_dict()
    model = ours_of("retinanet_resnet50_fpn", state, num_classes=90)
    theirs = state["head.classification_head.cls_logits.weight"].unflatten(0, (9, 91))
    assert torch.equal(model.head.cls_score.weight.unflatten(0, (9, 90)), theirs[:, 1:])
    assert model.class_names[0] == "person"
    assert len(model.class_names) == 90


def test_names_of_before_torchvision_013():
    state = empty("retinanet_resnet50_fpn", num_classes=3).state_dict()
    old = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "head" and parts[2] == "conv":
            name = ".".join([*parts[:3], str(2 * int(parts[3])), parts[-1]])
        if name.startswith("backbone.fpn.") and "extra" not in name:
            name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        old[name] = value
    assert "head.regression_head.conv.6.bias" in old
    new, same = ours_of("retinanet_resnet50_fpn", state, 3), ours_of("retinanet_resnet50_fpn", old, 3)
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in new.state_dict().items())
