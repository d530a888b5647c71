"""The loop: schedule, clipping, errors, and that a resumed run is the run that never stopped."""

import itertools
import logging

import pytest
import torch
from lines import lines_of

from detkit.checkpoint import Checkpointer, read_checkpoint, resume
from detkit.engine import CheckpointHook, EvalHook, Hook
from detkit.registry import ConfigError, DataError


class Recorder(Hook):
    def __init__(self, fail_at=None):
        super().__init__()
        self.calls, self.rates, self.fail_at = [], [], fail_at

    def before_train(self, trainer):
        self.calls.append("before_train")

    def before_step(self, trainer):
        assert trainer.step == trainer.finished
        if trainer.step == self.fail_at:
            raise KeyboardInterrupt

    def after_step(self, trainer):
        assert trainer.finished == trainer.step + 1
        assert not any(v.requires_grad for v in trainer.losses.terms.values())
        self.calls.append(trainer.step)
        self.rates.append(trainer.optimizer.param_groups[0]["lr"])

    def after_train(self, trainer):
        self.calls.append("after_train")

    def state_dict(self):
        return {"seen": len(self.rates)}

    def load_state_dict(self, state):
        self.restored = state["seen"]


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_it_learns_and_calls_hooks_in_order(make_trainer):
    hook = Recorder()
    trainer = make_trainer(600, [hook])  # with a rate that decays to 0
    trainer.model.dropout.p = 0.0
    trainer.train()
    assert trainer.losses.terms["loss_l2"] < 1e-3
    assert hook.calls == ["before_train", *range(600), "after_train"]
    assert trainer.finished == 600


def test_the_rate_is_base_rate_times_schedule(make_trainer):
    hook = Recorder()
    make_trainer(4, [hook]).train()
    assert hook.rates == pytest.approx([0.05, 0.0375, 0.025, 0.0125])


def test_gradients_are_clipped(make_trainer):
    trainer = make_trainer(1, clip_grad_norm=1e-3)
    lines = lines_of(trainer)
    before = weights(trainer)
    trainer.train()
    assert (weights(trainer) - before).norm() == pytest.approx(0.05 * 1e-3, rel=1e-3)
    assert lines[0]["grad_norm"] > 1e-3


@pytest.mark.parametrize("as_function", [True, False])
def test_a_resumed_run_equals_one_that_never_stopped(make_trainer, toy_batches, tmp_path, as_function):
    def build(max_iter, folder):
        checkpointer = Checkpointer(tmp_path / folder)
        batches = toy_batches if as_function else toy_batches(0)
        evaluation = EvalHook(lambda: {"noise": torch.rand(3).sum().item()}, 4)
        hooks = [CheckpointHook(checkpointer, 3), Recorder(fail_at=8 if folder == "stopped" else None), evaluation]
        return make_trainer(max_iter, hooks, batches), checkpointer

    straight, _ = build(12, "straight")
    straight.train()
    stopped, checkpointer = build(12, "stopped")
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert stopped.hooks[1].calls[-1] == "after_train"
    again, _ = build(12, "resumed")
    assert resume(checkpointer, again.model, again) == 6
    assert again.hooks[1].restored == 5  # the checkpoint comes first in the list of hooks
    again.train()
    assert torch.equal(weights(again), weights(straight))
    assert again.hooks[1].calls[1:3] == [5, 6]  # its call for step 5 came after the checkpoint


def test_options_of_the_optimizer_are_those_of_now(make_trainer):
    old, new = make_trainer(4), make_trainer(4)
    old.train()
    for group in new.optimizer.param_groups:
        group["initial_lr"], group["weight_decay"] = 0.5, 0.25
    new.load_state_dict(old.state_dict())
    assert new.optimizer.param_groups[0]["initial_lr"] == 0.5
    assert new.optimizer.param_groups[0]["weight_decay"] == 0.25
    momentum = new.optimizer.state[new.model.linear.weight]["momentum_buffer"]
    assert torch.equal(momentum, old.optimizer.state[old.model.linear.weight]["momentum_buffer"])
    assert new.finished == 4


def test_a_finished_run_says_so_and_can_be_lengthened(make_trainer, tmp_path, caplog):
    checkpointer = Checkpointer(tmp_path / "run")
    make_trainer(4, [CheckpointHook(checkpointer, 3)]).train()
    assert read_checkpoint(tmp_path / "run" / "model_final.pth").trainer is None
    again = make_trainer(4, [CheckpointHook(checkpointer, 3)])
    with caplog.at_level(logging.INFO, "detkit"):
        assert resume(checkpointer, again.model, again) == 4
        again.train()
    assert "finished: 4 of 4 steps are done" in caplog.text
    longer = make_trainer(6)
    resume(checkpointer, longer.model, longer)
    longer.train()
    assert longer.finished == 6


