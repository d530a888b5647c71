"""A run's folder: who writes to it now, and what in it is a run's and what the user's."""

import contextlib
import datetime
import json
import logging
import os
import re
import socket
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

from detkit.utils.paths import atomic_write

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOCK, MARK = ".lock", ".run.json"
_OUTPUTS = re.compile(
    r"(run_)?(config\.yaml|predictions|report\.html)|metrics\.jsonl|(evaluation|coco_results|profile|doctor_findings)\.json"
    r"|curves\.png|report_.+\.html|panoptic_results(\.json)?"
    r"|(checkpoint_\d+|model_best|model_final|model_final_.+)\.(pth|sharded|parts)|last_checkpoint|launched_by"
    r"|tensorboard|wandb|imported_code|failure_step_\d+"
)
"""Names of what a training leaves in its folder, apart from the log, which goes on."""
EVALUATION = ("evaluation.json", "coco_results.json", "panoptic_results.json")
"""Files of an evaluation's metrics and results."""
_ASIDE = re.compile(r"earlier_run_\d+|log(_rank\d+)?\.txt")
_BESIDE = ("config.yaml", "predictions", "report.html", "tensorboard", "wandb")
"""What a user may have there: the run's own has another name, or its files have."""


@contextlib.contextmanager
def holding(folder: Path, lock: str = LOCK) -> Iterator[str]:
    """Holds the folder, or what the lock of this name stands for, while the block runs. Gives "", or who holds it.

    It is a lock of the system (POSIX, ``lockf``) on a file that names the holder. The lock ends with its process,
    however that ends, here or on another machine that shares the file system, and is not inherited by child
    processes; so what a dead process has left there keeps nobody out.
    """
    file, holder = _lock(folder / lock)
    try:
        yield holder
    finally:
        if file is not None:
            (folder / lock).unlink(missing_ok=True)
            file.close()


def _lock(path: Path) -> tuple[IO[bytes] | None, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    while fcntl is not None:
        file = open(path, "a+b", buffering=0)  # noqa: SIM115  # open as long as it is held
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            with file:
                return None, file.read().decode(errors="replace").strip() or "another process"
        except OSError as error:
            logger.warning("%s: cannot be locked (%s): nothing keeps a second run out", path, error.strerror)
        with contextlib.suppress(FileNotFoundError):  # its holder has just removed it
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                words = f"process {os.getpid()} on {socket.gethostname()} since {datetime.datetime.now():%F %T}\n"
                with contextlib.suppress(OSError):  # a full disk; the lock holds
                    file.truncate(0)
                    file.write(words.encode())
                return file, ""
        file.close()
    return None, ""


def run_file(folder: Path, name: str) -> Path:
    """Where the run of this folder has its ``name``: beside what the user had there under that name."""
    return folder / (f"run_{name}" if name in (_users(folder) or ()) else name)


def left_by_run(folder: Path, names: Collection[str]) -> set[str]:
    """Which of ``names``, all in this folder, a run has left there, so that its pictures are not taken for data."""
    if MARK not in names:
        return set()
    users = _users(folder) or ()
    return {name for name in names if _OUTPUTS.fullmatch(name) or _ASIDE.fullmatch(name)}.difference(users)


def mark_resumed(folder: Path) -> None:
    """For a run that goes on; one of an older detkit has no mark."""
    if _users(folder) is None:
        _mark(folder, [])


def begin_evaluation(folder: Path) -> None:
    """Marks a folder in which weights are evaluated: what the user has there stays, but for an evaluation of before."""
    if _users(folder) is None:
        _mark(folder, [name for name in _not_of_a_run(folder) if name not in EVALUATION])


def begin_run(folder: Path) -> str:
    """Sets aside what an earlier run has left in the folder, and marks it as a run's from now on.

    A run is known by the mark that it leaves, which names what was there before it, and one of an older detkit by its
    metrics or its last checkpoint. All else is the user's, stays where it is, and is not written over.

    Returns:
        Names of the user's files that the run would write over, in words; "" where it has begun.
    """
    users, found = _users(folder), _outputs(folder)
    users = [name for name in (_not_of_a_run(folder) if users is None else users) if name in found]
    in_the_way = [name for name in users if name not in _BESIDE]
    if in_the_way:
        return ", ".join(in_the_way)
    _set_aside(folder, [name for name in found if name not in users])
    for name in users:
        logger.warning("%s: is not of a run and stays as it is", folder / name)
    _mark(folder, users)
    return ""


def _outputs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if _OUTPUTS.fullmatch(path.name))


def _not_of_a_run(folder: Path) -> list[str]:
    """What has the name of a run's in a folder without a mark."""
    found = _outputs(folder)
    return [] if "metrics.jsonl" in found or "last_checkpoint" in found else found


def _set_aside(folder: Path, names: list[str]) -> None:
    if not names:
        return
    number = 1
    while (target := folder / f"earlier_run_{number}").exists():
        number += 1
    target.mkdir()
    for name in names:
        (folder / name).rename(target / name)
    logger.warning("%s held a run already; it is now in %s (--resume would have gone on with it)", folder, target)


def _users(folder: Path) -> list[str] | None:
    """What was in the folder before its run; None where no run is known to have begun there."""
    try:
        content = json.loads((folder / MARK).read_text(encoding="utf-8"))
        return [str(name) for name in content["not_of_the_run"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s: cannot be read (%s)", folder / MARK, error)
        return None


def _mark(folder: Path, users: list[str]) -> None:
    with atomic_write(folder / MARK, "w") as file:
        json.dump({"not_of_the_run": users}, file)
