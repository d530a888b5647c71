"""Names of weights: what they stand for, and an answer to what is no name before anything is built."""

import argparse
import functools
import io
import re

import pytest
import torch
from file_server import Server
from safetensors.torch import save_file
from torchvision.models import MobileNet_V3_Large_Weights, ResNet50_Weights, mobilenet_v3_small
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, fasterrcnn_mobilenet_v3_large_320_fpn

from detkit import zoo
from detkit.checkpoint import read_checkpoint
from detkit.config import ConfigError
from detkit.config.named import config_names
from detkit.experiment import load_experiment
from detkit.layers import ShapeSpec
from detkit.modeling.backbones import TorchvisionBackbone
from detkit.paths import path_or_address
from detkit.predictor import Predictor
from detkit.registry import DataError
from detkit.utils import path_manager
from detkit.zoo import find, known, mirror_path, shown, without_login

ZOO = "https://dl.fbaipublicfiles.com/detectron2/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/"
MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"


@pytest.mark.parametrize("name", [MASK, f"{MASK}.yaml", f"{MASK}/137849600/model_final_f10217.pkl", f"{MASK}#model"])
@pytest.mark.parametrize("scheme", ["detectron2", "Detectron2"])
def test_detectron2s_names_are_its_addresses(scheme, name):
    row = find(f"{scheme}://{name}")
    assert row.addresses == (f"{ZOO}model_final_f10217.pkl",)
    assert (row.hash, row.config) == ("md5:f10217", "coco/mask_rcnn_R_50_FPN_3x")


@pytest.mark.parametrize(
    "entry", [ResNet50_Weights.IMAGENET1K_V1, MaskRCNN_ResNet50_FPN_Weights.COCO_V1, MobileNet_V3_Large_Weights.DEFAULT]
)
def test_torchvisions_names_are_its_own_entries(entry):
    row = find(f"torchvision://{type(entry).__name__}.{entry.name}")
    assert row.addresses == (entry.url,)
    assert row.hash.removeprefix("sha256:") in entry.url
    assert find(f"torchvision://{type(entry).__name__}.DEFAULT").addresses == (type(entry).DEFAULT.url,)


def test_the_hubs_names_are_files_of_repositories(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub:8080/")
    root = "http://hub:8080/org/repo/resolve"
    assert find("hf://org/repo@v1/a/b.safetensors").addresses == (f"{root}/v1/a/b.safetensors",)
    assert find("hf://org/repo").addresses[:2] == (f"{root}/main/model.safetensors", f"{root}/main/pytorch_model.bin")
    monkeypatch.delenv("HF_ENDPOINT")
    assert find("timm://resnet50.a1_in1k").addresses[0] == next(
        row.addresses[0] for row in known("timm://") if row.name == "timm://resnet50.a1_in1k"
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("torchvision://MaskRCNN_ResNet50_FPN_Weights.COCO_V3", "torchvision://MaskRCNN_ResNet50_FPN_Weights.COCO_V1"),
        ("torchvision://maskrcnn_resnet50_fpn_weights.coco_v1", "torchvision://MaskRCNN_ResNet50_FPN_Weights.COCO_V1"),
        ("torchvision://resnet50", "torchvision://ResNet50_Weights.IMAGENET1K_V"),
        ("detectron2://COCO-InstanceSegmentation/mask_rcn_R_50_FPN_3x", f"detectron2://{MASK}"),
        ("detectron2://mask_rcnn_R_50_FPN_3x", f"detectron2://{MASK}"),
        (f"detectron2://{MASK}/137849600/model_final_000000.pkl", f"detectron2://{MASK}"),
        ("catalog://ImageNetPretrained/MSRA/R50", "catalog://ImageNetPretrained/MSRA/R-50"),
        ("torchvison://ResNet50_Weights.IMAGENET1K_V1", "torchvision://"),
        ("htps://host/a.pth", "https://"),
        ("hf://repo", "hf://ORG/REPO"),
        ("https:///a.pth", "https://HOST/FILE"),
    ],
)
def test_a_misspelt_name_is_answered_before_anything_is_built(name, meant):
    with pytest.raises(ConfigError, match=rf"train\.init_weights: .*{re.escape(meant)}"):
        load_experiment("coco/mask_rcnn_R_50_FPN_1x", [f"train.init_weights={name}"])
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(meant)):
        path_or_address(name)


@pytest.mark.parametrize("name", ["w.pth", "a/b.pkl", "s3://bucket/w.pth", "file:///w.pth", "C:/w.pth"])
def test_paths_and_others_addresses_are_left_alone(name):
    assert find(name) is None
    assert path_or_address(name) == name


def test_every_row_has_an_address_of_its_own_and_a_config_that_there_is():
    rows = known()
    assert len({row.name for row in rows}) == len(rows) > 200
    assert len({mirror_path(row.addresses[0]) for row in rows}) == len({row.addresses for row in rows})
    for row in rows:
        assert find(row.name) == row
        assert row.addresses[0].startswith("https://")
        assert row.config is None or row.config.split()[0] in config_names()


