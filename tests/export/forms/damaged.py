"""Loads damaged copies of a program; a process of its own, which must not crash.

python damaged.py PROGRAM SUFFIX NUMBER: ``SUFFIX`` says which of the program's files is damaged.
"""

import random
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from detkit.export import Program
from detkit.registry import DataError


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The bytes with one of the damages that disks, networks and editors do."""
    kind, at = (
        rng.choice(("byte", "byte", "bit", "cut", "zeros", "lost", "twice", "empty")),
        rng.randrange(len(content)),
    )
    length = min(rng.choice((1, 16, 512, 4096)), len(content) - at)
    block = content[at : at + length]
    replaced = {
        "byte": bytes([rng.randrange(256)]),
        "bit": bytes([content[at] ^ 1 << rng.randrange(8)]),
        "zeros": bytes(length),
        "lost": b"",
        "twice": block * 2,
    }
    if kind in ("cut", "empty"):
        return content[: at if kind == "cut" else rng.randrange(3)]
    return content[:at] + replaced[kind] + content[at + (1 if kind in ("byte", "bit") else length) :]


def main(path: Path, suffix: str, number: int) -> None:
    """Prints what became of the copies."""
    given = torch.rand(1, 3, 96, 96), torch.tensor([[0.0, 0.0, 96.0, 96.0]])
    expected = Program(path)(*given)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        for one in path.parent.glob(f"{path.stem}.*"):
            shutil.copy(one, folder)
        hurt, content, refused = copy.with_suffix(suffix), path.with_suffix(suffix).read_bytes(), 0
        for seed in range(number):
            changed = damaged(content, random.Random(seed))
            hurt.write_bytes(changed)
            try:
                found = Program(copy)(*given)
            except DataError as error:
                refused += copy.stem in str(error)
                continue
            assert all(torch.equal(found[name], value) for name, value in expected.items()), f"{seed}: other results"
    print(f"{number} copies, {refused} refused")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
