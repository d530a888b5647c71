"""A training step with 1,000 instances in a large image takes little more memory than one with ten."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS = """
import numpy as np
import torch
from detkit.experiment import load_experiment
from detkit.structures import Boxes, Instances, PolygonMasks, Sample

config = "configs/quick_start/mask_rcnn_shapes.yaml"
overrides = ["model.roi_heads.sampling.batch_size_per_image=512"]
model = load_experiment(config, overrides).build_model(class_names=("thing",)).train()
size, random = (800, 1333), np.random.default_rng(0)


def peak():
    lines = open("/proc/self/status").read().splitlines()  # what getrusage says begins at the parent's
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def step(num):
    corners = random.uniform(0, 700, (num, 2))
    boxes = np.concatenate([corners, corners + random.uniform(10, 100, (num, 2))], 1)
    polygons = [[np.array([x1, y1, x2, y1, x2, y2, x1, y2])] for x1, y1, x2, y2 in boxes]
    fields = {"boxes": Boxes(torch.from_numpy(boxes)), "classes": torch.zeros(num, dtype=torch.int64)}
    target = Instances(size, masks=PolygonMasks(polygons, size), **fields)
    total = model([Sample(torch.zeros(3, *size, dtype=torch.uint8), size, target=target)]).total()
    total.backward()
    assert torch.isfinite(total)
    return peak()


step(10)
few = step(10)
print(step(1000) - few)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_a_thousand_instances_train_in_the_memory_of_ten():
    done = subprocess.run([sys.executable, "-c", STEPS], cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 256 * 1024, "KiB; IoUs of all anchors alone, at once, would take several times as much"
