"""``detkit predict`` of models with panoptic and semantic maps: pictures, and COCO's files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from panoptic_folder import write_panoptic
from PIL import Image
from tiny_detector import TINY

from detkit.checkpoint import Checkpoint
from detkit.commands import evaluate
from detkit.commands.predict import main
from detkit.config import ConfigError
from detkit.experiment import load_experiment
from detkit.registry import DataError

CONFIG = Path(__file__).resolve().parents[2] / "configs/quick_start/panoptic_fpn_shapes.yaml"


@pytest.fixture
def given(tmp_path):
    """Weights of a panoptic model and two images, as the command line has them."""
    return saved(tmp_path, *TINY, "model.merge={score_thresh: 0, stuff_area: 1}")


def saved(folder, *overrides):
    torch.manual_seed(0)
    experiment = load_experiment(CONFIG, overrides)
    model = experiment.build_model()
    content = Checkpoint(
        model.state_dict(), model.class_names, category_ids=model.category_ids, config=experiment.tree
    ).content()
    torch.save(content, folder / "weights.pth")
    (folder / "images").mkdir()
    for index in range(2):
        Image.fromarray(experiment.data.test_set.read_image(index)).save(folder / f"images/{index}.png")
    return [str(folder / "images"), "--weights", str(folder / "weights.pth"), "--score-thresh", "0"]


def check_maps(json_file):
    """The categories of a file of maps, each of which fits its PNG."""
    written = json.loads(json_file.read_text())
    names = {entry["id"]: entry["name"] for entry in written["categories"]}
    assert {"circle", "stripes"} <= set(names.values())
    assert "things" not in names.values()
    for entry in written["annotations"]:
        colors = np.array(Image.open(json_file.with_suffix("") / entry["file_name"]), np.int64)
        areas = np.bincount((colors @ [1, 256, 65536]).ravel())
        assert entry["segments_info"]
        assert all(areas[row["id"]] == row["area"] and row["category_id"] in names for row in entry["segments_info"])
    return names, [entry["image_id"] for entry in written["annotations"]]


def test_maps_are_drawn_and_written_beside_the_objects(tmp_path, given):
    results = tmp_path / "out/results.json"
    assert main([*given, "--output", str(tmp_path / "out"), "--json", str(results)]) == 0
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"0.png", "1.png"}
    assert check_maps(tmp_path / "out/results_panoptic.json")[1] == [1, 2]


def test_many_images_have_their_maps_too_and_go_on(tmp_path, given, capsys):
    found = tmp_path / "found"
    images, *options = given
    assert main([f"{images}/1.png", *options, "--results", str(found)]) == 0
    (found / "panoptic.json").unlink()
    (found / "panoptic/000000000001.png").unlink()  # as a line that a power cut has taken: both are made again
    (found / "images-00000.jsonl").write_text("")
    assert main([*given, "--results", str(found)]) == 0
    assert "panoptic.json" in capsys.readouterr().out
    ids = check_maps(found / "panoptic.json")[1]
    assert sorted(ids) == [1, 2]
    assert json.loads((found / "predictions-00000.jsonl").read_text().splitlines()[0])["image_id"] in ids


def test_maps_have_the_ids_of_a_panoptic_file(tmp_path, given):
    (tmp_path / "data").mkdir()
    options, _ = write_panoptic(tmp_path / "data", num_images=2)
    file = Path(options["panoptic_json"])
    content = json.loads(file.read_text())
    for number, entry in enumerate(content["categories"]):
        entry["id"] = 100 + 3 * number
    for entry in content["images"]:
        entry["id"] += 40
    content["annotations"] = [{**entry, "segments_info": []} for entry in content["annotations"]]
    file.write_text(json.dumps(content))
    for option, place in (("--json", "results_panoptic.json"), ("--results", "panoptic.json")):
        target = tmp_path / option.strip("-")
        written = target if option == "--results" else target / "results.json"
        assert main([*given, option, str(written), "--annotations", str(file)]) == 0
        names, ids = check_maps(target / place)
        assert sorted(ids) == [40, 41]
        assert names == {entry["id"]: entry["name"] for entry in content["categories"]}


def test_a_folder_of_results_is_evaluated_with_its_maps(tmp_path, given, capsys):
    data = load_experiment(CONFIG, TINY).data.test_set
    content = data.coco()
    for index, image in enumerate(content["images"]):
        image["file_name"] = f"{index}.png"
        Image.fromarray(data.read_image(index)).save(tmp_path / "images" / image["file_name"])
    (tmp_path / "truth.json").write_text(json.dumps(content))
    found, out = tmp_path / "found", tmp_path / "run"
    assert main([*given, "--results", str(found), "--annotations", str(tmp_path / "truth.json")]) == 0
    for results, parts in ((found, {"box", "mask", "panoptic"}), (found / "panoptic.json", {"panoptic"})):
        assert evaluate.main([str(CONFIG), "--results", str(results), *TINY, f"train.output_dir={out}"]) == 0
        assert parts == {*json.loads((out / "evaluation.json").read_text())}
        assert (out / "report.html").is_file()
    with pytest.raises(ConfigError, match="such results are evaluated by PanopticEvaluator"):
        evaluate.main([str(CONFIG), "--results", str(results), *TINY, f"train.output_dir={out}", "evaluators=[]"])


@pytest.mark.parametrize("option", ["--json", "--results"])
def test_semantic_maps_alone_are_no_coco_results(tmp_path, option):
    parts = "backbone: {name: ResNet, depth: 18, width: 8, norm: BN}, neck: {name: FPN, out_channels: 16}"
    given = saved(
        tmp_path,
        *(override for override in TINY if not override.startswith("model.")),
        f"model={{name: SemanticSegmentor, {parts}, semantic_head: {{name: SemanticFPNHead, conv_dim: 8}}}}",
        "evaluators=[]",
    )
    with pytest.raises(DataError, match=rf"{option}: the model predicts semantic maps alone.*--output DIR"):
        main([*given, option, str(tmp_path / "found")])
