"""Signals end a run in good order: the step is finished, a checkpoint is there, nothing is done twice or left out."""

import json
import multiprocessing
import os
import signal
import subprocess
import threading
import time

import pytest
import torch

from detkit.checkpoint import Checkpointer, resume
from detkit.data import Mapper, Shapes, ShuffleSampler, train_loader
from detkit.data.loader import _outlast_signals
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


def linger(ready):
    _outlast_signals()
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
    assert worker.exitcode == 128 + signal.SIGTERM
