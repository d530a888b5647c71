"""Importing Detectron2's models and backbones."""

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from detectron2_names import c4_model, cascade_model, dc5_model, fpn_model, meta, network, pointrend_model
from torch import nn

from detkit.checkpoint import Checkpointer, as_checkpoint, load_all_weights, load_weights, read_checkpoint, resume
from detkit.checkpoint.formats.detectron2 import Detectron2Importer, coco_class_names
from detkit.checkpoint.formats.exporting import export_state
from detkit.experiment import load_experiment
from detkit.layers import ShapeSpec
from detkit.modeling.backbones import ResNet
from detkit.registry import DataError

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = Path(os.environ.get("DETKIT_SHARED", ROOT.parent / "shared")) / "reference" / "parity"
SMALL = (
    "model.backbone.depth=18",
    "model.backbone.width=8",
    "model.neck.out_channels=16",
    "model.roi_heads.box_head.fc_dims=[12,12]",
    "model.roi_heads.mask_head.conv_dim=8",
)


@pytest.fixture(autouse=True)
def _any_datasets(monkeypatch):
    monkeypatch.setenv("DETKIT_DATASETS", "datasets")


def build(config, *overrides, num_classes=80, device="meta"):
    with torch.device(device):
        return load_experiment(ROOT / "configs" / f"{config}.yaml", overrides).build_model(num_classes)


def wanted(config, *overrides):
    return {name: tensor.shape for name, tensor in build(config, *overrides).state_dict().items()}


def small(*names):
    torch.manual_seed(len(names))
    model = build("coco/mask_rcnn_R_50_FPN_1x", *SMALL, num_classes=len(names) or 3, device="cpu")
    model.class_names = names or None
    return model


def theirs(model):
    """The model's weights in Detectron2's layout, as arrays."""
    return {name: tensor.numpy().copy() for name, tensor in export_state(model.state_dict(), "detectron2").items()}


def write(path, content):
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


FAMILIES = {
    "mask_rcnn_R_50_FPN_1x": fpn_model(),
    "faster_rcnn_R_101_FPN_3x": fpn_model(101, mask=False),
    "mask_rcnn_X_101_FPN_3x": fpn_model(101, groups=32, width=8),
    "mask_rcnn_R_50_C4_1x": c4_model(),
    "faster_rcnn_R_101_C4_3x": c4_model(101, mask=False),
    "mask_rcnn_R_50_DC5_3x": dc5_model(),
    "faster_rcnn_R_50_DC5_1x": dc5_model(mask=False),
    "mask_rcnn_R_50_FPN_3x_gn": fpn_model(norm="GN", head_norm="GN"),
    "mask_rcnn_R_50_FPN_3x_dconv_c3-c5": fpn_model(deform=2),
    "cascade_mask_rcnn_R_50_FPN_3x": cascade_model(),
    "mask_rcnn_R_50_FPN_3x_pointrend": pointrend_model(),
    "mask_rcnn_R_50_FPN_1x_pointrend": pointrend_model(prefix="mask_", coarse_fc="coarse_mask_fc"),
}


@pytest.mark.parametrize("config", FAMILIES)
def test_every_family_fills_the_model_of_its_config_wholly(config):
    state, sizes = meta(FAMILIES[config]), wanted(f"coco/{config}")
    assert Detectron2Importer().recognises(state)
    imported = Detectron2Importer().convert(state, sizes)
    assert {name: tensor.shape for name, tensor in imported.model.items()} == sizes
    assert not imported.unused
    for ours, tensor in imported.model.items():
        assert tensor is state[imported.origin.get(ours, ours)]


def test_modulated_deformable_convolutions_have_27_offsets():
    state = meta(network(deform=3))
    sizes = wanted("coco/mask_rcnn_R_50_FPN_3x_dconv_c3-c5", "model.backbone.deform.modulated=true")
    imported = Detectron2Importer().convert(state, sizes)
    assert imported.model["backbone.res3.0.conv2_offset.weight"].shape == (27, 128, 3, 3)
    assert all(tensor.shape == sizes[name] for name, tensor in imported.model.items())


def test_the_names_of_the_reference_itself():
    path = FIXTURES / "d2_mask_rcnn_R_50_FPN_1x.json"
    if not path.is_file():
        pytest.skip(f"no fixture {path}")
    shapes = json.loads(path.read_text())["state_dict"]
    assert {name: tuple(shape) for name, shape in shapes.items()} == fpn_model()  # so the other families are likely too
    imported = Detectron2Importer().convert(meta(shapes), {})
    assert {name: t.shape for name, t in imported.model.items()} == wanted("coco/mask_rcnn_R_50_FPN_1x")


