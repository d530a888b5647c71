"""Rules that span several parts of a config."""

import io
import json
import pickle

import pytest
import torch
from tiny_detector import tiny_experiment
from torch import nn

from detkit.checkpoint import read_checkpoint
from detkit.config import Recipe, parts_of
from detkit.evaluating import evaluate_results
from detkit.experiment import load_experiment
from detkit.experiment.run import owned
from detkit.modeling.matcher import Matcher
from detkit.modeling.roi_heads import StandardRoIHeads
from detkit.registry import ConfigError, DataError

PRESET, PLAIN = "configs/matterport/mask_rcnn_R_50_FPN.yaml", "configs/coco/mask_rcnn_R_50_FPN_1x.yaml"
RPN, HEADS = "model.proposal_generator.matcher.crowd_thresh", "model.roi_heads.matcher.crowd_thresh"
CENTRES = "model.head.assigner.ignore_crowds"


def test_a_model_that_spares_crowds_needs_data_that_keep_them(pytestconfig):
    root = pytestconfig.rootpath
    with pytest.raises(ConfigError, match=rf"^{RPN}: 0\.001 spares .*data\.keep_crowd=true, or {RPN}=null"):
        load_experiment(root / PRESET, ["data.keep_crowd=false"])
    with pytest.raises(ConfigError, match=rf"^{HEADS}: 0\.2 spares"):
        load_experiment(root / PLAIN, [f"{HEADS}=0.2"])
    with pytest.raises(ConfigError, match=rf"^{CENTRES}: true spares .*data\.keep_crowd=true, or {CENTRES}=false"):
        load_experiment("quick_start/fcos_shapes", [f"{CENTRES}=true"])
    for overrides in ([f"{HEADS}=0.2", "data.keep_crowd=true"], ["data.keep_crowd=true"], []):
        assert load_experiment(root / PLAIN, overrides).tree
    assert load_experiment(root / PRESET, ["data.keep_crowd=false", f"{RPN}=null", f"{HEADS}=null"]).tree


def test_parts_are_found_wherever_they_stand(pytestconfig):
    exp = load_experiment(pytestconfig.rootpath / PLAIN)
    found = {path: options for path, _, options in parts_of(exp.model, Matcher, "model")}
    assert set(found) == {"model.proposal_generator.matcher", "model.roi_heads.matcher"}
    assert found["model.proposal_generator.matcher"]["foreground_thresh"] == 0.7
    heads = Recipe(StandardRoIHeads, {"matcher": Matcher(0.1, 0.2), "others": (Matcher(), {"inner": Matcher()})})
    assert [path for path, *_ in parts_of(heads, Matcher, "x")] == ["x.matcher", "x.others[0]", "x.others[1].inner"]
    assert [(path, cls) for path, cls, _ in parts_of([heads], StandardRoIHeads, "x")] == [("x[0]", StandardRoIHeads)]


CONFIGS = ["quick_start/mask_rcnn_shapes", "torchvision/faster_rcnn_mobilenet_v3_large_320_FPN"]
CONFIGS += ["matterport/mask_rcnn_R_50_FPN", "coco/mask_rcnn_R_50_C4_1x"]


@pytest.mark.parametrize("config", CONFIGS)
def test_models_can_be_pickled_whole(config, pytestconfig):
    experiment = load_experiment(pytestconfig.rootpath / f"configs/{config}.yaml")
    with torch.device("meta"):
        model = experiment.build_model(2, pretrained=False)
    for protocol in (2, 5):
        assert pickle.loads(pickle.dumps(model, protocol)).state_dict().keys() == model.state_dict().keys()
    torch.save(model, io.BytesIO())


def test_a_model_that_was_saved_whole_is_refused_with_what_to_save(tmp_path):
    torch.save(tiny_experiment().build_model(2), tmp_path / "model.pth")
    with pytest.raises(DataError, match=r"holds detkit\.modeling.*GeneralizedRCNN.*model\.state_dict\(\)"):
        read_checkpoint(tmp_path / "model.pth")


def test_a_layer_without_a_shape_is_named(monkeypatch):
    experiment = tiny_experiment()
    build = experiment.model.cls.__init__

    def with_lazy_layer(self, *arguments, **options):
        build(self, *arguments, **options)
        self.neck.extra = nn.LazyLinear(4)

    monkeypatch.setattr(experiment.model.cls, "__init__", with_lazy_layer)
    with pytest.raises(ConfigError, match=r"^model\.neck\.extra\.weight: has no shape.*input_shape"):
        experiment.build_model(2)


@pytest.mark.parametrize("name", ["file", "file/run", "x" * 300])
def test_an_output_folder_that_cannot_be_is_named(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"^train\.output_dir: '.*' cannot be a folder"), owned(tmp_path / name):
        pass
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.neck={name: PAFPN, in_features: [res2, res4]}"], ["model.neck", "PAFPN needs strides that double"]),
        (
            ["model.backbone.out_features=[res4]"],
            ["model.neck", "FPN joins", "res4 of stride 16", "SimpleFeaturePyramid"],
        ),
        (["model.backbone={name: ViT}"], ["model.neck.in_features", "FPN joins", "got one, res4 of stride 16"]),
        (["model.backbone={name: Swin}", "model.neck={name: BiFPN, in_features: [res2, res5]}"], ["BiFPN", "[4, 32]"]),
        (["model.backbone={name: ViT, patch_size: 14}", "model.neck={name: SimpleFeaturePyramid}"], ["14 cannot be"]),
    ],
)
def test_a_neck_that_does_not_take_the_maps_is_said_before_anything_is_built(overrides, words, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *a, **k: pytest.fail("something was built"))
    with pytest.raises(ConfigError, match=r"^model\.neck") as error:
        load_experiment("quick_start/mask_rcnn_shapes", overrides)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ("CocoEvaluator", "LvisEvaluator", "box"),
        ("DetectionErrors", "DetectionErrors", "errors"),
        ("CocoEvaluator, tasks: [box]", "CocoEvaluator, tasks: [mask, box]", "box"),
        ("CocoEvaluator, tasks: [boundary]", "CocoEvaluator, tasks: [mask, box]", ""),
        ("DetectionErrors", "DetectionErrors, task: mask", ""),
    ],
)
def test_evaluators_whose_results_have_one_name_are_refused_when_they_are_built(first, second, name):
    experiment = tiny_experiment(f"evaluators=[{{name: {first}}}, {{name: {second}}}]")
    if not name:
        assert len(experiment.build_evaluators()) == 2
        return
    with pytest.raises(ConfigError, match=f"evaluators: .* both give results named '{name}'"):
        experiment.build_evaluators()


def test_all_evaluators_of_a_kind_take_a_file_of_detections(tmp_path):
    tasks = ("[box]", "[mask]")
    nodes = ", ".join(f"{{name: CocoEvaluator, tasks: {task}}}" for task in tasks)
    experiment = tiny_experiment(f"evaluators=[{nodes}]", f"train.output_dir={tmp_path / 'out'}")
    content = experiment.data.test_set.coco()
    rows = [{**row, "score": 0.5} for row in content["annotations"]]
    (tmp_path / "found.json").write_text(json.dumps(rows))
    evaluate_results(experiment, tmp_path / "found.json")
    results = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert {task: metrics["AP"] for task, metrics in results.items()} == {"box": 1, "mask": 1}
