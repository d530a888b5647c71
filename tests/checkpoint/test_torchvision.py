"""Importing torchvision's R-CNNs and classification networks. The oracle is torchvision itself."""

import re
from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.models import detection

from detkit.checkpoint import load_weights
from detkit.checkpoint.formats import choose
from detkit.checkpoint.formats.torchvision import TorchvisionClassifierImporter, TorchvisionImporter
from detkit.experiment import load_experiment
from detkit.layers import ShapeSpec
from detkit.modeling.backbones import ResNet, TorchvisionBackbone

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MODELS = {
    "fasterrcnn_resnet50_fpn": "faster_rcnn_R_50_FPN",
    "maskrcnn_resnet50_fpn": "mask_rcnn_R_50_FPN",
    "fasterrcnn_resnet50_fpn_v2": "faster_rcnn_R_50_FPN_v2",
    "maskrcnn_resnet50_fpn_v2": "mask_rcnn_R_50_FPN_v2",
    "fasterrcnn_mobilenet_v3_large_fpn": "faster_rcnn_mobilenet_v3_large_FPN",
}
ROWS = "roi_heads.box_predictor.cls_score.weight"


def sizes(state):
    return {name: tensor.shape for name, tensor in state.items()}


def empty(model):
    with torch.device("meta"):
        return getattr(detection, model)(weights=None, weights_backbone=None).state_dict()


@pytest.fixture
def wanted(monkeypatch):
    monkeypatch.setenv("DETKIT_DATASETS", "datasets")

    def of(config, *overrides):
        with torch.device("meta"):
            return sizes(load_experiment(CONFIGS / config, overrides).build_model(num_classes=90).state_dict())

    return of


def old_names(state):
    """As files from before torchvision 0.13 have them."""
    new = {}
    for name, tensor in state.items():
        name = re.sub(r"((?:inner|layer)_blocks\.\d)\.0\.", r"\1.", name)
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        name = re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", name)
        if not name.endswith("num_batches_tracked"):
            new[name] = tensor
    return new


@pytest.mark.parametrize(("model", "config"), MODELS.items(), ids=MODELS)
def test_a_detector_fills_the_model_of_its_config_wholly(wanted, model, config):
    state, sought = empty(model), wanted(f"torchvision/{config}.yaml")
    importer = choose(state)
    assert isinstance(importer, TorchvisionImporter)
    found = importer.convert(state, sought)
    assert sizes(found.model) == sought
    assert all(name.endswith("num_batches_tracked") for name in found.unused)
    made_from = {found.origin.get(name, name) for name in found.model}
    assert made_from | set(found.unused) == set(state), "every name of the file is accounted for"


def test_published_files_have_older_names(wanted):
    state, sought = empty("maskrcnn_resnet50_fpn"), wanted("torchvision/mask_rcnn_R_50_FPN.yaml")
    new, old = (TorchvisionImporter().convert(s, sought) for s in (state, old_names(state)))
    assert new.model.keys() == old.model.keys() == sought.keys()
    assert old.origin["roi_heads.mask_head.convs.3.bias"] == "roi_heads.mask_head.mask_fcn4.bias"
    assert old.origin["neck.outputs.res4.weight"] == "backbone.fpn.layer_blocks.2.weight"
    assert not old.unused


def test_the_backbone_takes_the_names_of_the_models(wanted):
    state = empty("fasterrcnn_resnet50_fpn")
    sought = wanted(
        "torchvision/faster_rcnn_R_50_FPN.yaml",
        "model.backbone={name: TorchvisionBackbone, model: resnet50, norm: FrozenBN}",
    )
    assert "backbone.body.layer1.0.conv1.weight" in sought
    assert sizes(TorchvisionImporter().convert(state, sought).model) == sought


def test_maps_are_named_after_the_models_pyramid():
    state = empty("fasterrcnn_mobilenet_v3_large_fpn")
    names = ["res3", "res4"]
    sought = {f"neck.laterals.{name}.weight": torch.Size() for name in names}
    for given, expected in ((sought, names), ({}, ["res5", "res5_2"])):
        found = TorchvisionImporter().convert(state, given)
        for i, name in enumerate(expected):
            assert found.origin[f"neck.laterals.{name}.bias"] == f"backbone.fpn.inner_blocks.{i}.0.bias"


def test_background_goes_from_first_to_last_or_away():
    state = {
        ROWS: torch.arange(4.0)[:, None],
        "roi_heads.box_predictor.bbox_pred.bias": torch.arange(16.0),
        "roi_heads.mask_predictor.mask_fcn_logits.bias": torch.arange(4.0),
        "rpn.head.cls_logits.weight": torch.zeros(3, 2, 1, 1),
    }
    before = {name: tensor.clone() for name, tensor in state.items()}
    found = TorchvisionImporter().convert(state, {})
    assert found.model["roi_heads.box_head.cls_score.weight"].flatten().tolist() == [1, 2, 3, 0]
    assert found.model["roi_heads.box_head.bbox_pred.bias"].tolist() == list(range(4, 16))
    assert found.model["roi_heads.mask_head.predictor.bias"].tolist() == [1, 2, 3]
    assert set(found.changes) == set(found.model) - {"proposal_generator.head.objectness.weight"}
    assert found.class_names is None
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_91_rows_are_coco_by_category_id():
    names = TorchvisionImporter().convert({ROWS: torch.zeros(91, 2)}, {}).class_names
    assert len(names) == 90
    assert (names[0], names[12], names[11], names[89]) == ("person", "stop sign", "N/A", "toothbrush")


