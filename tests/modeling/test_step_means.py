"""However a step's images are split into batches and processes, its losses and gradients are those of one batch."""

from functools import partial

import pytest
import torch
from lines import lines_of
from processes import in_processes
from small import sample, small_model
from torch import nn

from detkit.engine import Trainer
from detkit.layers import replace_modules
from detkit.modeling.box_losses import GIoUBoxLoss, SmoothL1BoxLoss
from detkit.modeling.proposals import RPN, TorchvisionRPN
from detkit.modeling.roi_heads import MaskTargets
from detkit.modeling.sampling import Sampling
from detkit.structures import Losses

# Nothing is drawn: the sample is everything. Objects of different number in each image, none in one.
SAMPLES = [sample(32, 48, num, seed) for seed, num in enumerate((3, 0, 1, 5))]

NORMALISERS = {
    "Detectron2": (RPN, partial(SmoothL1BoxLoss)),
    "matterport": (TorchvisionRPN, partial(SmoothL1BoxLoss, beta=1.0, mean_over="foreground")),
    "GIoU": (TorchvisionRPN, GIoUBoxLoss),
    "GIoU of the foreground": (RPN, partial(GIoUBoxLoss, mean_over="foreground")),
}


@pytest.fixture
def in_double(monkeypatch):
    """Everything is computed in double, so that what differs is not rounding."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def model_with(normalisers):
    torch.manual_seed(5)
    rpn_class, box_loss = NORMALISERS[normalisers]
    # A batch norm looks at each batch alone, whatever the losses do; a group norm looks at each image.
    model = replace_modules(
        small_model(rpn=rpn_class, box_loss=box_loss), nn.BatchNorm2d, lambda bn: nn.GroupNorm(4, bn.num_features)
    )
    rpn, heads = model.proposal_generator, model.roi_heads
    rpn.box_loss = box_loss()
    heads.mask_head.targets = MaskTargets("crop_and_resize")
    rpn.sampling = heads.sampling = Sampling(100_000, 1.0)
    if rpn_class is RPN:  # so that the terms are not tiny beside the others
        rpn.sampling = Sampling(600, 1.0)
    return model.double() if torch.Tensor.float is torch.Tensor.double else model


def step(model, batches, **options):
    """The losses and gradients of one step that changes nothing."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = Trainer(model, optimizer, lambda s, n: 1.0, batches, 1, accumulate=len(batches), log_period=1, **options)
    lines = lines_of(trainer)
    trainer.train()
    line = {name: value for name, value in lines[0].items() if "loss" in name}
    return line, {n: p.grad.clone() for n, p in trainer.unwrapped_model.named_parameters()}


def assert_same(found, wanted, tolerance=1e-6):
    (line, gradients), (wanted_line, wanted_gradients) = found, wanted
    assert line == pytest.approx(wanted_line, rel=tolerance)
    for name, gradient in gradients.items():
        off = (gradient - wanted_gradients[name]).norm() / wanted_gradients[name].norm()
        assert off <= tolerance, (name, float(off))


