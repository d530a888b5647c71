"""Rows of the reference implementation's table: inputs, outputs and pictures. Each test is named after its row."""

import dataclasses
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import reference_oracles as oracles
import torch
from reference_overrides import SHAPES, SMALL
from torch import nn

from detkit.checkpoint import load_weights, read_checkpoint
from detkit.commands import visualize_model
from detkit.data import Dataset, Record, bare_record
from detkit.data.datasets.concat import ConcatDataset
from detkit.data.mapper import Mapper
from detkit.engine import ProgressBar, Trainer
from detkit.evaluation import evaluate
from detkit.experiment import load_experiment
from detkit.modeling.roi_heads import BoxPredictions, Detection
from detkit.structures import Boxes, ImageInfo, ImageList, Instances, Losses, Sample
from detkit.visualization import plot_curves

MEAN = np.array([123.7, 116.8, 103.9], np.float32)


def test_log_and_progress_bar(caplog, capsys):
    """log, progress bar: a bar with time left and losses; shape, least and greatest value of arrays for debugging."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, samples):
            return Losses({"loss_a": self.weight.sum() * 0.25})

    samples = [Sample(torch.tensor([7, 9], dtype=torch.uint8).repeat(3, 2, 2), (2, 4))]
    model = Model()
    with caplog.at_level(logging.DEBUG, logger="detkit"):
        for bar in (True, False):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
            hooks = [ProgressBar(bar=bar)]
            Trainer(model, optimizer, lambda s, n: 1.0, iter([samples] * 4), 4, hooks=hooks, log_period=2).train()
    shown = capsys.readouterr().err
    assert "4/4" in shown
    assert "a 0.25" in shown
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert any("step 2/4  eta 0:00:0" in line and "loss_a 0.25" in line for line in lines)
    (arrays, _) = [r.getMessage() for r in caplog.records if "the first batch" in r.getMessage()]
    (row,) = [line for line in arrays.splitlines() if "0 image" in line and "[3, 2, 4]" in line]
    assert row.split()[-3:] == ["7", "9", "8"]


def test_proposal_layer(small):
    """proposal layer: the best over all levels, deltas, the padded size, one NMS at 0.7 over all levels."""
    generator = small.proposal_generator
    selection = generator.selection
    limits = [selection.pre_nms_topk_train, selection.pre_nms_topk_test]
    assert limits + [selection.post_nms_topk_train, selection.post_nms_topk_test] == [6000, 6000, 2000, 1000]
    generator.selection = dataclasses.replace(selection, pre_nms_topk_test=800)
    rng = torch.Generator().manual_seed(3)
    padded, region = (400, 500), (0, 50, 500, 350)
    images = ImageList(torch.zeros(1, 3, *padded), [padded], [ImageInfo(valid_region=region)])
    counts = [3000, 1000, 300]
    corners = [torch.rand(n, 2, generator=rng) * torch.tensor([480.0, 380]) for n in counts]
    anchors = [torch.cat([c, c + 24 + 40 * torch.rand(len(c), 2, generator=rng)], 1) for c in corners]
    logits = [torch.randn(1, n, generator=rng) + level for level, n in enumerate(counts)]
    deltas = [torch.randn(1, n, 4, generator=rng) * 0.5 for n in counts]
    (found,) = generator.select([Boxes(a) for a in anchors], logits, deltas, images, training=False)
    rows, scores, moves = torch.cat(anchors).tolist(), torch.cat(logits, 1)[0], torch.cat(deltas, 1)[0].tolist()
    best = scores.argsort(descending=True)[:800].tolist()
    assert min(sum(lo <= i < hi for i in best) for lo, hi in ((0, 3000), (3000, 4000), (4000, 4300))) > 50
    moved = [oracles.apply_deltas(oracles.swap(rows[i]), oracles.swap(moves[i])) for i in best]
    clipped = np.array([np.clip(box, 0, padded * 2) for box in moved])
    assert (clipped[:, 0] < region[1]).any()
    clipped = oracles.swap(clipped)
    kept = oracles.greedy_nms(clipped.tolist(), scores[best].numpy(), 0.7)
    assert len(found) == len(kept) < 800
    assert np.allclose(found.boxes.tensor, clipped[kept], atol=1e-2)
    assert torch.equal(found.objectness, scores[best][kept])
    generator.selection = dataclasses.replace(generator.selection, post_nms_topk_test=60)
    (first,) = generator.select([Boxes(a) for a in anchors], logits, deltas, images, training=False)
    assert torch.equal(first.boxes.tensor, found.boxes.tensor[:60])
    generator.selection = selection
    (twice,), (once,) = (
        generator.select([Boxes(a) for a in anchors[:1] * n], logits[:1] * n, deltas[:1] * n, images, training=True)
        for n in (2, 1)
    )
    assert len(twice.boxes.tensor.unique(dim=0)) == len(twice) <= len(once), "levels suppress each other"


@pytest.mark.parametrize(("thresh", "most"), [(0.7, 100), (0.3, 1000)])
def test_detection_layer(thresh, most, small, monkeypatch):
    """detection layer: argmax, that class's deltas, the valid region, rounded, score 0.7, NMS 0.3 a class, best 100."""
    head = small.roi_heads.box_head
    assert head.detection == Detection(0.7, 0.3, 100)
    head.detection = Detection(thresh, 0.3, most)
    rng, region = torch.Generator().manual_seed(4), (30, 20, 370, 290)
    corners = torch.rand(900, 2, generator=rng) * torch.tensor([380.0, 290])
    rows = torch.cat([corners, corners + 20 + 20 * torch.rand(900, 2, generator=rng)], 1)
    rows[1] = rows[0]
    logits, deltas = torch.randn(900, 4, generator=rng) * 3, torch.randn(900, 12, generator=rng) * 0.4
    logits[:2], deltas[:2] = torch.tensor([[9.0, 0, 0, 0], [0, 0, 9, 0]]), 0  # one place, two classes
    rows[:2] = torch.tensor([100.5, 101.5, 140.4, 141.6])
    monkeypatch.setattr(head, "forward", lambda features, boxes: BoxPredictions(logits, deltas))
    regions = Instances((300, 400), info=ImageInfo(valid_region=region), boxes=Boxes(rows))
    (found,) = head.predict({}, [regions])
    probs = logits.softmax(1).numpy()
    boxes, scores, classes = [], [], []
    for box, class_probs, class_deltas in zip(rows.tolist(), probs, deltas.tolist()):
        label = int(class_probs.argmax())
        if label == 3 or class_probs[label] < thresh:
            continue
        own = oracles.swap(class_deltas[4 * label : 4 * label + 4])
        y1, x1, y2, x2 = oracles.apply_deltas(oracles.swap(box), own)
        cut = [np.clip(x1, 30, 370), np.clip(y1, 20, 290), np.clip(x2, 30, 370), np.clip(y2, 20, 290)]
        boxes.append([float(np.round(v)) for v in cut])
        scores.append(class_probs[label])
        classes.append(label)
    kept = []
    for label in range(3):
        own = [i for i, c in enumerate(classes) if c == label]
        kept += [own[k] for k in oracles.greedy_nms([boxes[i] for i in own], [scores[i] for i in own], 0.3)]
    kept = sorted(kept, key=lambda i: -scores[i])
    assert len(kept) > 100
    kept = kept[:most]
    assert found.boxes.tensor.tolist() == [boxes[i] for i in kept]
    assert found.classes.tolist() == [classes[i] for i in kept]
    assert np.allclose(found.scores, [scores[i] for i in kept])
    both = [(c, b) for c, b in zip(found.classes.tolist(), found.boxes.tensor.tolist()) if b == [100, 102, 140, 142]]
    assert sorted(c for c, _ in both) == [0, 2], "a class does not suppress another"


