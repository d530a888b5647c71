"""A failure from the training that meets it to the replay that finds it: a poisoned annotation, in loss or gradient."""

from pathlib import Path

import pytest
import torch

from detkit import command_line
from detkit.commands import replay as replay_command
from detkit.commands import train as train_command
from detkit.engine.failures.files import read_batches, read_state
from detkit.experiment import load_experiment
from detkit.registry import DataError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/quick_start/mask_rcnn_shapes.yaml"

POISON = """
import torch
from detkit.config import Recipe
from detkit.modeling.interfaces import MASK_HEADS, RoIPooler
from detkit.modeling.roi_heads import ConvUpsampleMaskHead
from detkit.structures import Losses


class Spoil(torch.autograd.Function):
    @staticmethod
    def forward(context, value):
        return value.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * float("nan")


@MASK_HEADS.register()
class PoisonedMaskHead(ConvUpsampleMaskHead):
    def __init__(self, input_shape, num_classes, *, pooler: Recipe[RoIPooler], victim: int, where: str):
        super().__init__(input_shape, num_classes, pooler=pooler, num_conv=1, conv_dim=8)
        self.victim, self.where = victim, where

    def loss(self, features, proposals):
        losses = super().loss(features, proposals)
        if not any((p.gt_annotation_ids == self.victim).any() for p in proposals if len(p)):
            return losses
        spoil = Spoil.apply if self.where == "gradient" else lambda loss: loss * float("nan")
        return Losses({"loss_mask": spoil(losses.terms["loss_mask"])}, losses.metrics, losses.normalisers)
"""
SMALL = [
    "data.train_dataset.num_images=8",
    "data.train_dataset.min_objects=3",
    "data.test_dataset.num_images=1",
    "data.train_augmentations=[{name: RandomFlip}]",
    "data.batch_size=2",
    "data.num_workers=0",
    "solver.accumulate=2",
    "solver.max_iter=4",
    "train.checkpoint_period=null",
    "train.device=cpu",
]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A config that imports the head; one file, because a class registers once."""
    folder = tmp_path_factory.mktemp("poison")
    (folder / "poison.py").write_text(POISON)
    (folder / "config.yaml").write_text(f"_base_: {CONFIG}\nimports: [poison.py]\n")
    return str(folder / "config.yaml")


@pytest.fixture
def failed_run(config, tmp_path):
    """Trains until the poison shows; gives the failure's folder, its words, and the victim's id and file."""

    def fail(where, *more):
        batches = iter(load_experiment(CONFIG, [*SMALL, *more]).data.train(0))
        chosen = [next(batches) for _ in range(4)][3][0]  # the second batch of the second step
        victim = int(chosen.target.annotation_ids[chosen.target.boxes.area().argmax()])
        pooler = "{name: RoIAlignPooler, output_size: 14, sampling_ratio: 2}"
        head = f"{{name: PoisonedMaskHead, victim: {victim}, where: {where}, pooler: {pooler}}}"
        run = [f"train.output_dir={tmp_path / 'run'}", f"model.roi_heads.mask_head={head}", *SMALL, *more]
        with pytest.raises(FloatingPointError) as error:
            train_command.main(["--config-file", config, *run])
        return tmp_path / "run" / "failure_step_1", str(error.value), victim, chosen.file_name

    return fail


def test_a_poisoned_annotation_is_named_written_down_and_found_again(failed_run, capsys):
    folder, words, victim, file = failed_run("loss")
    assert f"annotation {victim} of {file}: fails with no other object in the image" in words
    assert f"{file} does not fail without what was named" in words
    assert "step 1: the loss is not finite (loss_mask = nan)" in words
    assert "batch 2 of the step's" in words
    assert str(folder) in words
    assert (folder / "error.txt").read_text().strip() == words
    step = read_batches(folder)
    assert len(step.batches) == 2
    assert step.batch == 1
    assert file in [sample.file_name for sample in step.batches[1][0]]
    state = read_state(folder)
    assert all(torch.isfinite(value).all() for value in state["model"].values() if value.is_floating_point())
    assert next(iter(state["optimizer"]["state"].values()))["step"] == 1, "as before the step that failed"

    torch.manual_seed(99)
    assert replay_command.main(["--trust-imports", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert "the numbers are those of the failure, to the last bit" in printed
    assert "first output that is not finite: the loss itself" in printed
    assert f"suspect: annotation {victim} of {file}" in printed
    assert len(list((folder / "pictures").glob("*.png"))) == 4
    cured = ["--no-pictures", "model.roi_heads.mask_head.victim=-1"]
    assert replay_command.main(["--trust-imports", str(folder), *cured]) == 0
    assert "the numbers are NOT those of the failure" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        replay_command.main(["--help"])
    assert "failure_step_" in capsys.readouterr().out


def test_a_poisoned_gradient_is_found_before_the_weights_are_touched(failed_run, capsys):
    folder, words, victim, file = failed_run("gradient", "solver.clip_grad_norm=null")
    assert "the loss is finite and its gradients are not" in words
    assert f"annotation {victim} of {file}: fails with no other object" in words
    assert all(torch.isfinite(v).all() for v in read_state(folder)["model"].values() if v.is_floating_point())
    assert replay_command.main(["--trust-imports", str(folder), "--no-pictures"]) == 1
    printed = capsys.readouterr().out
    assert "first output that is not finite: none" in printed
    assert "first gradient that is not finite: roi_heads.mask_head.predictor" in printed
    assert f"suspect: annotation {victim} of {file}" in printed


def test_what_is_no_failure_is_refused(tmp_path):
    assert command_line.run(lambda: replay_command.main([str(tmp_path)])) == 2
    with pytest.raises(DataError, match=r"state\.pth: there is no such file"):
        read_state(tmp_path)
    (tmp_path / "state.pth").write_bytes(b"half")
    with pytest.raises(DataError, match=r"state\.pth: cannot be read"):
        read_state(tmp_path)
