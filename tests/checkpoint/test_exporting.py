"""Writing detkit's weights in other frameworks' layouts: torchvision's models read them, the way back is exact."""

from pathlib import Path

import pytest
import torch
from torchvision.models import detection

from detkit.checkpoint.formats.detectron2 import Detectron2Importer
from detkit.checkpoint.formats.exporting import export_state
from detkit.checkpoint.formats.torchvision import TorchvisionImporter
from detkit.experiment import load_experiment
from detkit.modeling.dense_heads.normalisers import MovingNormaliser

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TORCHVISION = {
    "faster_rcnn_R_50_FPN": "fasterrcnn_resnet50_fpn",
    "mask_rcnn_R_50_FPN": "maskrcnn_resnet50_fpn",
    "faster_rcnn_R_50_FPN_v2": "fasterrcnn_resnet50_fpn_v2",
    "mask_rcnn_R_50_FPN_v2": "maskrcnn_resnet50_fpn_v2",
    "faster_rcnn_mobilenet_v3_large_FPN": "fasterrcnn_mobilenet_v3_large_fpn",
}
PYRAMID = "coco/mask_rcnn_R_50_FPN_1x.yaml"


@pytest.fixture
def state_of(monkeypatch):
    monkeypatch.setenv("DETKIT_DATASETS", "datasets")

    def build(config, *overrides, classes=4, device="meta"):
        exp = load_experiment(CONFIGS / config, overrides)
        with torch.device(device):
            return dict(exp.build_model(num_classes=classes).state_dict())

    return build


@pytest.mark.parametrize(("config", "model"), TORCHVISION.items(), ids=TORCHVISION)
def test_torchvision_reads_it_and_the_way_back_is_exact(state_of, config, model):
    state = state_of(f"torchvision/{config}.yaml", device="cpu")
    before = {name: tensor.clone() for name, tensor in state.items()}
    written = export_state(state, "torchvision")
    reference = getattr(detection, model)(weights=None, weights_backbone=None, num_classes=5)
    reference.load_state_dict(written, strict=True)
    for theirs in (written, reference.state_dict()):
        back = TorchvisionImporter().convert(theirs, {name: tensor.shape for name, tensor in state.items()}).model
        assert back.keys() == state.keys()
        assert all(torch.equal(back[name], before[name]) for name in back)
    assert all(torch.equal(state[name], before[name]) for name in state), "the argument is not changed"


def test_the_background_of_torchvision_comes_first(state_of):
    state = state_of("torchvision/mask_rcnn_R_50_FPN.yaml", device="cpu")
    written = export_state(state, "torchvision")
    scores = state["roi_heads.box_head.cls_score.weight"]
    assert torch.equal(written["roi_heads.box_predictor.cls_score.weight"], scores[[4, 0, 1, 2, 3]])
    boxes = written["roi_heads.box_predictor.bbox_pred.weight"]
    assert (len(boxes), boxes[:4].abs().sum(), boxes[4:].abs().min() > 0) == (20, 0, True)
    masks = written["roi_heads.mask_predictor.mask_fcn_logits.weight"]
    assert (len(masks), masks[:1].abs().sum(), masks[1:].abs().min() > 0) == (5, 0, True)


@pytest.mark.parametrize(
    "config",
    [
        "mask_rcnn_R_50_FPN_1x",
        "faster_rcnn_R_50_FPN_1x",
        "mask_rcnn_X_101_FPN_3x",
        "mask_rcnn_R_50_C4_1x",
        "faster_rcnn_R_101_C4_3x",
        "mask_rcnn_R_50_DC5_1x",
        "mask_rcnn_R_50_FPN_3x_gn",
        "mask_rcnn_R_50_FPN_1x_dconv_c3-c5",
    ],
)
def test_detectron2_and_back(state_of, config):
    state = state_of(f"coco/{config}.yaml")
    written = export_state(state, "detectron2")
    assert len(written) == len(state)
    assert not set(written) & {name for name in state if not name.startswith(("roi_heads.", "backbone."))}
    back = Detectron2Importer().convert(written, {}).model
    assert back.keys() == state.keys()
    assert all(back[name] is state[name] for name in state), "rows are Detectron2's already"


