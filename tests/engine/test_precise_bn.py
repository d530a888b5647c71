"""PreciseBN: the statistics of many batches, in place before an evaluation or a checkpoint."""

import pytest
import torch
from norms import Normed, batch, run, stream

from detkit.checkpoint import Checkpointer, resume
from detkit.engine import CheckpointHook, EvalHook, Hook, PreciseBN, Trainer


def running(model):
    return {name: value.clone() for name, value in model.named_buffers() if "running" in name}


def by_hand(model, numbers):
    """What enters each norm in training mode, over all batches: mean and unbiased variance."""
    seen = {"norm": [], "last": []}
    handles = [
        getattr(model, name).register_forward_pre_hook(lambda _, x, into=into: into.append(x[0].transpose(0, 1)))
        for name, into in seen.items()
    ]
    state = torch.get_rng_state()
    with torch.no_grad():
        for number in numbers:
            model.train()(batch(number))
    torch.set_rng_state(state)
    for handle in handles:
        handle.remove()
    values = {name: torch.cat([x.flatten(1) for x in of], dim=1) for name, of in seen.items()}
    return {
        f"{name}.running_{kind}": of(dim=1)
        for name, v in values.items()
        for kind, of in (("mean", v.mean), ("var", v.var))
    }


def test_statistics_are_those_of_the_batches_that_come_next():
    trainer, _ = run([PreciseBN(num_batches=5)])
    model = trainer.model
    model.dropout.p = 0.0  # the same numbers at every look
    wanted = by_hand(model, range(4, 9))
    trainer.finished = 3
    trainer.max_iter = 3
    trainer.hooks[0].after_step(trainer)
    found = running(model)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value)


def test_training_does_not_notice():
    class Last(Hook):
        def after_step(self, trainer):
            self.state, self.weights = torch.get_rng_state(), [p.detach().clone() for p in trainer.model.parameters()]

    ends = Last(), Last()
    plain, _ = run([ends[0]])
    looked, _ = run([ends[1], PreciseBN(num_batches=2), EvalHook(dict, 1)])
    assert all(torch.equal(a, b) for a, b in zip(ends[0].weights, ends[1].weights))
    assert torch.equal(ends[0].state, ends[1].state)
    tracked = [m.num_batches_tracked.item() for t in (plain, looked) for m in (t.model.norm, t.model.last)]
    assert tracked == [4, 4, 4, 4]
    assert not torch.equal(plain.model.norm.running_mean, looked.model.norm.running_mean)


def test_it_comes_before_every_evaluation_and_checkpoint(tmp_path):
    looks = []

    class Counting(PreciseBN):
        def run(self, trainer):
            looks.append(trainer.finished)
            super().run(trainer)

    model = Normed()
    evaluated = []
    hooks = [
        Counting(num_batches=2),
        CheckpointHook(Checkpointer(tmp_path), 2),
        EvalHook(lambda: evaluated.append(running(model)) or {}, 2),
    ]
    run(hooks, 5, model, output_dir=tmp_path)
    assert looks == [2, 4, 5]
    for name, seen in zip(("checkpoint_0000001", "checkpoint_0000003", "model_final"), evaluated):
        saved = torch.load(tmp_path / f"{name}.pth", weights_only=True)["model"]
        assert all(torch.equal(saved[key], value) for key, value in seen.items())


def test_frozen_norms_are_left_alone():
    class Freeze(Hook):
        def before_train(self, trainer):
            trainer.model.norm.eval()

    trainer, _ = run([Freeze(), PreciseBN(num_batches=2)])
    assert torch.equal(trainer.model.norm.running_mean, torch.zeros(4))
    assert not torch.equal(trainer.model.last.running_mean, torch.zeros(2))


def test_mistakes_are_named():
    model = Normed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, optimizer, lambda s, n: 1.0, stream(0), 2, hooks=[PreciseBN()])
    with pytest.raises(ValueError, match="PreciseBN: the trainer's batches are a stream"):
        trainer.train()


def test_a_resumed_run_ends_with_the_same_statistics(tmp_path):
    def trainer_for(folder, steps):
        model = Normed()
        checkpointer = Checkpointer(tmp_path / folder)
        hooks = [PreciseBN(num_batches=2), CheckpointHook(checkpointer, 2), EvalHook(dict, 2)]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        options = {"accumulate": 2, "precision": "fp16"}
        return Trainer(model, optimizer, lambda s, n: 1.0, stream, steps, hooks=hooks, **options), checkpointer

    torch.manual_seed(6)
    straight, _ = trainer_for("straight", 5)
    straight.train()
    torch.manual_seed(6)
    first, checkpointer = trainer_for("stopped", 2)
    first.train()
    again, _ = trainer_for("stopped", 5)
    assert resume(checkpointer, again.model, again) == 2
    again.train()
    for (name, ours), theirs in zip(again.model.state_dict().items(), straight.model.state_dict().values()):
        assert torch.equal(ours, theirs), name
    assert again.training_step.scaler.state_dict() == straight.training_step.scaler.state_dict()
