"""Detectron2's ViTDet and Swin on a real image: what it computed, and what detkit computes from its weights."""

import dataclasses

import pycocotools.mask
import pytest
import torch
from parity_helpers import (
    EVERYTHING,
    Fixture,
    assert_losses,
    assert_masks,
    build,
    coco_target,
    load_detectron2,
    pair,
    pixels,
    relative,
    sample,
)
from torch import nn

from detkit.checkpoint import export_state
from detkit.layers import LN, ShapeSpec
from detkit.modeling.backbones import Swin
from detkit.modeling.necks import FPN
from detkit.solver import AdamW

VITDET = (
    "model.backbone={name: ViT, embed_dim: 96, num_heads: 4, relative_positions: {image_size: 512}, square_size: 640}",
    "model.roi_heads.box_head.detection.score_thresh=0.013",
    "model.roi_heads.box_head.detection.max_detections=300",
    *EVERYTHING,
)


@pytest.fixture(scope="module")
def vitdet(shared_data):
    return Fixture(shared_data, "d2_vitdet")


@pytest.fixture(scope="module")
def model(vitdet, tmp_path_factory):
    return load_detectron2(
        build("coco/mask_rcnn_vitdet_b_100ep.yaml", VITDET), vitdet.state, tmp_path_factory.mktemp("vitdet")
    )


@pytest.fixture(scope="module")
def maps(model, shared_data):
    with torch.no_grad():
        images = model.preprocess([sample(pixels(shared_data))])
        return images, model.features(images)


def test_vitdets_features(vitdet, maps):
    images, features = maps
    expected = vitdet.meta["reference"]["features"]
    assert list(images.tensor.shape) == vitdet.meta["reference"]["padded"]
    assert set(features) == set(expected)
    for name, value in features.items():
        assert list(value.shape) == expected[name]["shape"]
        assert relative(value[0, :8, ::7, ::7], vitdet.arrays[f"feature_{name}"]) < 1e-4, name
        assert value.std().item() == pytest.approx(expected[name]["std"], rel=1e-4)


def test_vitdets_proposals(vitdet, model, maps):
    with torch.no_grad():
        found = model.proposal_generator.predict(*maps)[0]
    theirs = (vitdet.arrays["proposal_boxes"], vitdet.arrays["objectness_logits"])
    pair((found.boxes.tensor, found.objectness), theirs, score=1e-4 * abs(theirs[1]).max())


def test_vitdets_weights_go_back_bit_by_bit(vitdet, model):
    back = export_state(model.state_dict(), "detectron2")
    assert back.keys() == vitdet.state.keys()
    assert all(torch.equal(value, vitdet.state[name]) for name, value in back.items())


def test_vitdets_rates_decay_from_layer_to_layer(vitdet, model):
    names = {id(p): name for name, p in export_state(dict(model.named_parameters()), "detectron2").items()}
    groups = AdamW(model, 1.0, lr=1.0, layer_decay=0.7).param_groups
    ours = {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}
    theirs = vitdet.meta["reference"]["lr_factors_0.7_of_12_blocks"]
    assert {name: ours.pop(name) for name in theirs} == pytest.approx(theirs)
    assert set(ours.values()) == {1.0}, "the rest is no part of the backbone"


@pytest.mark.slow
def test_vitdets_detections_and_losses(vitdet, model, shared_data):
    arrays, expected, seen = vitdet.arrays, vitdet.meta["reference"], sample(pixels(shared_data))
    found = model([seen])[0].instances
    theirs = (arrays["pred_boxes"], arrays["scores"], arrays["pred_classes"])
    order = pair((found.boxes.tensor, found.scores, found.classes), theirs)
    rle = [{"size": list(found.image_size), "counts": c} for c in expected["mask_rle"]]
    masks = torch.from_numpy(pycocotools.mask.decode(rle)).permute(2, 0, 1).bool()
    with_mask = order < len(masks)  # the fixture has those of the first hundred
    assert with_mask.sum() == len(masks) == 100
    assert_masks(found.masks.tensor[with_mask], masks[order[with_mask]])
    target = coco_target(shared_data, seen.original_size, annotation_ids=expected["annotation_ids"])
    model.train()
    model.backbone.eval()  # no paths are dropped there
    try:
        with torch.no_grad():
            losses = model.loss([dataclasses.replace(seen, target=target)]).terms
    finally:
        model.eval()
    assert_losses(losses, expected["losses"])


class SwinFPN(nn.Module):
    """What the fixture has: a small Swin with a pyramid whose convolutions are normalised."""

    def __init__(self):
        super().__init__()
        self.backbone = Swin(ShapeSpec(3), embed_dim=48)
        self.neck = FPN(self.backbone.output_shape, out_channels=64, norm=LN)


def test_swin(shared_data, tmp_path):
    fixture = Fixture(shared_data, "d2_swin")
    settings, arrays = fixture.meta["reference"], fixture.arrays
    model = load_detectron2(SwinFPN().eval(), fixture.state, tmp_path)
    image = torch.from_numpy(pixels(shared_data)[0:426:2, 0:640:2].copy()).permute(2, 0, 1)
    mean, std = (torch.tensor(settings[name])[:, None, None] for name in ("mean", "std"))
    plain = ((image - mean) / std)[None]
    padded = nn.functional.pad(plain, (0, -plain.shape[3] % 32, 0, -plain.shape[2] % 32))
    with torch.no_grad():
        for kind, batch in (("plain", plain), ("padded", padded)):
            maps = model.backbone(batch)
            for i, value in enumerate(maps.values()):
                assert list(value.shape) == settings["features"][f"{kind}_p{i}"]["shape"]
                assert relative(value[0, :12, ::5, ::5], arrays[f"{kind}_p{i}"]) < 1e-4
        for name, value in model.neck(maps).items():
            assert relative(value[0, :12, ::5, ::5], arrays[f"fpn_{name}"]) < 1e-4
    theirs = {f"backbone.{name}": value for name, value in fixture.state.items()}
    back = export_state(model.state_dict(), "detectron2")
    assert back.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in back.items())