def test_counters_that_a_file_has_not_are_zero(wanted):
    state, sought = empty("maskrcnn_resnet50_fpn_v2"), wanted("torchvision/mask_rcnn_R_50_FPN_v2.yaml")
    bare = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    found = TorchvisionImporter().convert(bare, sought)
    assert sizes(found.model) == sought
    assert found.model["backbone.stem.conv1.norm.num_batches_tracked"] == 0
    assert "set to 0" in found.changes["backbone.stem.conv1.norm.num_batches_tracked"]


@pytest.mark.parametrize("depth", [18, 50])
def test_a_classification_resnet_gives_its_maps(depth):
    torch.manual_seed(0)
    reference = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    ours = ResNet(ShapeSpec(channels=3), depth=depth, norm="FrozenBN", stride_in_1x1=False, out_features=("res3",))
    found = TorchvisionClassifierImporter().convert(reference.state_dict(), {})
    state = {name.removeprefix("backbone."): tensor for name, tensor in found.model.items()}
    ours.load_state_dict({name: state[name] for name in ours.state_dict()})
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = torch.nn.Sequential(*list(reference.children())[:6])(x)
        torch.testing.assert_close(ours(x)["res3"], expected, rtol=1e-4, atol=1e-5)
    assert {name: "classifier" in reason for name, reason in found.unused.items()} == {
        "fc.weight": True,
        "fc.bias": True,
    }


@pytest.mark.parametrize("model", ["mobilenet_v3_small", "densenet121", "regnet_y_400mf"])
def test_any_classification_network_fills_a_torchvision_backbone(model):
    reference = torchvision.models.get_model(model, weights=None).state_dict()
    with torch.device("meta"):
        backbone = TorchvisionBackbone(ShapeSpec(channels=3), model=model, norm="FrozenBN")
    sought = {f"backbone.{name}": tensor.shape for name, tensor in backbone.state_dict().items()}
    if model == "densenet121":  # as its published file has them
        reference = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", n): t for n, t in reference.items()}
    importer = choose(reference)
    assert isinstance(importer, TorchvisionClassifierImporter)
    found = importer.convert(reference, sought)
    assert sought.items() <= sizes(found.model).items()
    assert any("classifier" in reason for reason in found.unused.values())


def test_every_classification_network_is_recognised():
    families = """alexnet vgg11_bn convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 maxvit_t mnasnet0_5
        mobilenet_v2 mobilenet_v3_large resnet18 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_0 swin_t
        regnet_y_400mf"""
    for model in families.split():
        # RegNet computes with tensors while it is built, which the meta device cannot do.
        with torch.device("cpu" if model.startswith("regnet") else "meta"):
            names = list(torchvision.models.get_model(model, weights=None, **_quick(model)).state_dict())
        assert isinstance(choose(names), TorchvisionClassifierImporter), model


def _quick(model):
    return {"init_weights": False} if model in ("googlenet", "inception_v3") else {}


@pytest.mark.parametrize(
    "config", ["torchvision/mask_rcnn_R_50_FPN_v2", "matterport/mask_rcnn_R_50_FPN", "coco/mask_rcnn_R_50_C4_1x"]
)
def test_detkits_own_names_are_nobodys(wanted, config):
    assert choose(list(wanted(f"{config}.yaml"))) is None


@pytest.mark.parametrize(
    ("rows", "names", "words"),
    [
        (3, ["a", "b"], "the file names no classes; its 2 are taken to be the model's, in this order: a, b"),
        (91, ["a", "b"], r"no class of the file \(person, .*\(a, b\); their rows keep their initial values"),
        (5, ["a", "b"], r"skipped roi_heads\.box_head\.cls_score.*shape \(5, 1024\) in the file, \(3, 1024\)"),
    ],
)
def test_a_detector_of_other_classes_is_a_start_and_the_report_says_of_what(rows, names, words):
    model = "fasterrcnn_mobilenet_v3_large_320_fpn"
    theirs = getattr(detection, model)(weights=None, weights_backbone=None, num_classes=rows).state_dict()
    config = CONFIGS / "torchvision/faster_rcnn_mobilenet_v3_large_320_FPN.yaml"
    report = load_weights(load_experiment(config).build_model(class_names=names), theirs)
    assert re.search(words, str(report))
    assert len(report.loaded) >= 280