@pytest.mark.parametrize(
    ("size", "inside"),
    [((427, 640), (683, 1024)), ((640, 427), (1024, 683)), ((400, 450), (800, 900)), ((900, 1000), (900, 1000))],
)
def test_input(size, inside, preset, small):
    """input: longest 1024, shortest scaled up to 800, centred padding to a square; less the mean, padding too."""
    exp, (height, width) = preset(), inside
    pixels = np.full((*size, 3), (10, 20, 250), np.uint8)
    record = bare_record(pixels)

    class One(Dataset):
        class_names = ("a", "b", "c")

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return record

    taken = Mapper(One(), [recipe() for recipe in exp.data.test_augmentations], train=False)(0, 0)
    x, y = (1024 - width) // 2, (1024 - height) // 2
    assert taken.valid_region == (x, y, x + width, y + height)
    images = small.preprocess([taken])
    assert (images.tensor.shape, images.valid_region(0)) == ((1, 3, 1024, 1024), taken.valid_region)
    expected = np.broadcast_to(-MEAN[:, None, None], (3, 1024, 1024)).copy()
    expected[:, y : y + height, x : x + width] += np.array([10, 20, 250], np.float32)[:, None, None]
    assert np.allclose(images.tensor[0], expected, atol=1e-4)


def test_input_modes_and_flips(preset, shapes):
    """input: the modes square, pad64 and none; flips in training alone."""
    for mode, wanted in (("square", (128, 128)), ("pad64", (192, 192)), ("none", (150, 130))):
        given = [f"data.test_augmentations[0].mode={mode}", "data.test_dataset.image_size=[150, 130]"]
        low = ["data.test_augmentations[0].min_size=64"]
        (first, *_), *_ = preset(*SMALL, *SHAPES, *given, *low).data.test()
        assert first.image.shape[1:] == wanted, mode
    plain = [record.image for record in (shapes.data.test_set[i] for i in range(4))]
    seen = [sample.image.permute(1, 2, 0).numpy() for batch in shapes.data.test() for sample in batch]
    assert all(np.array_equal(a, b) for a, b in zip(seen, plain, strict=True))
    records = [shapes.data.train_set[i] for i in range(6)]
    known, kinds = {record.image_id: record.image for record in records}, set()
    for batch, _ in zip(shapes.data.train(seed=1), range(12)):
        for sample in batch:
            image, original = sample.image.permute(1, 2, 0).numpy(), known[sample.image_id]
            kinds.add("as it is" if np.array_equal(image, original) else "flipped")
            assert np.array_equal(image, original) or np.array_equal(image, original[:, ::-1])
    assert kinds == {"as it is", "flipped"}


