"""detkit's configs by name: found from any folder, after what lies there; a misspelt one is answered."""

from pathlib import Path

import pytest

from detkit.config import ConfigError, load_config
from detkit.config.named import CONFIGS, config_names, find_config

NAME = "coco/mask_rcnn_R_50_FPN_1x"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", [NAME, f"{NAME}.yaml", f"configs/{NAME}.yaml"])
def test_a_config_is_found_by_name_from_an_empty_folder(text):
    assert load_config(text).tree == load_config(CONFIGS / f"{NAME}.yaml").tree


def test_every_name_is_a_config_and_bases_are_none():
    names = config_names()
    assert NAME in names
    assert not [name for name in names if name.startswith("_base_")]
    for name in names:
        assert load_config(name).tree["model"]["name"]


def test_the_bases_of_a_users_config_may_be_names(empty_folder):
    (empty_folder / "my.yaml").write_text(
        f"_base_: [{NAME}, _base_/schedules/3x]\nmodel: {{neck: {{out_channels: 7}}}}"
    )
    tree = load_config("my.yaml").tree
    assert tree["model"]["neck"]["out_channels"] == 7
    assert tree["solver"]["max_iter"] == 270000
    assert load_config("my").tree == tree


@pytest.mark.parametrize("kept", [f"{NAME}.yaml", NAME])
def test_a_file_in_the_folder_goes_first(empty_folder, kept):
    (empty_folder / "coco").mkdir()
    (empty_folder / kept).write_text("model: {name: Mine}")
    (empty_folder / "base.yaml").write_text(f"_base_: {NAME}")
    assert load_config(NAME).tree == load_config("base.yaml").tree == {"model": {"name": "Mine"}}


def test_a_run_folder_is_its_config(empty_folder):
    (empty_folder / "run").mkdir()
    (empty_folder / "run/config.yaml").write_text("model: {name: Mine}")
    assert load_config("run").tree == {"model": {"name": "Mine"}}
    (empty_folder / "run/run_config.yaml").write_text("model: {name: TheRuns}")  # beside one of the user's
    assert load_config("run").tree == {"model": {"name": "TheRuns"}}


@pytest.mark.parametrize("text", ["coco/mask_rcn_R_50_FPN_1x", "coco/mask_rcnn_R50_FPN_1x.yaml", NAME[5:]])
def test_a_misspelt_name_is_answered_with_the_nearest(empty_folder, text):
    (empty_folder / "my.yaml").write_text(f"_base_: {text}")
    for given in (text, "my.yaml"):
        with pytest.raises(ConfigError, match=rf"Did you mean '{NAME}'\?"):
            load_config(given)


def test_only_names_lead_out_of_the_folder():
    for text in ("/quick_start/mask_rcnn_shapes.yaml", "../quick_start/mask_rcnn_shapes", "coco/../quick_start"):
        with pytest.raises(ConfigError, match="there is no such file"):
            load_config(text)


def test_what_names_nothing_stays_a_path(tmp_path):
    assert find_config(Path("nothing"), tmp_path) == tmp_path / "nothing"
