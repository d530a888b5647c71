"""The tools that importers are written with, and the choice between them."""

import pytest
import torch

from detkit.checkpoint import IMPORTERS, Importer, import_foreign
from detkit.checkpoint.formats.importing import (
    UNKNOWN,
    Imported,
    background_last,
    import_by_rules,
    place_backbone,
    renamed,
    without_background,
)

ONE = torch.ones(1)


def sizes(*names):
    return {name: torch.Size((1,)) for name in names}


def test_the_first_rule_that_matches_the_whole_name_counts():
    rules = ((r"a(\d)", r"b.\1"), (r"a.*", "c"), (r"n(\d)", lambda m: str(int(m[1]) + 1)), ("z", lambda m: None))
    assert [renamed(name, rules) for name in ("a1", "a12", "n4", "xa1", "z")] == ["b.1", "c", "5", None, None]


def test_every_name_is_accounted_for_once():
    state = {name: torch.tensor(float(i)) for i, name in enumerate(("x", "same", "junk", "odd", "other_x"))}
    imported = import_by_rules(state, (("(?:other_)?x", "y"), ("same|junk", r"\g<0>")), (("junk", "of no use"),))
    assert imported.model == {"y": state["x"], "same": state["same"]}
    assert imported.origin == {"y": "x"}
    assert imported.unused == {"junk": "of no use", "odd": UNKNOWN, "other_x": "means y, as x does, which came first"}


def test_changes_are_noted_and_add_up():
    imported = Imported({"a": torch.arange(3), "b": torch.arange(3)})
    imported.change("a", background_last, "turned")
    imported.change("a", without_background, "cut")
    assert imported.model["a"].tolist() == [2, 0]
    assert imported.changes == {"a": "turned; cut"}
    assert imported.model["b"].tolist() == [0, 1, 2]


def test_what_is_computed_replaces_its_sources_and_names_them():
    imported = Imported({"a": ONE, "b": ONE, "c": ONE}, {"a": "x", "c": "z"}, {"b": "turned"})
    imported.compute({"d": 2 * ONE, "c": 3 * ONE}, {"d": ("a", "b", "gone"), "c": ("c",)}, "added")
    assert imported.model == {"c": 3 * ONE, "d": 2 * ONE}
    assert imported.origin == {"d": "x + b", "c": "z"}
    assert imported.changes == {"d": "added", "c": "added"}
    imported.drop("c", "no use")
    imported.drop("gone", "no use")
    assert imported.unused == {"z": "no use"}


def test_rows_of_the_background():
    rows = torch.arange(8)
    assert background_last(rows).tolist() == [1, 2, 3, 4, 5, 6, 7, 0]
    assert without_background(rows, 4).tolist() == [4, 5, 6, 7]


def placed(wanted, **others):
    imported = Imported({"backbone.res2.a": ONE, "backbone.res5.a": ONE, **others}, {"backbone.res5.a": "r5"})
    place_backbone(imported, wanted)
    return imported


def test_a_backbone_finds_its_place():
    assert placed({}).origin == {"backbone.res5.a": "r5"}
    assert placed(sizes("backbone.res2.a", "roi_heads.res5.a")).origin == {"roi_heads.res5.a": "r5"}
    assert placed(sizes("res2.a", "res5.a")).origin == {"res2.a": "backbone.res2.a", "res5.a": "r5"}
    detector = placed(sizes("backbone.res2.a", "roi_heads.res5.a"), **{"roi_heads.box": ONE})
    assert "backbone.res5.a" in detector.model


def test_files_whose_names_the_model_has_are_left_alone():
    state = {"res2.0.conv1.weight": ONE, "stem.conv1.weight": ONE}  # Detectron2's, and those of detkit's ResNet
    assert import_foreign(state, sizes(*state)) == Imported(state)
    imported = import_foreign(state, {})
    assert imported.format == "Detectron2"
    assert set(imported.model) == {f"backbone.{name}" for name in state}
    assert import_foreign({**state, "stem.fc.weight": ONE}, sizes(*state)).format  # to report the rest
    odd = {"proposal_generator.rpn_head.conv.weight": ONE, "a": ONE, "b": ONE}  # a model of the user's own
    assert import_foreign(odd, sizes("a", "b", "c")) == Imported(odd)
    assert import_foreign({"something": ONE}, sizes("else")) == Imported({"something": ONE})


@pytest.mark.parametrize(
    ("name", "format_name"),
    [
        ("backbone.bottom_up.res2.0.conv1.weight", "Detectron2"),
        ("backbone.fpn_lateral2.weight", "Detectron2"),
        ("proposal_generator.rpn_head.conv.weight", "Detectron2"),
        ("res2.0.conv1.norm.weight", "Detectron2"),
        ("res2_0_branch2a_w", "Caffe2"),
        ("fpn_inner_res5_2_sum_w", "Caffe2"),
        ("conv_rpn_fpn2_w", "Caffe2"),
        ("backbone.res2.0.conv1.weight", None),
        ("roi_heads.box_head.fcs.0.weight", None),
        ("roi_heads.mask_head.deconv.weight", None),
        ("fc1.weight", None),
    ],
)
def test_one_name_tells_the_format(name, format_name):
    recognised = [kind.name for _, kind in IMPORTERS if kind().recognises([name])]
    assert recognised == ([] if format_name is None else [format_name])


def test_an_importer_of_ones_own_is_asked_before_the_others():
    @IMPORTERS.register()
    class OwnImporter(Importer):
        name = "own"

        def recognises(self, names):
            return "mine" in names

        def convert(self, state, wanted):
            return Imported({"backbone.mine": state["mine"]})

    try:
        found = import_foreign({"mine": torch.ones(1), "fpn.C1.0.weight": torch.ones(1)}, {})
        assert (found.format, list(found.model)) == ("own", ["backbone.mine"])
    finally:
        IMPORTERS.forget(__name__)
    assert import_foreign({"mine": torch.ones(1), "fpn.C1.0.weight": torch.ones(1)}, {}).format.startswith("matterport")
