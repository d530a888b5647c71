"""A step over several batches is the step over one large batch."""

import itertools

import pytest
import torch
from lines import lines_of
from torch import nn

from detkit.checkpoint import Checkpointer, resume
from detkit.engine import CheckpointHook, Hook, Trainer
from detkit.structures import Losses, Sample


class Mean(nn.Module):
    """A regression in float64 whose loss is a mean over the batch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.linear = nn.Linear(3, 1).double()
        self.calls = []

    def forward(self, samples):
        images = torch.stack([s.image.flatten() for s in samples]).double() / 255
        off = self.linear(images).squeeze(1) - images.sum(1)
        self.calls.append([s.image_id for s in samples])
        metrics = {"off": off.detach().mean()}
        if samples[0].image_id == 0:
            metrics["first"] = torch.tensor(5.0)
        return Losses({"loss_l2": off.square().mean(), "loss_l1": off.abs().mean()}, metrics)


class Stop(Hook):
    def __init__(self, at):
        super().__init__()
        self.at = at

    def before_step(self, trainer):
        if trainer.step == self.at:
            raise KeyboardInterrupt


def images(number, size):
    """Batch ``number`` of a stream of numbered images, ``size`` a batch."""
    for index in range(number * size, (number + 1) * size):
        generator = torch.Generator().manual_seed(index)
        pixels = torch.randint(0, 256, (3, 1, 1), dtype=torch.uint8, generator=generator)
        yield Sample(pixels, (1, 1), image_id=index, file_name=f"{index}.png")


def stream(size):
    return lambda start: (list(images(number, size)) for number in itertools.count(start))


def run(accumulate, size, max_iter=5, hooks=(), **options):
    model = Mean()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    trainer = Trainer(
        model, optimizer, lambda s, n: 1.0, stream(size), max_iter, hooks=hooks, accumulate=accumulate, **options
    )
    lines = lines_of(trainer)
    return trainer, lines


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("options", [{}, {"clip_grad_norm": 0.1}])
@pytest.mark.parametrize(("accumulate", "size"), [(2, 3), (3, 2), (6, 1)])
def test_two_batches_are_as_one_of_both(accumulate, size, options):
    (one, one_lines), (many, lines) = run(1, 6, log_period=2, **options), run(accumulate, size, log_period=2, **options)
    one.train()
    many.train()
    torch.testing.assert_close(weights(one), weights(many), rtol=1e-12, atol=1e-14)
    for trainer in (one, many):
        assert [number for batch in trainer.model.calls for number in batch] == list(range(30))
    for ours, theirs in zip(lines, one_lines, strict=True):
        for name in ("total_loss", "loss_l1", "loss_l2", "off", "iteration", *(["grad_norm"] if options else [])):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
    assert lines[0]["first"] == 5.0  # a mean over the batches that gave it
    assert many.losses.total() == pytest.approx(one.losses.total().item())


def test_gradients_are_averaged_not_summed():
    (one, _), (twice, _) = run(1, 2, 1), run(4, 2, 1)
    twice.batches = itertools.repeat(list(images(0, 2)))
    one.train()
    twice.train()
    torch.testing.assert_close(weights(one), weights(twice), rtol=1e-12, atol=0)


def test_a_resumed_run_equals_one_that_never_stopped(tmp_path):
    def build(folder, *hooks):
        checkpointer = Checkpointer(tmp_path / folder)
        return run(2, 3, 8, [CheckpointHook(checkpointer, 3), *hooks])[0], checkpointer

    straight, _ = build("straight")
    straight.train()
    stopped, checkpointer = build("stopped", Stop(5))
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    for as_function in (True, False):
        again, _ = build(f"again_{as_function}")
        if not as_function:
            again.batches = stream(3)(0)
        assert resume(checkpointer, again.model, again) == 3
        again.train()
        assert again.model.calls[0] == [18, 19, 20]  # the seventh batch of three
        assert torch.equal(weights(again), weights(straight))


@pytest.mark.parametrize("on_a_gpu", [False, True])
def test_a_loss_that_is_not_finite_in_any_batch_of_a_step_is_found(on_a_gpu):
    trainer, _ = run(3, 2, log_period=100)
    inner = trainer.model.forward

    def poisoned(samples):
        losses = inner(samples)
        return Losses({n: v * float("nan") for n, v in losses.terms.items()}) if samples[0].image_id == 8 else losses

    trainer.model.forward = poisoned
    files = r"8\.png, 9\.png"
    if on_a_gpu:  # which is not asked before the window is full
        trainer.training_step.checks_at_once = False
        files = r"6\.png, 7\.png, 8\.png, 9\.png, 10\.png, 11\.png"
    with pytest.raises(FloatingPointError, match=rf"step 1: .*loss_l2 = nan.* {files}\."):
        trainer.train()


def test_an_error_names_the_batch_and_a_step_is_not_half_done(caplog):
    trainer, _ = run(2, 2)
    inner, before = trainer.model.forward, weights(trainer)
    trainer.model.forward = lambda samples: inner(samples) if samples[0].image_id == 0 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert "step 0 failed on the batch 2.png, 3.png" in caplog.text
    assert torch.equal(weights(trainer), before)


def test_batches_that_end_within_a_step_are_an_error():
    trainer, _ = run(2, 1)
    trainer.batches = [list(images(number, 1)) for number in range(5)]
    with pytest.raises(ValueError, match="ended after 2 steps; max_iter is 5"):
        trainer.train()


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="accumulate"):
        run(0, 1)