def test_names_of_detectron2(state_of):
    pyramid = export_state(state_of(PYRAMID, "model.proposal_generator.head.conv_dims=[-1, -1]"), "detectron2")
    assert {
        "backbone.bottom_up.stem.conv1.norm.running_var",
        "backbone.bottom_up.res4.5.conv3.weight",
        "backbone.bottom_up.res2.0.shortcut.norm.bias",
        "backbone.fpn_lateral2.weight",
        "backbone.fpn_output5.bias",
        "proposal_generator.rpn_head.conv.conv1.weight",
        "proposal_generator.rpn_head.objectness_logits.bias",
        "proposal_generator.rpn_head.anchor_deltas.weight",
        "roi_heads.box_head.fc1.weight",
        "roi_heads.box_predictor.cls_score.weight",
        "roi_heads.box_predictor.bbox_pred.bias",
        "roi_heads.mask_head.mask_fcn4.weight",
        "roi_heads.mask_head.deconv.weight",
        "roi_heads.mask_head.predictor.weight",
    } <= set(pyramid)
    c4 = export_state(state_of("coco/mask_rcnn_R_50_C4_1x.yaml"), "detectron2")
    assert {
        "backbone.stem.conv1.weight",
        "backbone.res4.0.conv1.weight",
        "proposal_generator.rpn_head.conv.weight",
        "roi_heads.res5.2.conv3.norm.weight",
        "roi_heads.box_predictor.cls_score.bias",
    } <= set(c4)
    gn = export_state(state_of("coco/mask_rcnn_R_50_FPN_3x_gn.yaml"), "detectron2")
    assert {"backbone.fpn_lateral3.norm.weight", "roi_heads.box_head.conv4.norm.bias"} <= set(gn)
    assert "roi_heads.mask_head.mask_fcn1.norm.weight" in gn
    deform = export_state(state_of("coco/mask_rcnn_R_50_FPN_1x_dconv_c3-c5.yaml"), "detectron2")
    assert "backbone.bottom_up.res3.0.conv2_offset.bias" in deform


def test_of_a_normaliser_what_it_declares_as_detkits_alone_is_left_out(state_of, monkeypatch):
    state = state_of("quick_start/fcos_shapes.yaml")
    assert len(export_state(state, "detectron2")) == len(state) - 1
    monkeypatch.setattr(MovingNormaliser, "only_detkits", {})
    with pytest.raises(ValueError, match=r"head\.normaliser\.average"):
        export_state(state, "detectron2")


@pytest.mark.parametrize("layout", ["detectron2", "torchvision"])
@pytest.mark.parametrize(
    ("config", "override", "named"),
    [
        (PYRAMID, "model.neck.name=PAFPN", r"neck\.(downsamples|bottom_up_outputs)"),
        (PYRAMID, "model.proposal_generator.head={name: SoftmaxRPNHead}", r"head\.class_logits"),
        (PYRAMID, "model.backbone.conv_bias=true", r"backbone\.stem\.conv1\.bias|backbone\.\*|backbone\.res"),
        ("matterport/mask_rcnn_R_50_FPN.yaml", None, "backbone"),
    ],
)
def test_what_a_layout_cannot_express_is_refused_by_name(state_of, layout, config, override, named):
    state = state_of(config, *([override] if override else []))
    with pytest.raises(ValueError, match=rf"(?s){layout}'s layout.*({named})"):
        export_state(state, layout)


@pytest.mark.parametrize(
    ("layout", "config", "overrides", "named"),
    [
        ("torchvision", "coco/mask_rcnn_R_50_C4_1x.yaml", (), "feature pyramid"),
        ("torchvision", "coco/mask_rcnn_R_50_FPN_1x_dconv_c3-c5.yaml", (), r"conv2_offset|backbone\.res"),
        ("torchvision", PYRAMID, ("model.roi_heads.box_head.class_agnostic=true",), r"bbox_pred"),
        ("torchvision", PYRAMID, ("model.roi_heads.mask_head.class_agnostic=true",), r"mask_head\.predictor"),
        ("detectron2", "torchvision/faster_rcnn_mobilenet_v3_large_FPN.yaml", (), r"backbone\.body|neck"),
    ],
)
def test_what_one_layout_alone_cannot_express(state_of, layout, config, overrides, named):
    with pytest.raises(ValueError, match=rf"(?s){layout}'s layout.*({named})"):
        export_state(state_of(config, *overrides), layout)


def test_a_region_convolution_is_no_3x3_convolution():
    state = {"neck.laterals.res2.weight": torch.zeros(1), "roi_heads.box_head.convs.0.weight": torch.zeros(2, 2, 7, 7)}
    with pytest.raises(ValueError, match=r"3x3 convolutions: roi_heads\.box_head\.convs\.0\.weight"):
        export_state(state, "detectron2")


def test_an_unknown_layout():
    with pytest.raises(ValueError, match="expected one of detectron2, torchvision, got 'caffe'"):
        export_state({}, "caffe")