@pytest.mark.parametrize("normalisers", NORMALISERS)
def test_accumulated_batches_are_as_one(normalisers, in_double):
    one = step(model_with(normalisers), [SAMPLES])
    assert set(one[0]) == {"total_loss", "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
    assert_same(step(model_with(normalisers), [[s] for s in SAMPLES]), one)
    assert_same(step(model_with(normalisers), [SAMPLES[:1], SAMPLES[1:]]), one)
    apart = step(model_with(normalisers), [[s] for s in SAMPLES], loss_mean="batch")
    alone = [step(model_with(normalisers), [[s]]) for s in SAMPLES]
    assert_same(
        apart,
        (
            {name: sum(line[name] for line, _ in alone) / 4 for name in one[0]},
            {name: sum(gradients[name] for _, gradients in alone) / 4 for name in one[1]},
        ),
    )
    assert apart[0]["loss_mask"] != pytest.approx(one[0]["loss_mask"], rel=1e-3), "the two rules differ"


def process(rank, folder):
    torch.Tensor.float = torch.Tensor.double  # this process ends with the test
    mine = SAMPLES[2 * rank : 2 * rank + 2]
    for name, batches in (("whole", [mine]), ("accumulated", [[s] for s in mine])):
        for loss_mean in ("step", "batch"):
            model = nn.parallel.DistributedDataParallel(model_with("matterport"))
            found = step(model, batches, loss_mean=loss_mean)
            if rank == 0:
                torch.save(found, f"{folder}/{name}_{loss_mean}.pth")


@pytest.mark.slow
def test_two_processes_are_as_one(tmp_path, in_double):
    in_processes(process, str(tmp_path))
    one, four = (step(model_with("matterport"), b, loss_mean="step") for b in ([SAMPLES], [[s] for s in SAMPLES]))
    for name in ("whole", "accumulated"):
        found = torch.load(tmp_path / f"{name}_step.pth")
        assert_same(found, one)
        assert_same(found, four)
    halves = step(model_with("matterport"), [SAMPLES[:2], SAMPLES[2:]], loss_mean="batch")
    assert_same(torch.load(tmp_path / "whole_batch.pth"), halves)
    quarters = step(model_with("matterport"), [[s] for s in SAMPLES], loss_mean="batch")
    assert_same(torch.load(tmp_path / "accumulated_batch.pth"), quarters)


def test_looking_ahead_for_the_normalisers_changes_nothing():
    """The pass before sees the batch that is learned from, draws included, and leaves norms and generators alone."""

    def after(loss_mean):
        model = small_model()
        model.proposal_generator.sampling, model.roi_heads.sampling = Sampling(8, 0.5), Sampling(8, 0.25)
        seen, inner = [], model.forward

        def forward(samples):
            losses = inner(samples)
            normalisers = {name: int(value) for name, value in losses.normalisers.items()}
            seen.append((samples[0].image_id, losses.total().item(), normalisers))
            return losses

        model.forward = forward
        torch.manual_seed(11)
        step(model, [[s] for s in SAMPLES], loss_mean=loss_mean)
        return seen, {n: b.clone() for n, b in model.named_buffers()}, torch.get_rng_state()

    torch.manual_seed(3)
    ahead, buffers, state = after("step")
    torch.manual_seed(3)
    ordinary, wanted, wanted_state = after("batch")
    assert ordinary == [ahead[0], *ahead[4:]], "the first batch's normalisers need no pass of their own"
    assert ahead[1:4] == ahead[4:]
    assert all(torch.equal(buffers[name], wanted[name]) for name in wanted)
    assert torch.equal(state, wanted_state)


def test_a_head_without_normalisers_is_a_mean_over_images():
    class MeanOfImages(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.calls = 0

        def forward(self, samples):
            self.calls += 1
            values = torch.stack([s.image.double().mean() for s in samples])
            return Losses({"loss": (self.weight * values).mean()})

    one = step(MeanOfImages(), [SAMPLES])
    assert_same(step(MeanOfImages(), [SAMPLES[:1], SAMPLES[1:]]), one)
    model = MeanOfImages()
    step(model, [[s] for s in SAMPLES])
    assert model.calls == 4, "nothing is looked at ahead"


def test_one_batch_of_one_process_is_left_as_it_is():
    torch.manual_seed(7)
    model = small_model()
    torch.manual_seed(8)
    model(SAMPLES).total().backward()
    wanted = {n: p.grad for n, p in model.named_parameters()}
    torch.manual_seed(7)
    again = small_model()
    torch.manual_seed(8)
    _, found = step(again, [SAMPLES])
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_normaliser_belongs_to_a_term():
    with pytest.raises(ValueError, match=r"normalisers for .*loss_b"):
        Losses({"loss_a": torch.zeros(())}, normalisers={"loss_b": torch.ones(())})