def test_several_rpn_convolutions():
    name = "proposal_generator.rpn_head.conv.conv{}.{}"
    state = {name.format(i, kind): torch.full((1,), float(i)) for i in range(2) for kind in ("weight", "bias")}
    model = Detectron2Importer().convert(state, {}).model
    assert model["proposal_generator.head.convs.1.bias"] == 1
    assert len(model) == 4


@pytest.mark.parametrize("form", ["zoo.pkl", "protocol 4", "plain.pth", "model.pth", "trainer.pth"])
def test_every_form_of_file_gives_the_same_weights(tmp_path, form):
    source, model = small("a", "b"), small("a", "b")
    for p in model.parameters():
        nn.init.zeros_(p)
    arrays, path = theirs(source), tmp_path / "model_final.pth"
    tensors = OrderedDict((f"module.{k}", torch.from_numpy(v)) for k, v in arrays.items())
    if form == "zoo.pkl":
        write(path, {"model": arrays, "__author__": "Detectron2 Model Zoo"})
    elif form == "protocol 4":
        path.write_bytes(pickle.dumps({"model": arrays, "matching_heuristics": True, "__author__": "me"}, protocol=4))
    elif form == "trainer.pth":
        state = {"iteration": 9, "_trainer": {"iteration": 9, "optimizer": {"param_groups": [{"lr": 0.1}]}}}
        torch.save({"model": tensors, "trainer": state, "iteration": 9}, path)
    else:
        torch.save({"model": tensors} if form == "model.pth" else tensors, path)
    report = load_weights(model, path, strict=True)
    assert report.format == "Detectron2"
    assert report.renamed["roi_heads.box_head.cls_score.bias"] == "roi_heads.box_predictor.cls_score.bias"
    assert f"{path} (Detectron2): 142 of the model's 142 tensors loaded" in str(report)
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), model.state_dict().values()))
    assert load_all_weights(small("a", "b"), read_checkpoint(path)).exact


def test_a_training_state_of_detectron2_is_not_resumed(tmp_path):
    state = {name: torch.from_numpy(array) for name, array in theirs(small()).items()}
    torch.save({"model": state, "trainer": {"iteration": 9}}, tmp_path / "checkpoint_0000009.pth")
    assert read_checkpoint(tmp_path / "checkpoint_0000009.pth").trainer is None
    with pytest.raises(DataError, match="holds weights only"):
        resume(Checkpointer(tmp_path), small(), None)


