"""The same run twice ends with the same weights to the last bit, whatever loads its images."""

from pathlib import Path

import pytest
import torch

from detkit.commands import train as train_command

ROOT = Path(__file__).resolve().parents[2]

OPTIONS = [
    "data.train_dataset.num_images=8",
    "data.train_dataset.image_size=[64, 64]",
    "data.test_dataset.num_images=1",
    "data.test_dataset.image_size=[64, 64]",
    "data.batch_size=2",
    "solver.max_iter=4",
    "solver.accumulate=2",
    "train.num_pictures=0",
    "train.checkpoint_period=4",
    "train.deterministic=true",
    "model.backbone.width=8",
    "model.neck.out_channels=16",
    "model.roi_heads.box_head.fc_dims=[16]",
    "evaluators=[]",
]


@pytest.fixture(autouse=True)
def _as_before():
    yield
    torch.use_deterministic_algorithms(False)


def checkpoint(folder, num_workers):
    config = str(ROOT / "configs/quick_start/mask_rcnn_shapes.yaml")
    options = [*OPTIONS, f"train.output_dir={folder}", f"data.num_workers={num_workers}"]
    assert train_command.main(["--config-file", config, *options]) == 0
    assert torch.are_deterministic_algorithms_enabled()
    return torch.load(folder / "checkpoint_0000003.pth", weights_only=True)


def test_a_run_repeats_itself_with_any_number_of_loader_workers(tmp_path):
    one, other = (checkpoint(tmp_path / str(num_workers), num_workers) for num_workers in (2, 3))
    assert all(torch.equal(other["model"][key], value) for key, value in one["model"].items())
    torch.testing.assert_close(other["trainer"]["optimizer"], one["trainer"]["optimizer"], rtol=0, atol=0)