def test_resume_refuses_what_it_cannot_go_on_with(make_trainer, tmp_path):
    trainer, checkpointer = make_trainer(4), Checkpointer(tmp_path / "run")
    assert resume(checkpointer, trainer.model, trainer) == 0
    saved = make_trainer(4)
    checkpointer.save("checkpoint_0000000", saved.model, trainer_state=saved.state_dict(), class_names=["b", "a"])
    with pytest.raises(DataError, match=r"checkpoint_0000000.*init_weights.*\['b', 'a'\]"):
        resume(checkpointer, trainer.model, trainer)
    checkpointer.save("checkpoint_0000000", torch.nn.Linear(3, 1), trainer_state=saved.state_dict())
    with pytest.raises(DataError, match=r"checkpoint_0000000.*init_weights"):
        resume(checkpointer, trainer.model, trainer)
    checkpointer.save("checkpoint_0000000", saved.model)
    with pytest.raises(DataError, match="no training state"):
        resume(checkpointer, trainer.model, trainer)
    frozen = make_trainer(4)
    frozen.optimizer = torch.optim.SGD([frozen.model.linear.weight], lr=1.0)
    checkpointer.save("checkpoint_0000000", saved.model, trainer_state=saved.state_dict())
    with pytest.raises(DataError, match=r"checkpoint_0000000.*other parameters.*frozen"):
        resume(checkpointer, frozen.model, frozen)


def test_a_loss_that_is_not_finite_names_step_term_and_files(make_trainer, tmp_path):
    trainer = make_trainer(10, [Recorder()])
    trainer.model.poison_at = 7  # second image of step 3
    with pytest.raises(FloatingPointError, match=r"step 3: .*loss_l2 = nan.*6\.png, 7\.png.*learning rate"):
        trainer.train()
    assert torch.isfinite(weights(trainer)).all()  # it stopped before the weights were touched
    assert trainer.hooks[0].calls == ["before_train", 0, 1, 2, "after_train"]


def test_losses_checked_at_the_log_period_name_the_step_that_failed(make_trainer, tmp_path):
    checkpointer = Checkpointer(tmp_path / "run")
    trainer = make_trainer(10, [CheckpointHook(checkpointer, 5)], log_period=100)
    trainer.model.poison_at = 6
    trainer.training_step.checks_at_once = False  # as on a GPU, which is not asked
    with pytest.raises(FloatingPointError, match=r"step 3: .*6\.png, 7\.png"):
        trainer.train()
    assert trainer.step == 4  # noticed when the checkpoint was due
    assert checkpointer.latest() is None


def test_errors_in_a_step_name_the_batch(make_trainer, caplog):
    trainer = make_trainer(4)
    trainer.model.forward = lambda samples: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert "step 0 failed on the batch 0.png, 1.png" in caplog.text


def test_a_hook_that_fails_while_cleaning_up_hides_nothing(make_trainer, caplog):
    class Broken(Hook):
        def after_train(self, trainer):
            raise OSError("disk")

    last = Recorder(fail_at=2)
    with pytest.raises(KeyboardInterrupt):
        make_trainer(4, [Broken(), last]).train()
    assert last.calls[-1] == "after_train"
    assert "Broken.after_train failed" in caplog.text
    with pytest.raises(OSError, match="disk"):
        make_trainer(2, [Broken()]).train()


def test_all_hooks_clean_up_and_the_first_error_of_that_is_raised(make_trainer, caplog):
    class Broken(Hook):
        def __init__(self, error):
            super().__init__()
            self.error = error

        def after_train(self, trainer):
            raise self.error

    last = Recorder()
    with pytest.raises(ConfigError, match="no such metric"):
        make_trainer(2, [Broken(ConfigError("no such metric")), Broken(OSError("disk")), last]).train()
    assert last.calls == ["before_train", 0, 1, "after_train"]
    assert "disk" in caplog.text
    assert "no such metric" not in caplog.text


def test_batches_that_end_are_an_error(make_trainer, toy_batches):
    with pytest.raises(ValueError, match=r"ended after 2 steps; max_iter is 5"):
        make_trainer(5, batches=list(itertools.islice(toy_batches(), 2))).train()


def test_nonsense_is_refused(make_trainer):
    with pytest.raises(ValueError, match="max_iter"):
        make_trainer(0)
    with pytest.raises(ValueError, match="clip_grad_norm"):
        make_trainer(1, clip_grad_norm=0.0)
    trainer = make_trainer(1)
    trainer.model.forward = lambda samples: type(trainer.losses)()
    with pytest.raises(ValueError, match="no loss term"):
        trainer.train()
