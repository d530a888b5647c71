"""Options of models as they were called before: what a config of then says still builds, and builds the same."""

from pathlib import Path

import pytest

from detkit.config import ConfigError
from detkit.experiment import load_experiment
from detkit.layers import BN, GN, FrozenBN
from detkit.modeling.proposals import MatterportRPN, TorchvisionRPN
from detkit.modeling.roi_heads import Detection, MatterportRoIHeads
from detkit.modeling.sampling import Sampling

QUICK_START = Path(__file__).parents[2] / "configs/quick_start/mask_rcnn_shapes.yaml"
RPN, HEADS = "model.proposal_generator", "model.roi_heads"


def model(*overrides):
    return load_experiment(QUICK_START, overrides).build_model(3)


@pytest.fixture
def model_of(tmp_path):
    """Builds the quick start's model with lines of a file of then laid over it."""

    def build(text):
        (tmp_path / "then.yaml").write_text(f"_base_: {QUICK_START}\n{text}")
        return load_experiment(tmp_path / "then.yaml").build_model(3)

    return build


def test_options_that_are_grouped_today_are_moved_with_a_line_each(caplog):
    built = model(
        f"{RPN}.batch_size_per_image=7", f"{RPN}.positive_fraction=0.25", f"{HEADS}.batch_size_per_image=9",
        f"{HEADS}.box_head.score_thresh=0.3", f"{HEADS}.box_head.nms_thresh=0.6", f"{HEADS}.box_head.max_detections=8",
    )  # fmt: skip
    assert built.proposal_generator.sampling == Sampling(7, 0.25)
    assert built.roi_heads.sampling == Sampling(9, 0.5)
    assert built.roi_heads.box_head.detection == Detection(0.3, 0.6, 8)
    said = [record.getMessage() for record in caplog.records if "now" in record.getMessage()]
    assert sum("sampling.batch_size_per_image' now" in line for line in said) == 2
    assert any("'model.roi_heads.box_head.detection.score_thresh' now" in line for line in said)


def test_a_saved_config_with_all_defaults_of_then_loads(model_of):
    text = """
model:
  proposal_generator:
    mean_over: batch_size
    selection: {rules: {topk: level, topk_by: logit, nms: level, nms_by: logit, clip: image}}
    box_coder: {weights: [1.0, 1.0, 1.0, 1.0], max_log_scale: 4.135}
  roi_heads:
    fill_background: true
    box_head: {detection: {one_class_per_region: false, round_boxes: false, min_size: null}}
"""
    built = model_of(text)
    assert type(built.proposal_generator).__name__ == "RPN"
    assert built.proposal_generator.box_coder.max_log_scale == 4.135
    assert type(built.roi_heads).__name__ == "StandardRoIHeads"


def test_an_option_of_one_reference_alone_makes_the_node_its_class(model_of):
    text = """
model:
  proposal_generator: {mean_over: samples}
  roi_heads: {fill_background: false}
"""
    built = model_of(text)
    assert type(built.proposal_generator) is TorchvisionRPN
    assert type(built.roi_heads) is MatterportRoIHeads


@pytest.mark.parametrize(
    ("text", "kind", "eps"),
    [
        ("{norm: GN, norm_eps: 0.01}", GN, 0.01),
        ("{norm_eps: 0.01}", BN, 0.01),
        ("{norm: FrozenBN}", FrozenBN, 1e-5),
        ("{norm: {name: BN, eps: 0.1}}", BN, 0.1),
    ],
)
def test_norms_by_name_and_their_epsilon_beside_them(model_of, text, kind, eps):
    norm = model_of(f"model: {{backbone: {text}}}").backbone.res5[0].conv1.norm
    assert (type(norm), norm.eps) == (kind, eps)


def test_an_epsilon_of_no_norm_says_nothing(model_of):
    text = "model: {roi_heads: {mask_head: {norm: null, norm_eps: 1.0e-05}}}"
    assert model_of(text).roi_heads.mask_head.convs[0].norm is None


def test_rules_of_a_reference_may_leave_out_what_was_the_default(model_of):
    text = "model: {proposal_generator: {mean_over: samples, selection: {rules: {nms_by: probability}}}}"
    assert type(model_of(text).proposal_generator) is TorchvisionRPN


def test_rules_of_a_reference_with_means_of_another_are_refused_as_no_class_has_both(model_of):
    with pytest.raises(ConfigError, match="their losses are means over the samples"):
        model_of("model: {proposal_generator: {selection: {rules: {nms_by: probability}}}}")


@pytest.mark.parametrize(
    "override",
    [f"{HEADS}.fill_background=true", f"{RPN}.mean_over=batch_size", f"{HEADS}.mask_head.norm_eps=0.01"],
)
def test_an_override_that_says_of_an_earlier_option_what_is_so_anyway_changes_nothing(override):
    assert load_experiment(QUICK_START, [override]).tree == load_experiment(QUICK_START).tree


def test_a_negative_epsilon_is_refused_with_its_place():
    with pytest.raises(ConfigError, match=r"model.backbone.norm.eps: expected float \(> 0\), got -1"):
        model("model.backbone.norm.eps=-1.0")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"{RPN}.selection.rules={{topk: image}}", ["selection.rules", MatterportRPN.__name__]),
        (f"{HEADS}.box_head.detection.round_boxes=true", ["round_boxes", "MatterportBoxHead"]),
    ],
)
def test_what_only_a_class_of_its_own_does_today_is_refused_with_its_name(override, words):
    with pytest.raises(ConfigError) as caught:
        model(override)
    assert all(word in str(caught.value) for word in words)


def test_an_override_with_a_bare_name_keeps_the_options_that_fit():
    config = "configs/matterport/mask_rcnn_R_50_FPN.yaml"
    for override in ("model.backbone.norm=BN", "model.backbone.norm.name=BN"):
        assert load_experiment(config, [override]).tree["model"]["backbone"]["norm"] == {"name": "BN", "eps": 0.001}
