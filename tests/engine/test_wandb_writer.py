"""Weights & Biases: the calls it gets, checked on a small stand-in; and, where it is installed, the library itself."""

import copy
import importlib.util
import json
import sys
import types

import numpy as np
import pytest

from detkit.engine import EvalHook, Hook, WandbWriter
from detkit.registry import ConfigError


class StandIn(types.ModuleType):
    """The part of wandb that is used: runs with a history and a summary, which outlive a process."""

    class errors:
        class Error(Exception):
            pass

    def __init__(self):
        super().__init__("wandb")
        self.runs, self.refuse = {}, False

    def Settings(self, **options):
        return options

    def Image(self, picture):
        return ("image", picture.shape)

    def init(self, **options):
        if self.refuse:
            raise self.errors.Error("no API key")
        run = self.runs.setdefault(options["id"] or f"id{len(self.runs)}", Run())
        run.id = options["id"] or f"id{len(self.runs) - 1}"
        run.options.append(options)
        return run


class Run:
    url = None

    def __init__(self):
        self.options, self.history, self.summary, self.axes, self.exits = [], [], {}, {}, []

    def define_metric(self, name, step_metric=None):
        self.axes[name] = step_metric

    def log(self, row):
        self.history.append(row)
        self.summary.update(row)

    def finish(self, exit_code):
        self.exits.append(exit_code)


@pytest.fixture
def wandb(monkeypatch):
    module = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


class ShowPictures(Hook):
    def after_step(self, trainer):
        if trainer.is_last_step:
            trainer.publish_pictures({"7": np.zeros((4, 5, 3), np.uint8)})


def test_metrics_pictures_and_config_arrive(make_trainer, tmp_path, wandb):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("solver: {max_iter: 4}\n")
    hook = WandbWriter(project="p", group="g", tags=("a", "b"), mode="offline")
    make_trainer(4, [hook, EvalHook(lambda: {"box": {"AP": 0.5, "APl": float("nan")}}), ShowPictures()]).train()
    (run,) = wandb.runs.values()
    (options,) = run.options
    assert (options["project"], options["name"], options["group"], options["tags"]) == ("p", "run", "g", ["a", "b"])
    assert (options["mode"], options["dir"], options["resume"]) == ("offline", str(tmp_path / "run"), None)
    assert options["config"] == {"solver": {"max_iter": 4}}
    assert run.axes == {"iteration": None, "*": "iteration"}
    assert [row["iteration"] for row in run.history] == [1, 3, 3, 3]
    assert {"total_loss", "lr", "eta_seconds", "step_time"} <= run.history[0].keys()
    assert run.history[2:] == [
        {"iteration": 3, "box/AP": 0.5},
        {"iteration": 3, "predictions/7": ("image", (4, 5, 3))},
    ]
    assert run.exits == [0]


def test_a_resumed_run_goes_on_in_the_same_one_and_sends_nothing_twice(make_trainer, wandb):
    class Fail(Hook):
        def after_step(self, trainer):
            if trainer.finished == 3:
                saved.update(copy.deepcopy(trainer.state_dict()))
            if trainer.finished == 6:
                raise RuntimeError("the machine dies")

    saved = {}
    with pytest.raises(RuntimeError):
        make_trainer(8, [WandbWriter(), Fail()]).train()
    trainer = make_trainer(8, [WandbWriter(name="other")])
    trainer.load_state_dict(saved)
    trainer.train()
    (run,) = wandb.runs.values()
    assert [options["resume"] for options in run.options] == [None, "allow"]
    assert run.exits == [1, 0]
    assert [row["iteration"] for row in run.history] == [1, 3, 5, 5, 7]  # 3 was sent before; 5 may not have been whole


def test_only_rank_0_sends(make_trainer, wandb, monkeypatch):
    monkeypatch.setattr("detkit.utils.distributed.is_main", lambda: False)
    make_trainer(2, [WandbWriter()]).train()
    assert wandb.runs == {}


@pytest.mark.parametrize("error", ["AttributeError('np.float_')", "SystemExit(1)", "ModuleNotFoundError(name='six')"])
def test_a_broken_wandb_is_told_from_a_missing_one(monkeypatch, tmp_path, error):
    (tmp_path / "wandb.py").write_text(f"raise {error}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ConfigError, match=rf"cannot be imported \({error.partition('(')[0]}.*pip install -U wandb"):
        WandbWriter()


def test_without_wandb_the_fix_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install 'detkit\[wandb\]'"):
        WandbWriter()


def test_disabled_needs_nothing(make_trainer, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    make_trainer(2, [WandbWriter(mode="disabled")]).train()


def test_a_refusal_is_named_and_ends_nothing(make_trainer, wandb, caplog):
    wandb.refuse = True
    trainer = make_trainer(2, [WandbWriter()])
    trainer.train()
    assert trainer.finished == 2
    assert (
        "training goes on without WandbWriter, which failed: WandbWriter: no API key. Run 'wandb login'" in caplog.text
    )


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_the_library_itself_offline(make_trainer, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    hook = WandbWriter(mode="offline")
    make_trainer(4, [hook, EvalHook(lambda: {"box": {"AP": 0.5}}), ShowPictures()]).train()
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    content = (folder / f"run-{hook.state_dict()['id']}.wandb").read_bytes()
    for name in (b"total_loss", b"box/AP", b"max_rss_mb"):
        assert name in content
    assert len(list((folder / "files" / "media" / "images" / "predictions").glob("7_*.png"))) == 1
    again = WandbWriter(mode="offline")
    again.load_state_dict(json.loads(json.dumps(hook.state_dict())))
    make_trainer(2, [again]).train()
    assert again.state_dict() == hook.state_dict()
