"""A signal ends the tool with a code that says so, whenever it comes."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = [sys.executable, str(ROOT / "tools/train_net.py")]
SMALL = [
    "--config-file",
    str(ROOT / "configs/quick_start/mask_rcnn_shapes.yaml"),
    "data.train_dataset={name: Shapes, num_images: 9, image_size: [64, 64]}",
    "data.test_dataset={name: Shapes, num_images: 3, image_size: [64, 64], seed: 1}",
    "data.batch_size=2",
    "data.num_workers=1",
    "model.backbone.width=8",
    "train.log_period=1",
    "solver.max_iter=100000",
]


def started(folder, *options):
    return subprocess.Popen([*TOOL, *SMALL, f"train.output_dir={folder}", *options], stderr=subprocess.PIPE, text=True)


def wait_for(tool, happened):
    for _ in range(24000):
        if happened():
            return
        assert tool.poll() is None, tool.stderr.read()
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def listens(tool):
    caught = int(re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{tool.pid}/status").read_text())[1], 16)
    return caught & 1 << (signal.SIGTERM - 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_before_a_run_begins(tmp_path, number, code):
    with started(tmp_path / "run") as tool:
        wait_for(tool, lambda: listens(tool))
        tool.send_signal(number)
        said = tool.communicate(timeout=240)[1].splitlines()
    assert (tool.returncode, said[-1]) == (code, f"stopped by {number.name}; --resume goes on from here")
    assert not (tmp_path / "run/config.yaml").exists()


def test_twice_in_training(tmp_path):
    with started(tmp_path / "run", "train.doctor=false") as tool:
        wait_for(tool, (tmp_path / "run/metrics.jsonl").exists)
        tool.send_signal(signal.SIGUSR1)
        wait_for(tool, lambda: tool.poll() is not None or list((tmp_path / "run").glob("checkpoint_*.pth")))
        tool.send_signal(signal.SIGTERM)
        said = tool.communicate(timeout=240)[1].splitlines()
    assert (tool.returncode, said[-1]) == (
        75,
        f"stopped by SIGUSR1; --resume goes on from here: detkit train {tmp_path / 'run'} --resume",
    )
    assert (tmp_path / "run/last_checkpoint").is_file()
