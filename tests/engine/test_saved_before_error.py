"""An error that ends a training costs none of its finished steps."""

import logging

import pytest
import torch
from processes import in_processes
from toy_training import Regression, toy_batches

from detkit.checkpoint import Checkpointer, resume
from detkit.engine import CheckpointHook, EvalHook, Interrupted, Interruption, Trainer
from detkit.registry import DataError
from detkit.structures import FailedBatch


def broken_at(number, error):
    def stream(start):
        for index, batch in enumerate(toy_batches(start), start):
            if index == number:
                raise error
            yield batch

    return stream


@pytest.mark.parametrize("error", [DataError("a.jpg: cannot be decoded"), RuntimeError("a loader process died")])
@pytest.mark.parametrize("period", [None, 4])
def test_a_batch_that_cannot_be_read_costs_no_finished_step(make_trainer, tmp_path, caplog, error, period):
    whole = make_trainer(
        8, [CheckpointHook(Checkpointer(tmp_path / "whole"), period)], lambda start: toy_batches(start)
    )
    whole.train()
    checkpointer = Checkpointer(tmp_path / "run")
    trainer = make_trainer(8, [CheckpointHook(checkpointer, period)], broken_at(5, error))
    with pytest.raises(type(error), match=str(error)):
        trainer.train()
    assert checkpointer.latest().name == "checkpoint_0000004.pth"
    assert "5 steps are done and saved" in caplog.text
    mended = make_trainer(8, [CheckpointHook(checkpointer, period)], lambda start: toy_batches(start))
    resume(checkpointer, mended.model, mended)
    assert mended.finished == 5
    mended.train()
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), mended.model.parameters()))


def test_an_evaluation_that_fails_is_made_up_for_after_a_resume(make_trainer, tmp_path):
    checkpointer, evaluated = Checkpointer(tmp_path / "run"), []

    def evaluate():
        if not evaluated and not mended:
            raise DataError("test/9.png: cannot be decoded")
        evaluated.append(trainer.finished)
        return {"box": {"AP": 0.5}}

    mended = False
    hooks = [CheckpointHook(checkpointer, 100), EvalHook(evaluate, 3)]
    trainer = make_trainer(7, hooks, lambda start: toy_batches(start))
    with pytest.raises(DataError, match=r"test/9\.png"):
        trainer.train()
    assert checkpointer.latest().name == "checkpoint_0000002.pth"
    mended = True
    trainer = make_trainer(
        7, [CheckpointHook(checkpointer, 100), EvalHook(evaluate, 3)], lambda start: toy_batches(start)
    )
    resume(checkpointer, trainer.model, trainer)
    trainer.train()
    assert evaluated == [3, 6, 7]


def test_what_fails_while_saving_hides_nothing(make_trainer, tmp_path, caplog):
    (tmp_path / "run").write_text("a file where the folder should be")
    trainer = make_trainer(8, [CheckpointHook(Checkpointer(tmp_path / "run"), None)], broken_at(2, DataError("a.jpg")))
    trainer.output_dir = None
    with pytest.raises(DataError, match=r"a\.jpg"):
        trainer.train()
    assert "2 steps are done, and could not be saved" in caplog.text


def test_without_an_interruption_an_image_that_stands_for_another_ends_the_training(make_trainer):
    def stream(start):
        for index, batch in enumerate(toy_batches(start), start):
            yield FailedBatch(batch, DataError("a.jpg: cannot be decoded")) if index == 3 else batch

    trainer = make_trainer(8, [], stream)
    with pytest.raises(DataError, match=r"a\.jpg"):
        trainer.train()
    assert trainer.finished == 3


def worker(rank, folder):
    logging.disable()
    checkpointer = Checkpointer(folder)

    def stream(start):
        for index, batch in enumerate(toy_batches(start), start):
            yield FailedBatch(batch, DataError("a.jpg: cannot be decoded")) if (rank, index) == (1, 3) else batch

    model = torch.nn.parallel.DistributedDataParallel(Regression())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"hooks": [CheckpointHook(checkpointer, None)], "interruption": Interruption()}
    trainer = Trainer(model, optimizer, lambda step, n: 1.0, stream, 20, **options)
    with pytest.raises(DataError if rank == 1 else Interrupted):
        trainer.train()
    torch.distributed.barrier()
    assert checkpointer.latest().name == f"checkpoint_{trainer.step:07d}.pth"
    assert 3 <= trainer.step <= 5


@pytest.mark.slow
def test_of_several_processes_all_save_and_stop_at_an_image_that_one_cannot_read(tmp_path):
    in_processes(worker, str(tmp_path / "run"))
