"""The real training tool in processes of its own that may be killed, forked from a server that has imported it."""

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from pathlib import Path

import torch

from detkit import command_line, training
from detkit.checkpoint import files
from detkit.commands import train as train_command
from detkit.engine.step import TrainingStep
from detkit.utils import paths

ROOT = Path(__file__).resolve().parents[2]

TINY = [
    "--config-file",
    str(ROOT / "configs/quick_start/mask_rcnn_shapes.yaml"),
    "data.train_dataset={name: Shapes, num_images: 9, image_size: [64, 64]}",
    "data.test_dataset={name: Shapes, num_images: 3, image_size: [64, 64], seed: 1}",
    "data.batch_size=2",
    "model.backbone.width=8",
    "model.neck.out_channels=16",
    "model.roi_heads.box_head.fc_dims=[32]",
    "model.roi_heads.mask_head.conv_dim=8",
    "train.num_pictures=1",
    "train.log_period=1",
    "train.hooks=[{name: ExponentialMovingAverage, decay: 0.9}, {name: BestCheckpoint, metric: ema/box/AP}]",
]
TIMES = {"data_time", "step_time", "eta_seconds", "max_rss_mb"}


class Failure:
    """What goes wrong in a process, set up before the tool starts."""

    def __call__(self):
        raise NotImplementedError


class DieWriting(Failure):
    """A SIGKILL in the middle of a checkpoint: ``share`` of the bytes that the last one had, or its renaming."""

    def __init__(self, number, written, moment="write"):
        self.number, self.written, self.moment = number, written, moment

    def __call__(self):
        original, rename, count = paths.atomic_write, os.replace, [0]

        @contextlib.contextmanager
        def deadly(path, mode="wb"):
            training = Path(path).name.startswith("checkpoint_")
            count[0] += training
            with original(path, mode) as file:
                dies = training and count[0] == self.number and self.moment == "write"
                yield Deadly(file, self.written) if dies else file

        def deadly_rename(source, target):
            if Path(target).name.startswith("checkpoint_") and count[0] == self.number and self.moment != "write":
                if self.moment == "after":
                    rename(source, target)
                os.kill(os.getpid(), signal.SIGKILL)
            rename(source, target)

        files.atomic_write, os.replace = deadly, deadly_rename


class Deadly:
    def __init__(self, file, budget):
        self.file, self.budget = file, budget

    def write(self, data):
        data = memoryview(data).cast("B")
        if len(data) >= self.budget:
            self.file.write(data[: self.budget])
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        self.budget -= len(data)
        return self.file.write(data)

    def flush(self):
        self.file.flush()


class DieEvaluating(Failure):
    """A SIGKILL as the ``number``-th evaluation of the process ends, or as its results are written."""

    def __init__(self, number, name="evaluate"):
        self.number, self.name = number, name

    def __call__(self):
        original, count = getattr(training, self.name), [0]

        def deadly(*args, **kwargs):
            count[0] += 1
            if count[0] == self.number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(training, self.name, deadly)


class Pause(Failure):
    """Stands still in the middle of the process's third step, as the file ``paused`` says, until it is removed.

    By then each of two loader workers has started, since both have delivered.
    """

    def __init__(self, paused):
        self.paused = Path(paused)

    def __call__(self):
        original, count = TrainingStep.__call__, [0]

        def pausing(*args, **kwargs):
            count[0] += 1
            if count[0] == 3:
                self.paused.touch()
                while self.paused.exists():
                    time.sleep(0.01)
            return original(*args, **kwargs)

        TrainingStep.__call__ = pausing


class NoRoom(Failure):
    """A limit on the size of files."""

    def __init__(self, size):
        self.size = size

    def __call__(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


def entry(arguments, said, failure):
    """What the process runs: the tool as the command line runs it, its words going to a file."""
    with open(said, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    multiprocessing.set_start_method("fork", force=True)  # what this process was started by is not for its workers
    torch.set_num_threads(1)
    if failure is not None:
        failure()
    sys.exit(command_line.run(lambda: train_command.main(arguments)))


class Runner:
    """Starts the tool on one folder, again and again with ``--resume``."""

    def __init__(self, folder, *overrides):
        self.folder, self.overrides = Path(folder), overrides
        self.folder.mkdir(parents=True, exist_ok=True)
        self.said = self.folder.with_suffix(".txt")
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["survive_helpers"])

    def start(self, *more, failure=None):
        arguments = [*TINY, "--resume", f"train.output_dir={self.folder}", *self.overrides, *more]
        process = self.context.Process(target=entry, args=(arguments, str(self.said), failure))
        process.start()
        return process

    def run(self, *more, failure=None, timeout=240):
        """The exit code."""
        process = self.start(*more, failure=failure)
        process.join(timeout)
        assert process.exitcode is not None, "it hangs"
        return process.exitcode

    def words(self):
        return self.said.read_text()

    def lines(self):
        path = self.folder / "metrics.jsonl"
        return path.read_bytes().splitlines() if path.is_file() else []

    def wait_for_a_line(self, process, timeout=240):
        """Until the process has written a line of metrics, which it does as a step ends."""
        before, end = self.lines(), time.monotonic() + timeout
        while process.is_alive() and time.monotonic() < end:
            now = self.lines()
            if len(now) > len(before):
                return
            before = now
            time.sleep(0.002)
        raise AssertionError(f"it has ended or hangs: {self.words()[-2000:]}")

    def wait_for_the_pause(self, process, paused, timeout=240):
        """Until the process stands still, see ``Pause``."""
        end = time.monotonic() + timeout
        while process.is_alive() and time.monotonic() < end:
            if paused.exists():
                return
            time.sleep(0.01)
        raise AssertionError(f"it has ended or hangs: {self.words()[-2000:]}")

    def outcome(self):
        """What a run leaves, apart from times."""
        files = ("model_final", "model_final_ema", "model_best")
        states = {name: torch.load(self.folder / f"{name}.pth", weights_only=True)["model"] for name in files}
        lines = [json.loads(line) for line in self.lines()]
        evaluation = json.loads((self.folder / "evaluation.json").read_text())
        for part in (evaluation, evaluation["ema"]):
            del part["timing"]
        return {
            "weights": {name: {n: v.tolist() for n, v in state.items()} for name, state in states.items()},
            "lines": [{k: v for k, v in line.items() if k not in TIMES and "timing" not in k} for line in lines],
            "evaluation": evaluation,
        }
