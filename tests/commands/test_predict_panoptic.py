"""``detkit predict`` of a model with panoptic maps: pictures, and COCO's files."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny_detector import TINY

from detkit.checkpoint import Checkpoint
from detkit.commands.predict import main
from detkit.experiment import load_experiment

CONFIG = Path(__file__).resolve().parents[2] / "configs/quick_start/panoptic_fpn_shapes.yaml"


def test_maps_are_drawn_and_written_beside_the_objects(tmp_path):
    torch.manual_seed(0)
    experiment = load_experiment(CONFIG, [*TINY, "model.merge={score_thresh: 0, stuff_area: 1}"])
    model = experiment.build_model()
    content = Checkpoint(
        model.state_dict(), model.class_names, category_ids=model.category_ids, config=experiment.tree
    ).content()
    torch.save(content, tmp_path / "weights.pth")
    (tmp_path / "images").mkdir()
    for index in range(2):
        Image.fromarray(experiment.data.test_set.read_image(index)).save(tmp_path / f"images/{index}.png")
    weights, results = str(tmp_path / "weights.pth"), tmp_path / "out/results.json"
    given = [str(tmp_path / "images"), "--weights", weights, "--output", str(tmp_path / "out"), "--json", str(results)]
    assert main([*given, "--score-thresh", "0"]) == 0
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"0.png", "1.png"}
    written = json.loads((tmp_path / "out/results_panoptic.json").read_text())
    names = {entry["id"]: entry["name"] for entry in written["categories"]}
    assert {"circle", "stripes"} <= set(names.values())
    assert "things" not in names.values()
    for entry in written["annotations"]:
        colors = np.array(Image.open(tmp_path / "out/results_panoptic" / entry["file_name"]), np.int64)
        areas = np.bincount((colors @ [1, 256, 65536]).ravel())
        assert entry["segments_info"]
        assert all(areas[row["id"]] == row["area"] and row["category_id"] in names for row in entry["segments_info"])
