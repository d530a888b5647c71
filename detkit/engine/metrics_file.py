"""The file of metrics, ``metrics.jsonl``: a JSON object a line."""

import json
import math
from pathlib import Path

from detkit.engine.metrics import Line
from detkit.utils import atomic_write


def append_line(path: Path, line: Line) -> None:
    """Appends ``line`` as one line of JSON. Numbers that are not finite become null.

    Raises OSError where it cannot be written whole; the file is then as it was.
    """
    finite = {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in line.items()}
    content = (json.dumps(finite, allow_nan=False) + "\n").encode()
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            while content:
                content = content[file.write(content) or 0 :]
        except OSError:
            file.truncate(size)
            raise


def cut_lines(path: Path, finished: int) -> int:
    """Drops the lines of steps that will be done (again): those numbered ``finished`` or higher, and torn ones.

    Returns:
        How many were dropped; 0 where there is no file.
    """
    if not path.is_file():
        return 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if _iteration(line) < finished]
    if len(kept) < len(lines):
        with atomic_write(path, "w") as file:
            file.writelines(f"{line}\n" for line in kept)
    return len(lines) - len(kept)


def _iteration(line: str) -> float:
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return math.inf
