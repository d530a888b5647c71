"""Runs that are killed, stopped, damaged and without disk space end bit-equal to one that nothing happened to.

``SOAK=1`` does all attacks, else a share of them; ``SOAK_SEED`` changes the random choices. See counts.py.
"""

import contextlib
import os
import signal
import time
from random import Random

import pytest
from campaigns import Attack, Campaign, Run
from counts import random_of, share_of
from failures import FullDisk, Kill, SignalAtFork, WhileWriting
from survive_helpers import NoRoom
from test_train_survives import children

pytestmark = pytest.mark.slow
WRITES = {
    "checkpoint": r"checkpoint_\d+\.(pth|sharded)",
    "name of the last checkpoint": "last_checkpoint",
    "final weights": "model_final",
    "best weights": "model_best",
    "evaluation": r"evaluation\.json",
    "metrics": r"metrics\.jsonl",
    "pictures": r"predictions/|curves\.png",
    "config": r"config\.yaml",
}
REPEATED = ("checkpoint", "name of the last checkpoint", "final weights", "metrics", "pictures")
MOMENTS = ("open", "middle", "middle", "before", "after")


def kill_after(seconds: float) -> Attack:
    def attack(run: Run) -> int:
        processes = run.begin()
        processes[0].join(seconds)
        for process in processes:
            if process.is_alive():
                process.kill()
        return run.end(processes)

    return attack


def aimed(failure: type[WhileWriting], kind: str, random: Random, moments: tuple[str, ...]) -> WhileWriting:
    number = random.choice((1, 1, 2)) if kind in REPEATED else 1
    return failure(WRITES[kind], number, random.choice(moments), random.random())


def with_failure(failure) -> Attack:
    return lambda run: run.end(run.begin(failure))


def signal_after(seconds: float, number: int, everyone: bool) -> Attack:
    """A signal that ends a run without a checkpoint only if no step was done since its start."""

    def attack(run: Run) -> int:
        before = len(run.lines())
        (process,) = run.begin()
        process.join(seconds)
        for pid in (process.pid, *(children(process.pid) if everyone else ())) if process.is_alive() else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        code = run.end([process], timeout=30)
        stepped = len(run.lines()) > before
        if stepped and code == -number:
            raise AssertionError(f"it is killed after step {len(run.lines())} instead of leaving with a code")
        return code

    return attack


def damage_newest(random: Random, seconds: float) -> Attack:
    """The newest of several checkpoints is cut, emptied, zeroed or has a flipped bit; or its name is lost."""

    def attack(run: Run) -> int:
        code = kill_after(seconds)(run)
        found = sorted(run.folder.glob("checkpoint_*"), key=lambda path: path.stat().st_mtime_ns)
        if len(found) < 2 or code == 0:
            return code
        newest = found[-1]
        path = random.choice(sorted(newest.iterdir())) if newest.is_dir() else newest
        content = path.read_bytes()
        flipped = bytearray(content or b"x")
        flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
        cut = content[: random.randrange(len(content) + 1)]
        path.write_bytes(random.choice((cut, flipped, flipped, b"", bytes(len(content)))))
        if random.random() < 0.3:
            names = (b"x" * 300, b"", b"\x00\x00", b"checkpoint_9999999.pth", newest.name.encode()[:-2])
            (run.folder / "last_checkpoint").write_bytes(random.choice(names))
        return code

    return attack


@pytest.fixture
def campaign(tmp_path, report):
    made = []

    def begin(variant, random, **options):
        made.append(Campaign(variant, tmp_path / variant.replace(" ", "_"), random, **options))
        return made[-1]

    start = time.monotonic()
    yield begin
    for one in made:
        one.report(report)
    report(f"{time.monotonic() - start:.0f} s")


@pytest.mark.parametrize(("variant", "full"), [("whole", 80), ("early stop", 80), ("sharded", 40)])
def test_kills_at_random_moments_and_in_each_write_change_nothing(variant, full, campaign):
    random = random_of(f"kills {variant}", 0)
    attacked = campaign(variant, random)
    for number in range(share_of(full, least=len(WRITES))):
        if number % 2:
            kind = list(WRITES)[number // 2 % len(WRITES)]
            aim = aimed(Kill, kind, random, MOMENTS)
            attacked.attack(f"kill {aim.moment} {kind}", with_failure(aim), (-signal.SIGKILL,))
        else:
            attacked.attack("kill", kill_after(random.uniform(0, attacked.seconds)), (-signal.SIGKILL,))
    attacked.finish()
    assert not attacked.failures


def test_signals_end_a_run_with_a_checkpoint(campaign):
    random = random_of("signals", 0)
    attacked = campaign("workers", random)
    for _ in range(share_of(20, least=4)):
        number = random.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
        attack = signal_after(random.uniform(0, attacked.seconds), number, random.random() < 0.5)
        code = 130 if number == signal.SIGINT else 75
        attacked.attack(number.name, attack, (code, -number))
    attacked.finish()
    assert not attacked.failures


@pytest.mark.parametrize(("variant", "full"), [("whole", 14), ("sharded", 6)])
def test_a_damaged_newest_checkpoint_is_passed_over(variant, full, campaign):
    random = random_of(f"damage {variant}", 0)
    attacked = campaign(variant, random)
    for _ in range(share_of(full, least=3)):
        attack = damage_newest(random, attacked.seconds * random.uniform(0.5, 1))
        attacked.attack("damaged checkpoint", attack, (-signal.SIGKILL,))
    attacked.finish()
    assert not attacked.failures


def test_a_full_disk_costs_nothing_but_time(campaign):
    random = random_of("disks", 0)
    attacked = campaign("whole", random, optional=r"predictions/|curves\.png")
    for number in range(share_of(10, least=4)):
        kind = random.choice([kind for kind in WRITES if kind != "pictures"])
        full = aimed(FullDisk, kind, random, ("open", "middle", "before"))
        failure = NoRoom(random.randrange(3000, 60000)) if number % 3 == 2 else full
        attacked.attack(f"full disk at {'any file' if number % 3 == 2 else kind}", with_failure(failure), (2,))
    attacked.finish()
    assert not attacked.failures


def test_sigterm_while_workers_start_ends_a_run_with_a_checkpoint(campaign):
    random = random_of("workers", 0)
    attacked = campaign("workers", random)
    for _ in range(share_of(60, least=5)):
        failure = SignalAtFork(
            random.randint(1, 8), random.choice((0, random.uniform(0, 0.01), random.uniform(0, 0.1)))
        )
        attacked.attack("SIGTERM as workers start", with_failure(failure), (75,))
    attacked.finish()
    assert not attacked.failures
