"""What only shows something never ends a training: hooks, receivers of lines and of pictures, the file of metrics."""

import json
import sys
import types

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from lines import lines_of
from torch import nn

from detkit.engine import EvalHook, Hook, MetricsWriter, PredictionPictures, TensorBoardWriter, Trainer
from detkit.evaluation import FirstPredictions
from detkit.structures import Instances, Losses, Prediction, Sample


class Broken(Hook):
    """Fails in one of its methods."""

    optional = True

    def __init__(self, method):
        super().__init__()
        self.calls = []
        setattr(self, method, self._fail)

    def _fail(self, trainer):
        self.calls.append(trainer.step)
        raise RuntimeError("no display")


@pytest.mark.parametrize("method", ["before_train", "before_step", "after_step", "after_train"])
def test_an_optional_hook_that_fails_is_named_once_and_left_out(make_trainer, caplog, method):
    hook, plain = Broken(method), make_trainer(4)
    plain.train()
    trainer = make_trainer(4, [hook])
    trainer.train()
    assert trainer.finished == 4
    assert len(hook.calls) == 1
    assert caplog.text.count("training goes on without Broken, which failed: no display") == 1
    assert torch.equal(trainer.model.linear.weight, plain.model.linear.weight)


def test_any_other_hook_ends_the_training(make_trainer):
    hook = Broken("after_step")
    hook.optional = False
    with pytest.raises(RuntimeError, match="no display"):
        make_trainer(4, [hook]).train()


class Receiver(Hook):
    """Fails when it gets a line or pictures."""

    optional = True

    def __init__(self):
        super().__init__()
        self.calls, self.cleaned = [], False

    def on_metrics(self, trainer, line):
        self.calls.append(line)
        raise SystemExit("no connection")

    on_pictures = on_metrics

    def after_step(self, trainer):
        self.calls.append(trainer.step)

    def after_train(self, trainer):
        self.cleaned = True


def test_a_receiver_that_fails_switches_its_hook_off_and_costs_the_others_nothing(make_trainer, caplog):
    hook = Receiver()
    trainer = make_trainer(4, [hook])
    lines = lines_of(trainer)
    trainer.train()
    trainer.publish_pictures({"a": np.zeros((1, 1, 3), np.uint8)})
    assert [line["iteration"] for line in lines] == [1, 3]
    assert hook.calls[0] == 0
    assert len(hook.calls) == 2  # after the first step, and the line of the second one
    assert hook.cleaned
    assert caplog.text.count("no connection") == 1


def test_pictures_are_optional_whatever_receives_them(make_trainer, caplog):
    class Fails(Hook):
        def on_pictures(self, trainer, pictures):
            return 1 / 0

    class Receives(Hook):
        def on_pictures(self, trainer, pictures):
            received.extend(pictures)

    received = []
    trainer = make_trainer(1, [Fails(), Receives()])
    for name in ("a", "b"):
        trainer.publish_pictures({name: np.zeros((1, 1, 3), np.uint8)})
    assert received == ["a", "b"]
    assert caplog.text.count("division by zero") == 1


def test_the_state_of_an_optional_hook_ends_no_run(make_trainer, caplog):
    class Stateful(Hook):
        optional = True

        def state_dict(self):
            raise RuntimeError("nothing to save")

        def load_state_dict(self, state):
            raise KeyError("id")

    trainer = make_trainer(2, [Stateful()])
    trainer.train()
    state = trainer.state_dict()
    assert "Stateful" not in state["hooks"]
    make_trainer(2, [Stateful()]).load_state_dict({**state, "hooks": {"Stateful": {}}})
    assert "which failed: nothing to save" in caplog.text
    assert "which failed: 'id'" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        "TypeError('descriptors')",
        "AttributeError('module')",
        "ImportError('protobuf')",
        "SystemExit('no GPU')",
        "BaseException('panic')",
        "ModuleNotFoundError(name='six')",
    ],
)
def test_a_tensorboard_that_cannot_be_imported(make_trainer, tmp_path, monkeypatch, caplog, error):
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "__init__.py").write_text(f"raise {error}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [n for n in sys.modules if n.partition(".")[0] == "tensorboard" or n == "torch.utils.tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    trainer = make_trainer(2, [TensorBoardWriter()])
    trainer.train()
    assert trainer.finished == 2
    assert "training goes on without TensorBoardWriter" in caplog.text


def test_lines_that_cannot_be_written_wait_for_the_next_one(make_trainer, tmp_path, caplog):
    class Blocked(Hook):
        """A folder stands where the file of metrics should be, for a while."""

        def before_step(self, trainer):
            path = tmp_path / "run" / "metrics.jsonl"
            if trainer.step == 0:
                path.mkdir()
            elif trainer.step == 5:
                path.rmdir()

    make_trainer(6, [MetricsWriter(), Blocked()]).train()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 3, 5]
    assert caplog.text.count("metrics.jsonl: cannot be written") == 2


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, samples):
        if not self.training:
            return [Prediction(Instances((1, 1)))] * len(samples)
        return Losses({"loss": self.weight.square().sum()})


def batch(number=0):
    return [Sample(torch.zeros(3, 1, 1, dtype=torch.uint8), (1, 1), image_id=number)]


class FailsOnOne(Hook):
    """A writer that fails in one step, on one process."""

    optional = True

    def after_step(self, trainer):
        if trainer.step == 1 and torch.distributed.get_rank() == 1:
            raise OSError("the disk is full")


class NoTensorBoard(types.ModuleType):
    """A TensorBoard of which nothing can be imported."""

    def __getattr__(self, name):
        raise TypeError("descriptors")


def train_with_what_fails(rank, folder):
    sys.modules["torch.utils.tensorboard"] = NoTensorBoard("torch.utils.tensorboard")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    first, drawn = FirstPredictions(2), []

    def evaluate():
        first.reset()
        first(batch(rank), [Prediction(Instances((1, 1)))])
        return {"box": {"AP": 0.5}}

    model = nn.parallel.DistributedDataParallel(Tiny())
    pictures = PredictionPictures(first, lambda pairs: drawn.append(len(pairs)) or 1 / 0)
    hooks = [TensorBoardWriter(), FailsOnOne(), EvalHook(evaluate, 1), pictures]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    stream = iter(batch, None)
    trainer = Trainer(model, optimizer, lambda s, m: 1.0, stream, 3, hooks=hooks, output_dir=f"{folder}/run")
    trainer.train()
    assert trainer.finished == 3
    assert drawn == ([2] if rank == 0 else [])  # once, as it failed
    weights = [torch.zeros(1) for _ in range(2)]
    torch.distributed.all_gather(weights, model.module.weight.detach())
    assert torch.equal(*weights)
    torch.distributed.destroy_process_group()


def test_what_fails_on_one_process_leaves_the_others_in_step(tmp_path):
    mp.spawn(train_with_what_fails, args=(str(tmp_path),), nprocs=2)
