"""A tiny run with everything on that can be stopped anywhere, and what two runs are compared by."""

import itertools
import json
import os
import signal

import torch
from torch import nn

from detkit.checkpoint import Checkpointer, resume
from detkit.data import Mapper, Shapes, ShuffleSampler, train_loader
from detkit.engine import (
    BestCheckpoint,
    CheckpointHook,
    EarlyStopping,
    EvalHook,
    ExponentialMovingAverage,
    FreezeSchedule,
    FreezeStage,
    Hook,
    Interruption,
    MetricsWriter,
    Trainer,
)
from detkit.structures import Losses, Sample
from detkit.utils import distributed

STEPS = 12
TIMES = {"data_time", "step_time", "eta_seconds", "max_memory_mb", "max_rss_mb"}


class Small(nn.Module):
    """A regression with a batch norm, dropout, and a metric that only some batches give."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.early, self.norm, self.late = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)
        self.dropout = nn.Dropout(0.3)

    def forward(self, samples):
        images = torch.stack([s.image.float().mean((1, 2)) for s in samples]) / 255
        off = self.late(self.dropout(self.norm(self.early(images)))).squeeze(1) - images.sum(1)
        metrics = {"sometimes": off.detach().mean()} if int(samples[0].image_id) % 3 == 0 else {}
        return Losses({"loss_l2": off.square().mean(), "loss_l1": off.abs().mean()}, metrics)


class Kill(BaseException):
    """As sudden as a SIGKILL: nothing handles it."""


class Die(Hook):
    """Dies before or after the hooks that follow it have acted."""

    def __init__(self, before_step=None, after_step=None):
        super().__init__()
        self.at, self.after = before_step, after_step

    def before_step(self, trainer):
        if trainer.step == self.at:
            raise Kill

    def after_step(self, trainer):
        if trainer.step == self.after:
            raise Kill


class Signal(Hook):
    """Sends the process a signal in the middle of a step."""

    def __init__(self, step, number=signal.SIGTERM):
        super().__init__()
        self.at, self.number = step, number

    def before_step(self, trainer):
        if trainer.step == self.at:
            os.kill(os.getpid(), self.number)


class Wander(Hook):
    """Draws before and after each step, and has a state."""

    def __init__(self):
        super().__init__()
        self.sum = 0.0

    def before_step(self, trainer):
        self.sum += torch.rand(1).item()

    def after_step(self, trainer):
        self.sum += torch.rand(1).item() + trainer.losses.terms["loss_l1"].item()

    def state_dict(self):
        return {"sum": self.sum}

    def load_state_dict(self, state):
        self.sum = state["sum"]


def batches(start):
    torch.rand(1)  # as torch's DataLoader draws when it starts
    for number in itertools.count(start * distributed.world_size() + distributed.rank(), distributed.world_size()):
        generator = torch.Generator().manual_seed(number)
        images = torch.randint(0, 256, (4, 3, 1, 1), dtype=torch.uint8, generator=generator)
        yield [Sample(image, (1, 1), image_id=n) for n, image in enumerate(images, 4 * number)]


def build(folder, first=(), last=(), period=5, max_iter=STEPS, stream=batches, wrap=None, **options):
    """A run with everything on; ``first`` and ``last`` stand at the ends of the list of hooks."""
    model = Small()
    wrapped = model if wrap is None else wrap(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    checkpointer = Checkpointer(folder, keep=2)

    def evaluate():
        model.eval()
        with torch.no_grad():
            losses = model(
                [Sample(torch.full((3, 1, 1), 40 * n, dtype=torch.uint8), (1, 1), image_id=n) for n in range(4)]
            )
        results = {"box": {"AP": losses.terms["loss_l2"].item(), "noise": torch.rand(1).item()}}
        return results if distributed.is_main() else {}

    hooks = [
        *first,
        MetricsWriter(),
        FreezeSchedule(stages=(FreezeStage(0.4, ("late",)), FreezeStage(1.0))),
        Wander(),
        ExponentialMovingAverage(decay=0.8, period=2),
        BestCheckpoint(metric="ema/box/AP", mode="min"),
        EarlyStopping(metric="box/noise", patience=100),
        CheckpointHook(checkpointer, period),
        EvalHook(evaluate, 4),
        *last,
    ]
    trainer = Trainer(
        wrapped,
        optimizer,
        lambda step, n: 1 - step / n,
        stream,
        max_iter,
        hooks=hooks,
        accumulate=2,
        clip_grad_norm=0.5,
        output_dir=folder,
        log_period=3,
        interruption=Interruption(),
        **options,
    )
    return trainer, checkpointer


def start(folder, first=(), last=(), **options):
    """Starts or goes on, as a new process would: nothing but the folder is left of the one before."""
    trainer, checkpointer = build(folder, first, last, **options)
    torch.manual_seed(7 + distributed.rank())
    resume(checkpointer, trainer.model, trainer)
    trainer.train()
    return trainer


def outcome(folder, trainer):
    """Everything that two runs are compared by."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    state = torch.load(Checkpointer(folder).latest(), weights_only=True)
    kinds = ("final", "final_ema", "best")
    weights = {kind: torch.load(folder / f"model_{kind}.pth", weights_only=True)["model"] for kind in kinds}
    hooks = {name: values for name, values in state["trainer"]["hooks"].items() if values}
    average = hooks["ExponentialMovingAverage"].pop("average")
    del hooks["EvalHook"]["seconds"]
    wander = next(hook for hook in trainer.hooks if isinstance(hook, Wander))
    return {
        "lines": [{k: v for k, v in line.items() if k not in TIMES} for line in lines],
        "weights": {kind: {n: v.tolist() for n, v in state.items()} for kind, state in weights.items()},
        "average": {name: value.tolist() for name, value in average.items()},
        "hooks": hooks,
        "optimizer": [
            {k: torch.as_tensor(v).tolist() for k, v in entry.items()}
            for _, entry in sorted(state["trainer"]["optimizer"]["state"].items())  # in any order after a resume
        ],
        "rng": [rank["rng"]["torch"].tolist() for rank in state["trainer"]["ranks"]],
        "rng_now": torch.get_rng_state().tolist(),
        "wander": wander.sum,
        "results": trainer.results,
    }


def loader(workers):
    dataset = Shapes(num_images=7, image_size=(32, 32))
    return lambda start: train_loader(
        dataset, Mapper(dataset), ShuffleSampler(dataset, 2, 3, 0, 1), workers, start_batch=start
    )
