"""Compiled parts: what is compiled, and that training with them is training."""

import json
from pathlib import Path

import pytest
import torch
from small import small_model
from torch import nn

from detkit.commands import train as train_command
from detkit.config import ConfigError
from detkit.experiment import load_experiment
from detkit.modeling.compiling import compile_parts, static_parts
from detkit.utils import environment

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/quick_start/mask_rcnn_shapes.yaml"
TINY = [
    "data.train_dataset={name: Shapes, num_images: 6, image_size: [64, 96]}",
    "data.test_dataset={name: Shapes, num_images: 2, image_size: [64, 96], seed: 1}",
    "data.batch_size=2",
    "model.backbone.width=8",
    "model.neck.out_channels=16",
    "model.roi_heads.box_head.fc_dims=[32]",
    "model.roi_heads.mask_head.conv_dim=8",
    "solver.max_iter=3",
    "train.log_period=1",
]


@pytest.fixture
def compiled(monkeypatch):
    """The parts that were handed to the compiler, which traces them and leaves their operators as they are."""
    seen, compile_module = [], nn.Module.compile

    def by_tracing_alone(part, **options):
        seen.append(part)
        compile_module(part, backend="eager", **options)

    torch._dynamo.reset()
    monkeypatch.setattr(nn.Module, "compile", by_tracing_alone)
    return seen


def test_backbone_neck_and_head_convolutions_are_compiled(compiled):
    model = small_model()
    names = list(model.state_dict())
    compile_parts(model)
    paths = {path for path, module in model.named_modules() if any(module is part for part in compiled)}
    assert paths >= {"backbone", "neck", "proposal_generator.head", "roi_heads.mask_head.convs"}
    assert compiled == list(static_parts(model))
    assert list(model.state_dict()) == names


@pytest.mark.slow
def test_a_compiled_training_is_the_same_training(compiled, tmp_path):
    """Bit by bit, where the compiler keeps the operators: nothing of a step, of its seeds or its hooks gets lost."""
    lines, weights = [], []
    for compile in ("false", "true"):
        folder = tmp_path / compile
        options = [f"train.output_dir={folder}", f"train.compile={compile}"]
        assert train_command.main(["--config-file", str(CONFIG), *TINY, *options]) == 0
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        lines.append([{k: v for k, v in row.items() if "loss" in k or k.endswith("AP")} for row in rows])
        weights.append(torch.load(folder / "model_final.pth", weights_only=True)["model"])
    assert compiled
    assert lines[0] == lines[1]
    assert any("total_loss" in line for line in lines[0])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_without_a_compiler_it_is_refused_before_anything_is_compiled(compiled, monkeypatch):
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler; install g\+\+"):
        compile_parts(small_model())
    assert not compiled


def test_parts_of_weights_are_not_compiled():
    with pytest.raises(ConfigError, match=r"train\.compile: not with"):
        load_experiment(CONFIG, ["train.compile=true", "train.parallel={name: FSDP}"])
