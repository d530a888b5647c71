"""Runs many cases in forked children, which may die, hang or eat memory; failures are grouped by their cause."""

import dataclasses
import faulthandler
import json
import os
import re
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from counts import random_of, share_of

from detkit.registry import ConfigError, DataError

ALLOWED = (ConfigError, DataError)
"""What a case may raise. A plain ValueError is not among them: the tools show it as a stack trace."""
SECONDS, MEMORY, PER_CHILD = 10, 2 << 30, 500
PROJECT = str(Path(__file__).resolve().parents[2] / "detkit") + "/"


@dataclasses.dataclass(frozen=True)
class Surface:
    """One kind of input.

    Args:
        name: for reports, and part of each case's random seed.
        full: how many cases the whole soak has.
        make: writes a case's input below the folder, and gives it: a path, or texts.
        check: reads the input as a user's program does; AssertionError where what it reads is wrong.
    """

    name: str
    full: int
    make: Callable[[Random, Path], Any]
    check: Callable[[Any], None]


@dataclasses.dataclass
class Group:
    """Failures of one cause."""

    count: int
    number: int
    size: int
    message: str


def hunt(surface: Surface, folder: Path, say: Callable[[str], None]) -> dict[str, Group]:
    """Runs the surface's share of cases (or the one that SOAK_CASE names, in this process); gives the failures."""
    if "SOAK_CASE" in os.environ:
        made = surface.make(random_of(surface.name, int(os.environ["SOAK_CASE"])), folder)
        say(f"{surface.name}: {shown(made)}")
        surface.check(made)
        return {}
    total, accepted, groups = share_of(surface.full, least=20), 0, {}
    todo = list(range(total))
    while todo:
        for number, cause, message, size in _child(surface, todo[:PER_CHILD], folder):
            todo.remove(number)
            accepted += cause == "accepted"
            if cause in ("accepted", "refused"):
                continue
            group = groups.setdefault(cause, Group(0, number, size, message))
            group.count += 1
            if size < group.size:
                group.number, group.size, group.message = number, size, message
    say(f"{surface.name}: {total} cases, {accepted} accepted, {sum(g.count for g in groups.values())} failures")
    for cause, group in sorted(groups.items(), key=lambda item: -item[1].count):
        say(f"  {group.count} x {cause}\n      SOAK_CASE={group.number} ({group.size} bytes): {group.message}")
        if keep := os.environ.get("SOAK_KEEP"):
            place = Path(keep) / f"{surface.name} {group.number}".replace(" ", "_")
            place.mkdir(parents=True, exist_ok=True)
            surface.make(random_of(surface.name, group.number), place)
    return groups


def shown(made: Any) -> str:
    """A case's input in a line."""
    return str(made) if isinstance(made, Path) else repr(made)[:300]


def _child(surface: Surface, numbers: list[int], folder: Path) -> Iterator[tuple[int, str, str, int]]:
    """Outcomes of the cases that one child comes to: case, cause, message, size of the input."""
    reader, writer = os.pipe()
    trace = folder / "trace.txt"
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            _work(surface, numbers, folder, writer, trace)
        finally:
            os._exit(0)
    os.close(writer)
    left, text = list(numbers), b""
    while True:
        ready = select.select([reader], [], [], SECONDS + 5)[0]
        block = os.read(reader, 1 << 16) if ready else b""
        *lines, text = (text + block).split(b"\n")
        for line in lines:
            left.remove(json.loads(line)[0])
            yield tuple(json.loads(line))
        if not block:
            break
    os.close(reader)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if left and (not ready or os.WIFSIGNALED(status)):
        how = "hang" if not ready else f"killed by signal {os.WTERMSIG(status)}"
        made = surface.make(random_of(surface.name, left[0]), folder)
        yield left[0], f"{how} {_traced(trace)}", shown(made), _size(made)


def _work(surface: Surface, numbers: list[int], folder: Path, writer: int, trace: Path) -> None:
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + 2 * MEMORY, virtual + 2 * MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open(trace, "w") as file:
        faulthandler.enable(file)
        for number in numbers:
            file.truncate(0)
            made = surface.make(random_of(surface.name, number), folder)
            faulthandler.dump_traceback_later(SECONDS, file=file)
            cause, message = outcome(surface.check, made)
            faulthandler.cancel_dump_traceback_later()
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            if grown > MEMORY:
                cause = f"{grown >> 20} MiB of memory; {cause}"
            os.write(writer, json.dumps([number, cause, message, _size(made)]).encode() + b"\n")
            if grown > MEMORY // 2:
                return  # its peak would hide that of the next


def outcome(check: Callable[[Any], None], made: Any) -> tuple[str, str]:
    """ "accepted", "refused", or the cause of a failure; and the message."""
    try:
        check(made)
        return "accepted", ""
    except BaseException as error:
        message = f"{type(error).__name__}: {str(error)[:200]}"
        if memory := next((e for e in _chain(error) if _is_memory(e)), None):
            return f"memory runs out {_place(memory)}", message
        if isinstance(error, ALLOWED):
            return "refused", message
        return f"{type(error).__name__} {_place(error)}", message


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, ALLOWED) or type(error).__module__.split(".")[0] == "av":
        return False  # FFmpeg refuses by itself what needs more than 2 GiB at once, and takes none of it
    return isinstance(error, MemoryError) or bool(re.search("allocate|out of memory|not enough memory", str(error)))


def _place(error: BaseException) -> str:
    """The innermost function of the project, and what it called where that is not the project's."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(PROJECT)]
    last = frames[-1]
    words = f"in {ours[-1].filename.removeprefix(PROJECT)}:{ours[-1].name}" if ours else "in no file of the project"
    return words if ours and last is ours[-1] else f"{words}, by {'/'.join(last.filename.split('/')[-2:])}:{last.name}"


def _traced(trace: Path) -> str:
    """The innermost function of the project in what faulthandler wrote."""
    text = trace.read_text(errors="replace")
    frames = re.findall(r'File "([^"]+)", line \d+ in (\S+)', text[text.find("most recent call first") :])
    ours = next(((file, name) for file, name in frames if file.startswith(PROJECT)), None)
    return "at an unknown place" if ours is None else f"in {ours[0].removeprefix(PROJECT)}:{ours[1]}"


def _size(made: Any) -> int:
    if not isinstance(made, Path):
        return len(repr(made))
    return sum(p.stat().st_size for p in ([made] if made.is_file() else made.rglob("*")) if p.is_file())


assert sys.platform == "linux", "a soak reads /proc"
