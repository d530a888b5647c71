"""Rules that span several parts of a config."""

import pytest

from detkit.config import Recipe, parts_of
from detkit.experiment import load_experiment
from detkit.modeling.matcher import Matcher
from detkit.modeling.roi_heads import StandardRoIHeads
from detkit.registry import ConfigError

PRESET, PLAIN = "configs/matterport/mask_rcnn_R_50_FPN.yaml", "configs/coco/mask_rcnn_R_50_FPN_1x.yaml"
RPN, HEADS = "model.proposal_generator.matcher.crowd_thresh", "model.roi_heads.matcher.crowd_thresh"


def test_a_model_that_spares_crowds_needs_data_that_keep_them(pytestconfig):
    root = pytestconfig.rootpath
    with pytest.raises(ConfigError, match=rf"^{RPN}: 0\.001 spares .*data\.keep_crowd=true, or {RPN}=null"):
        load_experiment(root / PRESET, ["data.keep_crowd=false"])
    with pytest.raises(ConfigError, match=rf"^{HEADS}: 0\.2 spares"):
        load_experiment(root / PLAIN, [f"{HEADS}=0.2"])
    for overrides in ([f"{HEADS}=0.2", "data.keep_crowd=true"], ["data.keep_crowd=true"], []):
        assert load_experiment(root / PLAIN, overrides).tree
    assert load_experiment(root / PRESET, ["data.keep_crowd=false", f"{RPN}=null", f"{HEADS}=null"]).tree


def test_parts_are_found_wherever_they_stand(pytestconfig):
    exp = load_experiment(pytestconfig.rootpath / PLAIN)
    found = dict(parts_of(exp.model, Matcher, "model"))
    assert set(found) == {"model.proposal_generator.matcher", "model.roi_heads.matcher"}
    assert found["model.proposal_generator.matcher"]["foreground_thresh"] == 0.7
    heads = Recipe(StandardRoIHeads, {"matcher": Matcher(0.1, 0.2), "others": (Matcher(), {"inner": Matcher()})})
    assert list(dict(parts_of(heads, Matcher, "x"))) == ["x.matcher", "x.others[0]", "x.others[1].inner"]
    assert [path for path, _ in parts_of([heads], StandardRoIHeads, "x")] == ["x[0]"]
