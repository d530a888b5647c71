"""Two processes train as one."""

import json

import pytest
import torch
from processes import in_processes
from torch import nn

from detkit.checkpoint import Checkpointer, load_weights
from detkit.engine import (
    CheckpointHook,
    EvalHook,
    FreezeSchedule,
    FreezeStage,
    MetricsWriter,
    ProgressBar,
    Trainer,
)
from detkit.registry import ConfigError
from detkit.structures import Losses, Sample


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1))

    def forward(self, samples):
        target = torch.stack([s.image.float().mean() for s in samples])
        metrics = {"rank_only": target.mean()} if target.mean() > 5 else {}  # metrics may differ between ranks
        return Losses({"loss": (self.value - target).square().mean()}, metrics)


def batches(rank):
    while True:
        yield [Sample(torch.full((1, 1, 1), 10 * rank, dtype=torch.uint8), (1, 1))]


def worker(rank, folder):
    model = nn.parallel.DistributedDataParallel(Mean())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    hooks = [
        ProgressBar(bar=True),
        MetricsWriter(),
        CheckpointHook(Checkpointer(f"{folder}/run"), 2),
        EvalHook(lambda: {"AP": 1.0} if rank == 0 else {}),
    ]
    trainer = Trainer(
        model, optimizer, lambda s, m: 1.0, batches(rank), 3, hooks=hooks, output_dir=f"{folder}/run", log_period=1
    )
    trainer.train()
    assert trainer.unwrapped_model is model.module


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    in_processes(worker, str(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("AP") for line in lines] == [None, None, None, 1.0]
    assert lines[0]["loss"] == pytest.approx((0**2 + 10**2) / 2)
    assert lines[0]["rank_only"] == 10
    model = Mean()
    assert load_weights(model, tmp_path / "run" / "model_final.pth").complete
    value = 0.0
    for _ in range(3):
        value -= 0.1 * (2 * value + 2 * (value - 10)) / 2  # the gradient of the mean over both
    assert model.value.item() == pytest.approx(value)
    state = torch.load(tmp_path / "run" / "checkpoint_0000001.pth", weights_only=True)
    assert len(state["trainer"]["ranks"]) == 2


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.early, self.late = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def forward(self, samples):
        target = torch.stack([s.image.float().mean() for s in samples])
        return Losses({"loss": (self.early + self.late - target).square().mean()})


def staged(rank, folder):
    plain = nn.parallel.DistributedDataParallel(Two())
    model = nn.parallel.DistributedDataParallel(Two(), find_unused_parameters=True)
    stages = (FreezeStage(0.5, ("early",)), FreezeStage(1.0))
    for wrapped in (plain, model):
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
        hooks = [FreezeSchedule(stages=stages)]
        trainer = Trainer(wrapped, optimizer, lambda s, m: 1.0, batches(rank), 2, hooks=hooks, accumulate=2)
        if wrapped is plain:
            with pytest.raises(ConfigError, match="find_unused_parameters"):
                trainer.train()
        else:
            trainer.train()
    if rank == 0:
        torch.save(model.module.state_dict(), f"{folder}/state.pth")


@pytest.mark.slow
def test_two_processes_accumulate_and_freeze(tmp_path):
    in_processes(staged, str(tmp_path))
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    early = 1.0 - 0.1 * 2 * (1.0 + 1.0 - 5)  # the gradient of the mean over both processes and batches
    late = 1.0 - 0.1 * 2 * (early + 1.0 - 5)
    early -= 0.1 * 2 * (early + 1.0 - 5)
    assert (state["early"].item(), state["late"].item()) == pytest.approx((early, late))