@pytest.mark.parametrize("config", sorted({row.config for row in known() if row.config}))
def test_the_configs_of_weights_can_be_built(config):
    name, *changes = config.split()
    with torch.device("meta"):
        load_experiment(name, changes).build_model(num_classes=80)


def test_panoptic_weights_bring_the_classes_of_their_maps():
    name, *changes = find("detectron2://COCO-PanopticSegmentation/panoptic_fpn_R_101_3x").config.split()
    with torch.device("meta"):
        model = load_experiment(name, changes).build_model(num_classes=80)
    assert (model.semantic_names[0], model.semantic_names[-1]) == ("things", "rug-merged")
    assert len(model.semantic_head.predictor.weight) == 54  # as in the file


def test_no_two_addresses_share_a_file_of_a_mirror():
    addresses = [
        f"https://host{rest}" for rest in ("/a", "/a?b", "/a?c", "/a b", "/a_b", "/../a", "/./a", ":80/a", "/é")
    ]
    assert len({mirror_path(address) for address in addresses}) == len(addresses)
    assert all(".." not in mirror_path(address).split("/") for address in addresses)
    assert mirror_path("https://host/a/b-c.d") == "host/a/b-c.d"


def test_what_is_shown_of_an_address_is_no_secret():
    assert shown("HTTP://me:pass@host:80/a/w.pth?key=1#ema") == "HTTP://host:80/a/w.pth#ema"
    assert shown("https://me:pa/ss@host/w.pth") == "https://..."
    assert shown("weights/w.pth?x") == "weights/w.pth?x"
    assert without_login("rtsp://me:p@ss@cam:554/1?x=a@b") == "rtsp://cam:554/1?x=a@b"
    assert without_login("rtsp://me:pa/ss@cam/1") == "rtsp://..."
    assert without_login("hf://org/repo@main/w.pth") == "hf://org/repo@main/w.pth"


@pytest.mark.parametrize("scheme", ["file://", "FILE://", "file://localhost"])
def test_a_file_address_is_a_path(scheme, tmp_path):
    (tmp_path / "a b.pth").write_bytes(b"")
    assert path_manager.get_local_path(f"{scheme}{tmp_path}/a%20b.pth") == str(tmp_path / "a b.pth")


def test_a_detector_by_name_brings_its_config_and_its_classes(tmp_path, monkeypatch):
    model = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=91)
    content = io.BytesIO()
    torch.save(model.state_dict(), content)
    server, kind = Server(content.getvalue()), "FasterRCNN_MobileNet_V3_Large_320_FPN_Weights"
    entry = type(kind, (), {"name": "COCO_V1", "url": server.address("/w.pth"), "meta": {}})()
    monkeypatch.setattr(zoo, "_torchvision", lambda: {f"{kind}.COCO_V1": entry})
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    predictor = Predictor.from_weights(f"torchvision://{kind}.COCO_V1", device="cpu")
    dog = predictor.class_names.index("dog")
    assert (len(predictor.class_names), predictor.category_ids[dog]) == (80, 18)
    theirs, ours = model.roi_heads.box_predictor, predictor.model.roi_heads.box_head
    assert torch.equal(ours.cls_score.weight[dog], theirs.cls_score.weight[18])
    assert torch.equal(ours.cls_score.weight[-1], theirs.cls_score.weight[0])
    server.shutdown()
    server.server_close()


def test_safetensors_are_read(tmp_path):
    state = {"backbone.a": torch.rand(2, 3), "backbone.b": torch.arange(3, dtype=torch.bfloat16)}
    save_file(state, tmp_path / "w.safetensors")
    for path in (tmp_path / "w.safetensors", f"file://{tmp_path}/w.safetensors"):
        read = read_checkpoint(path).model
        assert read.keys() == state.keys()
        assert all(torch.equal(read[name], value) for name, value in state.items())


def test_a_damaged_file_that_was_fetched_says_where_it_lies(tmp_path, monkeypatch):
    server = Server(b"PK\3\4 and no more")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    for _ in range(2):
        with pytest.raises(DataError, match=r"w\.pth: cannot be read .*; remove it to fetch it again") as error:
            read_checkpoint(server.address("/w.pth"))
        next(path for path in tmp_path.rglob("*_w.pth") if str(path) in str(error.value)).unlink()
    server.shutdown()
    server.server_close()


def test_a_backbone_takes_a_name(tmp_path, monkeypatch):
    state = mobilenet_v3_small().state_dict()
    save_file(state, tmp_path / "w.safetensors")
    server = Server(files={"/org/repo/resolve/main/model.safetensors": (tmp_path / "w.safetensors").read_bytes()})
    monkeypatch.setenv("HF_ENDPOINT", server.address(""))
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    make = functools.partial(TorchvisionBackbone, ShapeSpec(channels=3), model="mobilenet_v3_small")
    own = make(weights="hf://org/repo").state_dict()
    assert all(torch.equal(value, state[name.removeprefix("body.")]) for name, value in own.items())
    with pytest.raises(ValueError, match=r"weights: .*no such file \(404\)"):
        make(weights="hf://org/other")
    server.shutdown()
    server.server_close()
