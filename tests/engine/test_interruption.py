"""Signals end a run in good order: the step is finished, a checkpoint is there, nothing is done twice or left out."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch

from detkit.checkpoint import Checkpointer, resume
from detkit.data import Mapper, Shapes, ShuffleSampler, train_loader
from detkit.data.workers import outlast_signals
from detkit.engine import EXIT_CODE, CheckpointHook, EvalHook, Hook, Interrupted, Interruption, MetricsWriter


class Send(Hook):
    """Signals to the process itself in the middle of a step."""

    def __init__(self, step, *numbers):
        super().__init__()
        self.at, self.numbers = step, numbers

    def before_step(self, trainer):
        for number in self.numbers if trainer.step == self.at else ():
            os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, EXIT_CODE), (signal.SIGUSR1, EXIT_CODE), (signal.SIGINT, 130)]
)
def test_the_step_is_finished_and_saved(make_trainer, tmp_path, number, code):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    checkpointer = Checkpointer(tmp_path / "run")
    hooks = [Send(3, number), CheckpointHook(checkpointer, None)]
    trainer = make_trainer(10, hooks, interruption=Interruption())
    with pytest.raises(Interrupted, match=f"{signal.Signals(number).name}; --resume") as stop:
        trainer.train()
    assert stop.value.exit_code == code
    assert trainer.finished == 4
    assert checkpointer.latest().name == "checkpoint_0000003.pth"  # also where the config asks for none
    assert {n: signal.getsignal(n) for n in before} == before


def test_a_second_ctrl_c_does_not_wait(make_trainer, tmp_path):
    trainer = make_trainer(10, [Send(3, signal.SIGINT, signal.SIGINT)], interruption=Interruption())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.finished == 3


def test_an_earlier_signal_is_not_the_next_trainings(make_trainer):
    interruption = Interruption()
    with pytest.raises(Interrupted):
        make_trainer(3, [Send(0, signal.SIGTERM)], interruption=interruption).train()
    again = make_trainer(3, interruption=interruption)
    again.train()
    assert again.finished == 3


class Waits:
    """Batches that stop coming, as those of a loader that hangs."""

    def __init__(self, batches, at, number=None):
        self.batches, self.at, self.number = batches, at, number

    def __call__(self, start):
        for step, batch in enumerate(self.batches(start), start):
            if step == self.at:
                if self.number is not None:
                    os.kill(os.getpid(), self.number)
                time.sleep(600)
            yield batch


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
@pytest.mark.parametrize("at", [0, 3])
def test_a_signal_ends_the_wait_for_a_batch_between_two_steps(make_trainer, toy_batches, tmp_path, number, code, at):
    checkpointer = Checkpointer(tmp_path / "run")
    hooks = [CheckpointHook(checkpointer, None)]
    straight = make_trainer(6, [CheckpointHook(Checkpointer(tmp_path / "straight"), None)], interruption=Interruption())
    straight.train()
    stopped = make_trainer(6, hooks, Waits(toy_batches, at, number), interruption=Interruption())
    with pytest.raises(Interrupted) as stop:
        stopped.train()
    assert (stop.value.exit_code, stopped.finished) == (code, at)
    assert (checkpointer.latest() is None) == (at == 0)
    resumed = make_trainer(6, hooks, interruption=Interruption())
    resume(checkpointer, resumed.model, resumed)
    resumed.train()
    assert torch.equal(resumed.model.linear.weight, straight.model.linear.weight)


def test_a_resumed_run_may_be_stopped_before_its_first_batch(make_trainer, toy_batches, tmp_path):
    straight = make_trainer(6)
    straight.train()
    checkpointer = Checkpointer(tmp_path / "run")
    for batches in (Waits(toy_batches, 2, signal.SIGTERM), Waits(toy_batches, 2, signal.SIGTERM)):
        stopped = make_trainer(6, [CheckpointHook(checkpointer, None)], batches, interruption=Interruption())
        resume(checkpointer, stopped.model, stopped)
        with pytest.raises(Interrupted):
            stopped.train()
        assert stopped.finished == 2
    resumed = make_trainer(6, [CheckpointHook(checkpointer, None)])
    resume(checkpointer, resumed.model, resumed)
    resumed.train()
    assert torch.equal(resumed.model.linear.weight, straight.model.linear.weight)


def test_a_wait_that_a_signal_came_before_is_given_up_after_a_while():
    interruption = Interruption()
    with interruption.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Interrupted) as stop, interruption.at_once(patience=0.05):
            time.sleep(600)
        assert stop.value.number == signal.SIGUSR1
        with interruption.at_once(patience=600):
            pass  # it came after all


def test_once_all_is_saved_further_signals_change_nothing(make_trainer):
    interruption = Interruption()
    with interruption.listening():
        with pytest.raises(Interrupted) as stop:
            make_trainer(10, [Send(3, signal.SIGTERM)], interruption=interruption).train()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            os.kill(os.getpid(), number)
    assert stop.value.exit_code == EXIT_CODE


class Greedy(Hook):
    """Takes every Exception for a failure of its own."""

    def after_step(self, trainer):
        try:
            with trainer.interruptible():
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(600)
        except Exception:
            raise AssertionError from None


def test_no_failure_that_is_passed_over_hides_the_signal(make_trainer):
    trainer = make_trainer(3, [Greedy()], interruption=Interruption())
    with pytest.raises(Interrupted):
        trainer.train()
    assert trainer.pending == ["Greedy"]


def evaluation(interruption, send_at=None):
    seen = []

    def evaluate():
        for batch in interruption.watch(range(5)):
            if batch == send_at:
                os.kill(os.getpid(), signal.SIGTERM)
            seen.append(batch)
        return {"noise": torch.rand(1).item()}

    return EvalHook(evaluate, 2), seen


def run(make_trainer, folder, hook, interruption):
    checkpointer = Checkpointer(folder)
    hooks = [MetricsWriter(), CheckpointHook(checkpointer, 3), hook]
    trainer = make_trainer(5, hooks, interruption=interruption, output_dir=folder)
    resume(checkpointer, trainer.model, trainer)
    trainer.train()
    return [json.loads(line).get("noise") for line in (folder / "metrics.jsonl").read_text().splitlines()], trainer


def test_an_evaluation_is_left_at_once_and_done_again(make_trainer, tmp_path):
    interruption = Interruption()
    hook, _ = evaluation(interruption)
    expected, straight = run(make_trainer, tmp_path / "straight", hook, interruption)
    hook, seen = evaluation(interruption, send_at=2)
    with pytest.raises(Interrupted):
        run(make_trainer, tmp_path / "run", hook, interruption)
    assert seen == [0, 1, 2]
    assert Checkpointer(tmp_path / "run").latest().name == "checkpoint_0000001.pth"
    hook, seen = evaluation(interruption)
    got, resumed = run(make_trainer, tmp_path / "run", hook, interruption)
    assert got == expected
    assert len(seen) == 15
    assert torch.equal(resumed.model.linear.weight, straight.model.linear.weight)


def test_what_is_watched_keeps_its_length():
    assert len(Interruption().watch([1, 2])) == 2
    assert not hasattr(Interruption().watch(iter([1])), "__len__")
    assert list(Interruption().watch(iter([1, 2]))) == [1, 2]


def test_in_another_thread_nothing_is_listened_to(make_trainer):
    trainer = make_trainer(3, interruption=Interruption())
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert trainer.finished == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_loader_workers_outlast_a_signal_to_all_processes(number):
    dataset = Shapes(num_images=4, image_size=(32, 32))
    loader = train_loader(dataset, Mapper(dataset), ShuffleSampler(dataset, 2, 0, 0, 1), 2)
    stream = iter(loader)
    first, _ = next(stream), next(stream)  # one of each worker, so that both have started
    workers = loader._loader._iterator._workers
    for worker in workers:  # by another process: its own parent's SIGTERM a worker obeys
        subprocess.run(["kill", f"-{int(number)}", str(worker.pid)], check=True)
    assert len(first) == len([next(stream) for _ in range(8)][-1]) == 2
    assert all(worker.is_alive() for worker in workers)
    del stream
    loader._loader._iterator._shutdown_workers()
    for worker in workers:
        worker.join(120)  # torch itself waits for five seconds
    assert not any(worker.is_alive() for worker in workers)


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="macOS")
def test_workers_are_born_deaf_to_signals(monkeypatch):
    """In every thread, from the first moment on: one that comes before a worker's own code runs ends nothing."""
    dataset = Shapes(num_images=4, image_size=(32, 32))
    fork = os.fork

    def killed_at_birth():
        pid = fork()
        if pid:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                subprocess.run(["kill", f"-{int(number)}", str(pid)], check=True)
        return pid

    monkeypatch.setattr(os, "fork", killed_at_birth)
    loader = train_loader(dataset, Mapper(dataset), ShuffleSampler(dataset, 2, 0, 0, 1), 2)
    stream = iter(loader)
    _, _ = next(stream), next(stream)
    wanted = sum(1 << (number - 1) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
    for worker in loader._loader._iterator._workers:
        for status in Path(f"/proc/{worker.pid}/task").glob("*/status"):
            blocked = int(re.search(r"SigBlk:\s*(\w+)", status.read_text())[1], 16)
            assert blocked & wanted in (wanted, wanted - (1 << (signal.SIGTERM - 1)))  # the thread that waits for it
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
    loader._loader._iterator._shutdown_workers()


def linger(ready):
    outlast_signals()
    ready.set()
    time.sleep(300)


def test_a_worker_obeys_the_run_that_started_it():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=linger, args=(ready,))
    worker.start()
    assert ready.wait(240)
    worker.terminate()
    worker.join(240)
    assert worker.exitcode == 0  # another code would be an error in the run, whose handler of SIGCHLD asks for it