class Labelled(Dataset):
    """One grey image with one object, of the first class."""

    def __init__(self, *class_names):
        super().__init__()
        self.class_names, self.category_ids = class_names, tuple(range(1, len(class_names) + 1))

    def __len__(self):
        return 1

    def __getitem__(self, index):
        one, image = torch.zeros(1, dtype=torch.int64), np.full((60, 100, 3), 128, np.uint8)
        boxes = Boxes([[10, 10, 50, 50]])
        objects = Instances((60, 100), boxes=boxes, classes=one, crowd=one.bool(), annotation_ids=one)
        return Record(image, 17, "grey.png", (60, 100), objects)


def test_image_meta(preset, small, monkeypatch):
    """image_meta: id, original shape, valid region, active classes; unlabelled classes are in no class loss."""
    both = ConcatDataset(datasets=(lambda: Labelled("a", "b"), lambda: Labelled("b", "c")))
    size = [f"data.test_augmentations[0].{side}=128" for side in ("min_size", "max_size")]
    augmentations = [recipe() for recipe in preset(*size).data.test_augmentations]
    samples = [Mapper(both, augmentations)(0, index) for index in (0, 1)]
    assert [s.image_id for s in samples] == ["0-17", "1-17"]
    assert {s.original_size for s in samples} == {(60, 100)}
    assert {s.valid_region for s in samples} == {(0, 25, 128, 102)}
    assert [s.active_classes.tolist() for s in samples] == [[True, True, False], [False, True, True]]
    head, logits = small.roi_heads.box_head, torch.randn(4, 4, requires_grad=True)
    monkeypatch.setattr(head, "forward", lambda features, boxes: (logits, torch.zeros(4, 12)))
    boxes = Boxes(torch.rand(2, 2).repeat(1, 2) + torch.tensor([0.0, 0, 9, 9]))
    regions = [
        Instances((128, 128), info=s.info, boxes=boxes, classes=torch.tensor([k, 3]), gt_boxes=boxes)
        for k, s in enumerate(samples)
    ]
    loss = head.loss({}, regions).terms["loss_cls"]
    loss.backward()
    silent = torch.tensor([[False, False, True, False]] * 2 + [[True, False, False, False]] * 2)
    assert (logits.grad[silent] == 0).all()
    assert (logits.grad[~silent] != 0).all()
    kept = [row[~mute] for row, mute in zip(logits.detach(), silent)]
    wanted = [-kept[n].log_softmax(0)[k] for n, k in enumerate((0, 2, 0, 2))]
    assert float(loss.detach()) == pytest.approx(float(sum(wanted)) / 4, rel=1e-5)


