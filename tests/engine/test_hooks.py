"""What the hooks write and show."""

import json
import logging

import pytest
import torch

from detkit.checkpoint import Checkpointer, resume
from detkit.engine import (
    HOOKS,
    CheckpointHook,
    EvalHook,
    Hook,
    MetricsWriter,
    ProgressBar,
    TensorBoardWriter,
    TorchProfiler,
)


class Collect(Hook):
    """Keeps every step's metrics, to average them by hand."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def after_step(self, trainer):
        self.steps.append({**trainer.losses.terms, **trainer.losses.metrics})


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_hold_means_over_the_window(make_trainer, tmp_path):
    collect = Collect()
    make_trainer(5, [MetricsWriter(), collect]).train()
    lines = read(tmp_path / "run" / "metrics.jsonl")
    assert [line["iteration"] for line in lines] == [1, 3, 4]
    for line, window in zip(lines, (collect.steps[0:2], collect.steps[2:4], collect.steps[4:])):
        for name in ("loss_l1", "loss_l2", "off"):
            assert line[name] == pytest.approx(sum(s[name].item() for s in window) / len(window), abs=1e-6)
        assert line["total_loss"] == pytest.approx(line["loss_l1"] + line["loss_l2"], rel=1e-5)
        assert 0 <= line["data_time"] < line["step_time"]
    assert [line["lr"] for line in lines] == pytest.approx([0.05 * 0.8, 0.05 * 0.4, 0.05 * 0.2])
    assert lines[-1]["eta_seconds"] == 0


def test_a_resume_cuts_what_it_does_again_and_what_is_torn(make_trainer, tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    make_trainer(6, [MetricsWriter()]).train()
    with path.open("a") as file:
        file.write('{"iteration": 0, "torn')
    trainer = make_trainer(8, [MetricsWriter()])
    trainer.finished = 4
    trainer.train()
    assert [line["iteration"] for line in read(path)] == [1, 3, 5, 7]
    make_trainer(2, [MetricsWriter()]).train()  # from the start: a new file
    assert [line["iteration"] for line in read(path)] == [1]


@pytest.mark.parametrize("lost", [1, 9])
def test_a_last_line_without_its_end_spoils_no_other(make_trainer, tmp_path, lost):
    path = tmp_path / "run" / "metrics.jsonl"
    make_trainer(4, [MetricsWriter()]).train()
    path.write_bytes(path.read_bytes()[:-lost])
    trainer = make_trainer(6, [MetricsWriter()])
    trainer.finished = 4
    trainer.train()
    assert [line["iteration"] for line in read(path)] == [1, 3, 5] if lost == 1 else [1, 5]


def test_a_line_that_is_no_json_is_left_out(make_trainer, tmp_path, caplog):
    class Publish(Hook):
        def after_step(self, trainer):
            trainer.publish({"iteration": trainer.step, "what": object()})

    make_trainer(4, [MetricsWriter(), Publish()]).train()
    assert [line["iteration"] for line in read(tmp_path / "run" / "metrics.jsonl")] == [1, 3]
    assert "a line is left out" in caplog.text


def test_a_run_that_was_killed_before_its_final_weights_gets_them_by_a_resume(make_trainer, tmp_path):
    class Killed(BaseException):
        pass

    class Checkpoints(Checkpointer):
        def save(self, name, *args, **options):
            if name == "model_final":
                raise Killed
            super().save(name, *args, **options)

    with pytest.raises(Killed):
        make_trainer(4, [CheckpointHook(Checkpoints(tmp_path / "run"), 2)]).train()
    checkpointer = Checkpointer(tmp_path / "run")
    trainer = make_trainer(4, [CheckpointHook(checkpointer, 2)])
    assert resume(checkpointer, trainer.model, trainer) == 2
    trainer.train()
    assert (tmp_path / "run" / "model_final.pth").is_file()


def test_evaluation_writes_metrics_and_keeps_results(make_trainer, tmp_path):
    results = {
        "box": {"AP": 0.5, "APs": float("nan"), "per_class": {"a": 0.1}, "reasons": {"AP": "x"}},
        "note": "words",
    }
    modes = []

    def evaluate():
        trainer.model.eval()
        modes.append(trainer.finished)
        return results

    trainer = make_trainer(5, [EvalHook(evaluate, 2), MetricsWriter()], log_period=100)
    trainer.train()
    assert modes == [2, 4, 5]  # every period and at the end, once
    assert trainer.model.training
    assert trainer.results is results
    lines = [line for line in read(tmp_path / "run" / "metrics.jsonl") if "box/AP" in line]
    assert lines == [{"iteration": i, "box/AP": 0.5, "box/APs": None} for i in (1, 3, 4)]


def test_evaluation_at_the_end_coincides_with_a_period_once(make_trainer):
    count = []
    make_trainer(4, [EvalHook(lambda: count.append(1) or {}, 2)]).train()
    assert len(count) == 2


def test_evaluating_does_not_change_training(make_trainer):
    plain, evaluated = make_trainer(6), make_trainer(6, [EvalHook(lambda: {"x": torch.rand(5).sum().item()}, 1)])
    for trainer in (plain, evaluated):
        torch.manual_seed(3)
        trainer.train()
    assert torch.equal(plain.model.linear.weight, evaluated.model.linear.weight)


def test_checkpoints_every_period_and_at_the_end(make_trainer, tmp_path):
    hook = CheckpointHook(Checkpointer(tmp_path / "run", keep=None), 2, config={"a": 1})
    make_trainer(5, [hook]).train()
    names = sorted(p.name for p in (tmp_path / "run").glob("*.pth"))
    assert names == ["checkpoint_0000001.pth", "checkpoint_0000003.pth", "checkpoint_0000004.pth", "model_final.pth"]
    content = torch.load(tmp_path / "run" / names[0], weights_only=True)
    assert (content["trainer"]["finished"], content["class_names"], content["config"]) == (2, ["a", "b"], {"a": 1})
    make_trainer(2, [CheckpointHook(Checkpointer(tmp_path / "other"), None)]).train()
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["model_final.pth"]


def test_progress_as_a_bar(make_trainer, capsys):
    make_trainer(4, [ProgressBar(bar=True)]).train()
    shown = capsys.readouterr().err
    assert "train: 100%" in shown
    assert "4/4" in shown
    assert "loss " in shown
    assert "lr 0.0125" in shown


def test_progress_as_lines_where_there_is_no_terminal(make_trainer, capsys, caplog):
    with caplog.at_level(logging.INFO, "detkit"):
        make_trainer(4, [ProgressBar()]).train()
    assert "100%" not in capsys.readouterr().err
    messages = [r.message for r in caplog.records if r.message.startswith("step ")]
    assert [m.split()[1] for m in messages] == ["2/4", "4/4"]
    assert all("eta 0:00:0" in m and "loss_l1" in m and "off" in m for m in messages)


def test_a_bar_is_closed_when_training_fails(make_trainer):
    hook = ProgressBar(bar=True)
    trainer = make_trainer(4, [hook])
    trainer.model.poison_at = 2
    with pytest.raises(FloatingPointError):
        trainer.train()
    assert hook._bar is None


def test_tensorboard_gets_losses_and_evaluations(make_trainer, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make_trainer(4, [EvalHook(lambda: {"box": {"AP": 0.25}}), TensorBoardWriter(folder="tb")]).train()
    events = EventAccumulator(str(tmp_path / "run" / "tb"))
    events.Reload()
    assert [e.step for e in events.Scalars("total_loss")] == [1, 3]
    assert [(e.step, e.value) for e in events.Scalars("box/AP")] == [(3, 0.25)]


def test_without_tensorboard_it_says_so_and_training_goes_on(make_trainer, monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    trainer = make_trainer(4, [TensorBoardWriter()])
    with caplog.at_level(logging.INFO, "detkit"):
        trainer.train()
    assert trainer.finished == 4
    assert caplog.text.count("tensorboard is not installed") == 1


@pytest.mark.parametrize("steps", [2, 100])
def test_the_profiler_writes_a_trace(make_trainer, tmp_path, caplog, steps):
    with caplog.at_level(logging.INFO, "detkit"):
        make_trainer(5, [TorchProfiler(start=1, steps=steps)]).train()
    trace = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert any("linear" in str(event.get("name")) for event in trace["traceEvents"])
    assert "Self CPU" in caplog.text


def test_registered_hooks_take_options_only():
    assert {"TensorBoardWriter", "TorchProfiler"} <= set(HOOKS.names())


def test_periods_are_checked(tmp_path):
    with pytest.raises(ValueError, match="EvalHook: expected a period"):
        EvalHook(dict, 0)
    with pytest.raises(ValueError, match="CheckpointHook: expected a period"):
        CheckpointHook(Checkpointer(tmp_path), 0)
