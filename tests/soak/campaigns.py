"""Runs that are attacked again and again, resumed until they end, and compared with one that nothing happened to."""

import collections
import contextlib
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from failures import Ranked
from survive_helpers import Failure, Runner
from test_train_survives import children

HOOKS = "{name: ExponentialMovingAverage, decay: 0.9}, {name: BestCheckpoint, metric: ema/box/AP}"
EARLY = (
    "{name: ValidationLoss}, {name: EarlyStopping, metric: validation/total_loss, mode: min, min_delta: 9, patience: 1}"
)
OFTEN = ["train.checkpoint_period=2", "train.eval_period=3"]
VARIANTS = {
    "whole": [*OFTEN, "solver.max_iter=6"],
    "early stop": [*OFTEN, "solver.max_iter=90", f"train.hooks=[{HOOKS}, {EARLY}]"],
    "sharded": [
        *OFTEN,
        "solver.max_iter=6",
        "train.parallel={name: FSDP, unit_parameters: 1000}",
        "train.sharded_checkpoints=true",
    ],
    "workers": [
        *OFTEN,
        "solver.max_iter=9",
        "data.num_workers=2",
        f"train.hooks=[{HOOKS}, {{name: PreciseBN, num_batches: 2}}, {{name: ValidationLoss}}]",
    ],
}
"""Options of the runs, by name."""

CHANCE = re.compile(r"log.*\.txt|tensorboard/.*|checkpoint_.*|earlier_run_\d+/.*")
"""Files whose names depend on when a run was interrupted."""


class Run(Runner):
    """A run of one or two processes."""

    def __init__(self, folder: Path, variant: str):
        super().__init__(folder, *VARIANTS[variant])
        self.size = 2 if variant == "sharded" else 1
        self.history: list[str] = []
        self.said.touch()

    def begin(self, failure: Failure | None = None) -> list:
        """Its processes; the first of several has the failure."""
        if self.size == 1:
            return [self.start(failure=failure)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launch = f"{self.folder.name} {len(self.history)} {port}"
        failures = [failure, *[None] * (self.size - 1)]
        return [self.start(failure=Ranked(n, self.size, port, launch, each)) for n, each in enumerate(failures)]

    def end(self, processes: list, timeout: float = 120) -> int:
        """The exit code; when one process dies the others are killed, as a launcher does."""
        until = time.monotonic() + timeout
        while all(p.is_alive() for p in processes) and time.monotonic() < until:
            processes[0].join(0.02)
        if all(p.exitcode in (None, 0) for p in processes):
            for process in processes:
                process.join(max(until - time.monotonic(), 0))
        code = next((p.exitcode for p in processes if p.exitcode), 0 if processes[0].exitcode == 0 else None)
        for process in processes:
            for pid in (process.pid, *children(process.pid)) if process.is_alive() else ():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.join()
        assert code is not None, "it hangs"
        return code

    def result(self) -> dict:
        """What is to be the same in every run of its kind."""
        names = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}
        return {"files": {name for name in names if not CHANCE.fullmatch(name)}, **self.outcome()}


Attack = Callable[[Run], int]
"""Starts the run, does something to it, and gives its exit code."""


class Campaign:
    """Attacks on runs of one variant, several on each.

    Args:
        variant: see ``VARIANTS``.
        folder: where the runs are.
        random: how many attacks a run stands before it may end.
        optional: files that may be missing after such attacks.
    """

    def __init__(self, variant: str, folder: Path, random: Random, optional: str = "nothing"):
        self.variant, self.folder, self.random = variant, folder, random
        self.optional = re.compile(optional)
        self.done: collections.Counter[str] = collections.Counter()
        self.failures: collections.Counter[str] = collections.Counter()
        self.examples: dict[str, str] = {}
        self.number = 0
        straight = Run(folder / "straight", variant)
        start = time.monotonic()
        code = straight.end(straight.begin())
        assert code == 0, straight.words()[-3000:]
        self.seconds, self.expected = time.monotonic() - start, straight.result()
        self._renew()

    def attack(self, name: str, attack: Attack, codes: tuple[int, ...], tries: int = 4) -> None:
        """One attack, which ends in one of these codes; a run that ends before it is compared, another tried."""
        for _ in range(tries):
            self.run.history.append(name)
            before = len(self.run.words())
            try:
                code = attack(self.run)
            except AssertionError as error:
                self._fail(f"{name}: {str(error).splitlines()[0]}")
                return
            if code == 0:
                self.run.history.append("it ended")
                self._compare()
                continue
            self.done[name] += 1
            if code not in codes:
                self._fail(f"{name}: exit code {code} instead of {codes}: {_last(self.run.words()[before:])}")
            elif self.left == 0:
                self.finish()
            else:
                self.left -= 1
            return
        self.done[f"{name}, not reached"] += 1

    def finish(self) -> None:
        """Resumes the run until it ends and compares."""
        before = len(self.run.words())
        try:
            code = self.run.end(self.run.begin())
        except AssertionError as error:
            self._fail(f"the resume after {self.run.history[-1]}: {error}")
            return
        if code:
            words = _last(self.run.words()[before:])
            self._fail(f"the resume after {self.run.history[-1]} ends with {code}: {words}")
        else:
            self._compare()

    def _compare(self) -> None:
        self.done["runs"] += 1
        try:
            got = self.run.result()
        except (OSError, KeyError, ValueError) as error:
            self._fail(f"the end after {self._last_attack()}: {type(error).__name__}: {error}")
            return
        files = {name for name in got["files"] ^ self.expected["files"] if not self.optional.search(name)}
        other = [name for name in self.expected if name != "files" and got[name] != self.expected[name]]
        if files or other:
            self._fail(f"the end after {self._last_attack()}: other {sorted(files) + other}")
        else:
            shutil.rmtree(self.run.folder)
            self._renew()

    def _last_attack(self) -> str:
        return next((name for name in reversed(self.run.history) if name != "it ended"), "nothing")

    def _fail(self, cause: str) -> None:
        cause = re.sub(
            r"step \d+|\d{7}|\d\d:\d\d:\d\d|[0-9a-f]{8}\.tmp", "#", cause.replace(str(self.run.folder), "RUN")
        )
        self.failures[cause] += 1
        self.examples.setdefault(cause, f"{self.run.folder} after {' | '.join(self.run.history)}")
        self._renew()

    def _renew(self) -> None:
        self.number += 1
        self.run, self.left = Run(self.folder / f"run_{self.number}", self.variant), self.random.randint(0, 4)

    def report(self, say: Callable[[str], None]) -> None:
        """Counts, and failures by cause."""
        say(f"{self.variant}: " + ", ".join(f"{count} {name}" for name, count in self.done.items()))
        for cause, count in self.failures.most_common():
            say(f"  {count} x {cause}\n      {self.examples[cause]}")


def _last(words: str) -> str:
    lines = words.strip().splitlines() or ["nothing said"]
    return lines[-1][-300:]