def test_what_old_files_have_besides_is_explained_and_no_fault():
    source = theirs(small())
    state = {name: torch.from_numpy(array) for name, array in source.items()}
    state |= {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    state |= {f"proposal_generator.anchor_generator.cell_anchors.{i}": torch.zeros(3, 4) for i in range(5)}
    state["backbone.bottom_up.stem.conv1.norm.num_batches_tracked"] = torch.tensor(7)
    report = load_weights(small(), state, strict=True)
    assert report.complete
    assert len(report.unused) == 8
    assert "not used proposal_generator.anchor_generator.cell_anchors.0, " in str(report)
    assert "model.preprocess.pixel_mean" in str(report)


def test_weights_of_a_cascade_are_those_of_another_model():
    state = {name: torch.from_numpy(array) for name, array in theirs(small()).items()}
    for name in [name for name in state if name.startswith(("roi_heads.box_head.", "roi_heads.box_predictor."))]:
        head, rest = name.split(".", 2)[1:]
        tensor = state.pop(name)
        state |= {f"roi_heads.{head}.{i}.{rest}": tensor for i in range(3)}
    report = load_weights(small(), state, partial=True)
    assert not report.complete
    assert {name.split(".")[1] for name in report.missing} == {"box_head"}
    assert len(report.unexpected) == 3 * 8
    with pytest.raises(DataError, match="another model"):
        load_all_weights(small(), as_checkpoint(state))


@pytest.mark.parametrize("prefix", ["", "bottom_up.", "backbone.bottom_up."])
def test_a_backbone_alone_goes_where_the_model_has_it(prefix):
    source = ResNet(ShapeSpec(channels=3), depth=50, width=8, norm="BN", freeze_at=0)
    state = {f"{prefix}{name}": tensor for name, tensor in source.state_dict().items()}
    state |= {"stem.fc.weight": torch.zeros(9, 9), "stem.fc.bias": torch.zeros(9)}
    for config, shared in (("coco/mask_rcnn_R_50_FPN_1x", False), ("coco/mask_rcnn_R_50_C4_1x", True)):
        sizes = wanted(config)
        names = Detectron2Importer().convert(state, sizes).model.keys()
        assert names <= sizes.keys()
        assert ("roi_heads.res5.2.conv3.weight" in names) is shared
        assert ("backbone.res5.2.conv3.weight" in names) is not shared
        assert {n for n in sizes if n.startswith("backbone.")} <= names
    alone = ResNet(ShapeSpec(channels=3), depth=50, width=8)
    report = load_weights(alone, state)
    assert report.complete
    assert torch.equal(alone.res5[2].conv3.norm.running_var, source.res5[2].conv3.norm.running_var)
    assert set(report.unused) >= {"stem.fc.weight", "stem.fc.bias"}


def test_a_backbone_of_imagenet_leaves_the_heads_missing(tmp_path):
    source, model = small(), small("a")
    arrays = {n.removeprefix("backbone."): t.numpy() for n, t in source.state_dict().items() if n[:9] == "backbone."}
    path = write(tmp_path / "R-18.pkl", {"model": arrays, "__author__": "torchvision", "matching_heuristics": True})
    report = load_weights(model, path)
    assert {name.split(".")[0] for name in report.missing} == {"neck", "proposal_generator", "roi_heads"}
    assert torch.equal(model.backbone.res5[1].conv2.weight, source.backbone.res5[1].conv2.weight)
    assert sorted(report.loaded) == sorted(n for n in model.state_dict() if n.startswith("backbone."))


def test_the_zoo_means_coco_and_fine_tuning_maps_rows_by_name(tmp_path):
    source, model = small(*coco_class_names()), small("zebra", "balloon", "person")
    before = model.roi_heads.box_head.cls_score.bias.clone()
    nn.init.normal_(source.roi_heads.box_head.cls_score.bias)
    arrays = theirs(source)
    path = write(tmp_path / "zoo.pkl", {"model": arrays, "__author__": "Detectron2 Model Zoo"})
    assert read_checkpoint(path).class_names == coco_class_names()
    assert len(coco_class_names()) == 80
    ids = dict(zip(coco_class_names(), read_checkpoint(path).category_ids))
    assert [ids[name] for name in ("person", "stop sign", "zebra", "toothbrush")] == [1, 13, 24, 90]
    report = load_weights(model, path)
    ours, rows = model.roi_heads.box_head.cls_score.bias, source.roi_heads.box_head.cls_score.bias
    assert torch.equal(ours[[0, 2, 3]], rows[[coco_class_names().index("zebra"), 0, 80]])
    assert ours[1] == before[1]
    assert torch.equal(model.roi_heads.mask_head.predictor.weight[2], source.roi_heads.mask_head.predictor.weight[0])
    assert report.notes["roi_heads.box_head.bbox_pred.weight"] == "2 of 3 classes by name"
    other = write(tmp_path / "mine.pkl", {"model": arrays, "__author__": "me"})
    assert read_checkpoint(other).class_names is None  # its 80 classes may be any
    cut = {n: a[:9] if "cls_score" in n else a for n, a in arrays.items()}
    eight = write(tmp_path / "cityscapes.pkl", {"model": cut, "__author__": "Detectron2 Model Zoo"})
    assert read_checkpoint(eight).class_names is None


def test_other_classes_without_names_are_skipped_with_the_shapes():
    model, before = small("a"), small("a").state_dict()
    report = load_weights(model, {n: torch.from_numpy(a) for n, a in theirs(small()).items()})
    assert sorted(report.skipped) == sorted(n for n in before if "cls_score" in n or n.split(".")[-2] in PER_CLASS)
    assert "shape (4, 12) in the file, (2, 12) in the model" in str(report)


PER_CLASS = ("bbox_pred", "predictor")


def test_another_architecture_is_an_error_and_changes_nothing(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 3, 1))
    before = [p.clone() for p in model.parameters()]
    path = write(tmp_path / "zoo.pkl", {"model": theirs(small()), "__author__": "Detectron2 Model Zoo"})
    with pytest.raises(DataError, match=r"zoo\.pkl.*Detectron2's.*In the file: backbone\.\* \(116\)"):
        load_weights(model, path)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_detkits_own_files_stay_as_they_are():
    model = small()
    report = load_weights(small(), model.state_dict(), strict=True)
    assert report.format == ""
    assert not report.renamed
    c4 = build("coco/mask_rcnn_R_50_C4_1x").state_dict()
    assert not Detectron2Importer().recognises(c4)


def test_the_zoos_keypoints_are_of_cocos_persons(tmp_path):
    arrays = {
        "roi_heads.box_predictor.cls_score.weight": torch.zeros(2, 4).numpy(),
        "roi_heads.box_predictor.cls_score.bias": torch.zeros(2).numpy(),
    }
    content = {"model": arrays, "__author__": "Detectron2 Model Zoo"}
    assert read_checkpoint(write(tmp_path / "boxes.pkl", content)).class_names is None
    arrays["roi_heads.keypoint_head.score_lowres.weight"] = torch.zeros(4, 17, 4, 4).numpy()
    found = read_checkpoint(write(tmp_path / "keypoints.pkl", content))
    assert (found.class_names, found.category_ids) == (("person",), (1,))
