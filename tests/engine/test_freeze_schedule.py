"""Frozen parts stand still to the last bit, learn when it is their turn, and a resume changes nothing."""

import itertools
import logging

import pytest
import torch
from torch import nn

from detkit.checkpoint import Checkpointer, resume
from detkit.engine import CheckpointHook, EvalHook, FreezeSchedule, FreezeStage, Hook, Trainer
from detkit.registry import ConfigError
from detkit.solver import SGD, AdamW, WarmupMultiStepLR
from detkit.structures import Losses, Sample

STAGES = (
    FreezeStage(0.25, ("neck", "heads")),
    FreezeStage(0.75, ("backbone.res4", "neck", "heads")),
    FreezeStage(1.0),
)
"""pytorch-mask-rcnn's: heads, then 4+, then all."""


class Detector(nn.Module):
    """A backbone of two stages with batch norms, a neck, and heads; trains in milliseconds."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)

        def stage(channels):
            return nn.Sequential(nn.Conv2d(channels, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Tanh())

        self.backbone = nn.Module()
        self.backbone.res3, self.backbone.res4 = stage(3), stage(4)
        self.neck, self.heads = stage(4), nn.Linear(4, 1)
        self.double()

    def forward(self, samples):
        images = torch.stack([s.image for s in samples]).double() / 255
        x = self.neck(self.backbone.res4(self.backbone.res3(images))).mean((2, 3))
        return Losses({"loss": (self.heads(x).squeeze(1) - images[:, 0, 0, 0]).square().mean()})


def batches(start):
    """An endless stream in which batch n is the same whenever it is asked for."""
    for step in itertools.count(start):
        generator = torch.Generator().manual_seed(step)
        images = torch.randint(0, 256, (4, 3, 3, 3), dtype=torch.uint8, generator=generator)
        yield [Sample(image, (3, 3)) for image in images]


class Watch(Hook):
    """Keeps every weight and statistic after each step, and which gradients there were."""

    def __init__(self, fail_at=None):
        super().__init__()
        self.states, self.with_gradient, self.fail_at = [], [], fail_at

    def before_step(self, trainer):
        if not self.states:
            self._keep(trainer)
        if trainer.step == self.fail_at:
            raise KeyboardInterrupt

    def after_step(self, trainer):
        self._keep(trainer)
        self.with_gradient.append({n for n, p in trainer.model.named_parameters() if p.grad is not None})

    def _keep(self, trainer):
        self.states.append({name: value.clone() for name, value in trainer.model.state_dict().items()})

    def moved(self, step):
        """The names whose values differ between before and after ``step``."""
        before, after = self.states[step], self.states[step + 1]
        return {name for name in after if not torch.equal(before[name], after[name])}


def sgd(model):
    return SGD(model, 1.0, lr=0.01, momentum=0.9, weight_decay=0.1, weight_decay_norm=0.1)


def adamw(model):
    return AdamW(model, 1.0, lr=0.01, weight_decay=0.1, weight_decay_norm=0.1)


def multi_tensor(model):
    """As our SGD steps on a GPU."""
    optimizer = sgd(model)
    for group in optimizer.param_groups:
        group.update(fused=False, foreach=True)
    return optimizer


def in_parts(names, *parts):
    return {name for name in names if name.startswith(parts)}


@pytest.fixture
def trainer_of():
    def make(hooks=(), stages=STAGES, optimizer=sgd, max_iter=12, model=None):
        model = model or Detector()
        all_hooks = [FreezeSchedule(stages=stages), *hooks]
        return Trainer(model, optimizer(model), lambda step, n: 1.0, batches, max_iter, hooks=all_hooks, log_period=2)

    return make


@pytest.mark.parametrize("optimizer", [sgd, adamw, multi_tensor])
def test_what_is_frozen_does_not_move_by_a_bit_and_the_rest_learns(trainer_of, optimizer):
    watch = Watch()
    trainer = trainer_of([watch], optimizer=optimizer)
    evaluation = EvalHook(lambda: trainer.model.eval() and {}, 1)  # after which it sets the model to training mode
    trainer.hooks.append(evaluation)
    trainer.train()
    everything = set(watch.states[0])
    parameters = {name for name, _ in trainer.model.named_parameters()}
    for step in range(12):
        learning = ["neck", "heads"] + ["backbone.res4"] * (step >= 3) + ["backbone.res3"] * (step >= 9)
        assert watch.moved(step) == in_parts(everything, *learning), step
        assert watch.with_gradient[step] == in_parts(parameters, *learning)


def test_it_can_freeze_again_what_has_momentum(trainer_of):
    watch = Watch()
    stages = (FreezeStage(0.5), FreezeStage(0.75, ("heads.weight",)), FreezeStage(1.0))
    trainer = trainer_of([watch], stages)
    trainer.train()
    everything = set(watch.states[0])
    for step in range(12):
        assert watch.moved(step) == ({"heads.weight"} if 6 <= step < 9 else everything)


@pytest.mark.parametrize(("ours", "other"), [(sgd, torch.optim.SGD), (adamw, torch.optim.AdamW)])
def test_steps_are_those_of_an_optimizer_that_takes_each_weight_alone(trainer_of, ours, other):
    def plain(model):
        options = {"momentum": 0.9} if other is torch.optim.SGD else {}
        return other(model.parameters(), lr=0.01, weight_decay=0.1, fused=False, foreach=False, **options)

    def our_rule(model):
        return ours(model)

    one, two = trainer_of(optimizer=our_rule), trainer_of(optimizer=plain)
    assert one.optimizer.param_groups[0]["fused"]
    one.train()
    two.train()
    for a, b in zip(one.model.parameters(), two.model.parameters()):
        torch.testing.assert_close(a, b)


def test_a_resumed_run_equals_one_that_never_stopped(trainer_of, tmp_path):
    def build(folder, fail_at=None):
        checkpointer = Checkpointer(tmp_path / folder)
        return trainer_of([CheckpointHook(checkpointer, 5), Watch(fail_at)]), checkpointer

    straight, _ = build("straight")
    straight.train()
    stopped, checkpointer = build("stopped", fail_at=7)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    again, _ = build("stopped")
    assert resume(checkpointer, again.model, again) == 5
    again.train()
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_stages_change_with_the_milestones_of_the_rate(trainer_of):
    """pytorch-mask-rcnn's training: heads, then 4+, then all with a tenth of the rate."""
    schedule, hook = WarmupMultiStepLR(milestones=(0.75,), gamma=0.1, warmup_iters=0), FreezeSchedule(stages=STAGES)
    for max_iter in (1, 2, 3, 7, 10, 999, 160_000):
        for step in range(0, max_iter, max(1, max_iter // 500)):
            last = hook.stage_at(step, max_iter) is STAGES[2]
            assert schedule(step, max_iter) == pytest.approx(0.1 if last else 1.0)
    assert [STAGES.index(hook.stage_at(step, 160)) for step in (0, 39, 40, 119, 120, 159)] == [0, 0, 1, 1, 2, 2]


def test_each_stage_is_logged_and_afterwards_everything_is_as_it_was(trainer_of, caplog):
    model = Detector()
    model.backbone.res3[0].weight.requires_grad_(False)
    stages = (FreezeStage(0.5, ("heads",)), FreezeStage(1.0, ("neck", "heads")))
    with caplog.at_level(logging.INFO, "detkit"):
        trainer_of(stages=stages, model=model).train()
    said = [r.message for r in caplog.records if "stage" in r.message]
    total = sum(p.numel() for p in model.parameters())
    assert said == [
        f"step 0: stage 1 of 2 begins: 5 of {total} parameters learn: heads",
        f"step 6: stage 2 of 2 begins: 29 of {total} parameters learn: neck, heads",
    ]
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["backbone.res3.0.weight"]
    assert all(module.training for module in model.modules())


def test_everything_is_as_it_was_also_after_an_exception(trainer_of):
    trainer = trainer_of([Watch(fail_at=2)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert all(p.requires_grad for p in trainer.model.parameters())
    assert all(module.training for module in trainer.model.modules())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("head", r"no submodule or parameter 'head'; there are backbone, neck, heads"),
        ("backbone.res5", r"'backbone.res5'; there are backbone.res3, backbone.res4"),
        ("backbone.res", r"'backbone.res'; there are backbone.res3, backbone.res4"),
        ("heads.weight.x", r"'heads.weight.x'; there are none"),
        ("", r"''; there are backbone, neck, heads"),
    ],
)
def test_a_name_that_the_model_has_not_is_refused_with_those_that_it_has(trainer_of, name, words):
    trainer = trainer_of(stages=(FreezeStage(0.5), FreezeStage(1.0, ("neck", name))))
    with pytest.raises(ConfigError, match=words):
        trainer.train()
    assert trainer.finished == 0


def test_what_is_kept_from_learning_is_refused(trainer_of):
    model = Detector()
    for parameter in model.backbone.res3.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(
        ConfigError, match=r"3 parameters.*frozen when the model was built.*res3.0.weight.*freeze_at: 0"
    ):
        trainer_of(model=model).train()
    with pytest.raises(ConfigError, match=r"2 parameters.*not the optimizer's: heads.weight, heads.bias"):
        trainer_of(optimizer=lambda m: sgd(nn.ModuleList([m.backbone, m.neck]))).train()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FreezeSchedule(stages=()), "last one 1"),
        (lambda: FreezeSchedule(stages=(FreezeStage(0.5),)), "last one 1"),
        (lambda: FreezeSchedule(stages=(FreezeStage(0.5), FreezeStage(0.5), FreezeStage(1.0))), "increasing"),
        (lambda: FreezeStage(1.0, ()), "what learns"),
        (lambda: FreezeStage(1.0, "heads"), "what learns"),
    ],
)
def test_stages_that_make_no_sense_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
