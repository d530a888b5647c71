"""A training that meets an image cut in half ends with the file's name, or goes on without it by option."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detkit.commands import train as train_command
from detkit.registry import DataError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("suffix", "workers"), [("jpg", 0), ("png", 2)])
def test_an_image_cut_in_half_ends_a_training_or_is_left_out(tmp_path, suffix, workers):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    images, boxes = [], []
    for number in range(4):
        name = f"image_{number}.{suffix}"
        Image.fromarray(pixels).save(tmp_path / name)
        images.append({"id": number, "file_name": name, "height": 64, "width": 64})
        polygon = [[5, 5, 40, 5, 40, 40, 5, 40]]
        boxes.append({"id": number + 1, "image_id": number, "category_id": 1, "bbox": [5, 5, 35, 35], "iscrowd": 0})
        boxes[-1] |= {"segmentation": polygon, "area": 1225}
    broken = tmp_path / f"image_2.{suffix}"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    data = f"{{name: CocoInstances, json_file: {tmp_path / 'a.json'}, image_root: {tmp_path}}}"
    run = [
        f"data.train_dataset={data}",
        f"data.test_dataset={data}",
        "data.batch_size=1",
        f"data.num_workers={workers}",
        "solver.max_iter=4",
        "train.doctor=false",
        "train.log_period=1",
        "train.device=cpu",
        f"train.output_dir={tmp_path / 'run'}",
    ]
    unchecked = ["data.train_dataset.check_images=0", "data.test_dataset.check_images=0"]
    config = ["--config-file", str(ROOT / "configs/quick_start/mask_rcnn_shapes.yaml")]
    with pytest.raises(DataError, match=r"cannot be decoded.*To leave out images .* data\.skip_unreadable=true"):
        train_command.main([*config, *run])  # before it begins
    with pytest.raises(DataError, match=re.escape(f"{broken}: cannot be decoded as an image")):
        train_command.main([*config, *run, *unchecked])
    metrics = tmp_path / "run/metrics.jsonl"
    steps = len(metrics.read_text().splitlines()) if metrics.is_file() else 0
    assert len(list((tmp_path / "run").glob("checkpoint_*.pth"))) == (steps > 0)
    assert train_command.main([*config, "--resume", *run, "data.skip_unreadable=true"]) == 0
    assert f"left out (1 by now): {broken}" in (tmp_path / "run/log.txt").read_text()
    assert (tmp_path / "run/evaluation.json").is_file()