def test_evaluation(preset, small, shared_data, tmp_path):
    """evaluation: the preset's own path over photographs of COCO, from the padded square to box and mask AP."""
    root = shared_data / "coco_mini"
    full = json.loads((root / "annotations/instances_val2017.json").read_text())
    ids = sorted({a["image_id"] for a in full["annotations"] if not a["iscrowd"]})[:4]
    images = [image for image in full["images"] if image["id"] in ids]
    annotations = [a for a in full["annotations"] if a["image_id"] in ids]
    (tmp_path / "few.json").write_text(json.dumps({**full, "images": images, "annotations": annotations}))
    dataset = f"{{name: CocoInstances, json_file: {tmp_path / 'few.json'}, image_root: {root / 'val2017'}}}"
    exp = preset(
        f"data.test_dataset={dataset}",
        *("data.num_workers=0", "data.test_augmentations[0].min_size=400", "data.test_augmentations[0].max_size=512"),
    )
    batches = list(exp.data.test())
    targets = iter([sample.target for batch in batches for sample in batch])

    def perfect(features, proposals):
        """The ground truth, as the heads would give it: in pixels of the padded square, with masks of 28 x 28."""
        target = next(targets)
        probs = target.masks.crop_and_resize(target.boxes, 28, "roi_align", False)
        given = {"boxes": target.boxes, "classes": target.classes, "mask_probs": probs}
        return [Instances(target.image_size, info=proposals[0].info, scores=torch.ones(len(target)), **given)]

    small.roi_heads.predict = perfect
    results = evaluate(small, batches, exp.build_evaluators(), progress=False)
    assert results["box"]["AP"] > 0.95
    assert results["mask"]["AP"] > 0.65


@pytest.mark.slow
def test_evaluation_of_the_converted_weights(preset):
    """evaluation: 0.347 box AP and 0.296 mask AP on COCO minival, where the reference's weights are at hand."""
    weights, data = os.environ.get("DETKIT_REFERENCE_WEIGHTS", ""), Path(os.environ.get("DETKIT_DATASETS", "datasets"))
    if not Path(weights).is_file() or not (data / "coco/annotations/instances_minival2014.json").is_file():
        pytest.skip(
            "set DETKIT_REFERENCE_WEIGHTS to mask_rcnn_coco.pth; it needs coco/ with minival2014 in $DETKIT_DATASETS"
        )
    dataset = f"{{name: CocoInstances, json_file: {data}/coco/annotations/instances_minival2014.json"
    exp = preset(f"data.test_dataset={dataset}, image_root: {data}/coco/val2014}}", depth=101)
    model = exp.build_model(class_names=exp.data.test_set.class_names)
    load_weights(model, read_checkpoint(weights))
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    results = evaluate(model, exp.data.test(), exp.build_evaluators())
    assert results["box"]["AP"] == pytest.approx(0.347, abs=0.003)
    assert results["mask"]["AP"] == pytest.approx(0.296, abs=0.003)


def test_visualize(pytestconfig, tmp_path):
    """visualize: instances, each stage of the pipeline, and curves of the losses."""
    config = str(pytestconfig.rootpath / "configs/matterport/mask_rcnn_R_50_FPN.yaml")
    small = [*SMALL, *SHAPES, "train.device=cpu"]
    assert visualize_model.main([config, "--num", "1", "--output", str(tmp_path / "stages"), *small]) == 0
    stages = ["1_input", "2_anchors", "3_proposals", "4_regions", "5_detections"]
    assert sorted(file.stem for file in (tmp_path / "stages").rglob("*.png")) == stages
    lines = [{"iteration": n, "total_loss": 2 - n / 5, "loss_cls": 1 - n / 10, "lr": 0.001} for n in range(5)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plot_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert load_experiment(config, small).train.num_pictures > 0
