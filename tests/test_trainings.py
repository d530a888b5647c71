"""Slow: whole trainings that must reach the AP that the README and the configs promise."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def train(config: Path, output: Path, *overrides: str, **environment: str) -> dict:
    """Runs ``detkit train`` as a user would; the AP of each task."""
    command = [sys.executable, "-m", "detkit", "train", str(config), f"train.output_dir={output}"]
    done = subprocess.run([*command, *overrides], cwd=ROOT, env={**os.environ, **environment}, check=False)
    assert done.returncode == 0
    results = json.loads((output / "evaluation.json").read_text())
    ap = {task: metrics["AP"] for task, metrics in results.items() if "AP" in metrics}
    print(f"{config.name}: {ap}")
    return ap


def test_quick_start(tmp_path):
    ap = train(ROOT / "configs/quick_start/mask_rcnn_shapes.yaml", tmp_path)
    assert ap["box"] >= 0.60
    assert ap["mask"] >= 0.60


@pytest.mark.parametrize(
    ("config", "task", "least"),
    [
        ("retinanet_shapes", "box", 0.60),
        ("fcos_shapes", "box", 0.60),
        ("cascade_mask_rcnn_shapes", "box", 0.70),
        ("keypoint_rcnn_shapes", "keypoints", 0.70),
    ],
)
def test_other_detectors_learn_the_shapes_too(tmp_path, config, task, least):
    assert train(ROOT / f"configs/quick_start/{config}.yaml", tmp_path)[task] >= least


def test_matterport_preset_on_shapes(tmp_path):
    ap = train(ROOT / "configs/matterport/mask_rcnn_R_50_FPN_shapes.yaml", tmp_path)
    assert ap["box"] >= 0.50
    assert ap["mask"] >= 0.50


def test_nuclei_from_scratch(tmp_path, shared_data):
    config = ROOT / "configs/nuclei/mask_rcnn_R_18_FPN.yaml"
    ap = train(config, tmp_path, DETKIT_DATASETS=str(shared_data))
    assert ap["box"] >= 0.43
    assert ap["mask"] >= 0.40


def test_balloon_from_imagenet_weights(tmp_path, shared_data):
    config = ROOT / "configs/balloon/mask_rcnn_mobilenet_v2_FPN.yaml"
    ap = train(config, tmp_path, DETKIT_DATASETS=str(shared_data))
    assert ap["box"] >= 0.30
    assert ap["mask"] >= 0.32


def test_eight_photographs_of_coco_can_be_learned_by_heart(tmp_path, shared_data):
    root = shared_data / "coco_mini"
    full = json.loads((root / "annotations/instances_val2017.json").read_text())
    crowded = {a["image_id"] for a in full["annotations"] if a["iscrowd"]}
    count = {i["id"]: sum(a["image_id"] == i["id"] for a in full["annotations"]) for i in full["images"]}
    by_number = sorted(full["images"], key=lambda i: (i["id"] not in crowded, count[i["id"]] == 0, i["id"]))
    images = by_number[:3] + [i for i in full["images"] if count[i["id"]] and i["id"] not in crowded][:5]
    ids = {i["id"] for i in images}
    annotations = [a for a in full["annotations"] if a["image_id"] in ids]
    assert len(ids) == 8
    assert any(a["iscrowd"] for a in annotations)
    json_file = tmp_path / "eight.json"
    json_file.write_text(json.dumps({**full, "images": images, "annotations": annotations}))
    dataset = f"{{name: CocoInstances, json_file: {json_file}, image_root: {root / 'val2017'}}}"
    config = ROOT / "configs/coco/mask_rcnn_mobilenet_v2_FPN_overfit.yaml"
    datasets = [f"data.train_dataset={dataset}", f"data.test_dataset={dataset}"]
    ap = train(config, tmp_path / "run", *datasets, DETKIT_DATASETS=str(shared_data))
    assert ap["mask"] >= 0.50
