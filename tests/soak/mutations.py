"""Random changes of inputs: trees of plain data, texts, bytes, pickles, zip files of pickles, HDF5 files."""

import copy
import io
import itertools
import json
import math
import pickletools
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np

HUGE = "a number of 5000 digits"
VALUES = [None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e-8, 1e300, -1e300, math.nan, math.inf, -math.inf, HUGE]
VALUES += [2**31, -(2**31) - 1, 2**53 + 1, 2**63, 2**64, "", "0", "1", "true", "nan", "x" * 300, "\ud800", "ä", "日本"]
VALUES += ["a\0b", "../x", "/etc/passwd", "~", "a\\b", "%20", [], {}, [[]], [None], [1], [1, 2], {"a": 1}]
VALUES += [{"size": [2, 2]}]
TOKENS = ["null", "~", "", "[]", "{}", "-1", "0", "1", "1e400", ".nan", ".inf", "012", "1:30", "0x10", "yes", "'", '"']
TOKENS += ["[1,", "{a: b", "{..}", "!!bool zzz", "!!int x", "!!python/object:os.system", "&a [*a]", "*x", "- a", "? a"]
TOKENS += [
    "${solver.max_iter}",
    "${oc.env:HOME}",
    "${x",
    "${oc.env:NOT_THERE}",
    "x" * 300,
    "\t",
    "ä",
    "日本",
    "\x07",
    "#x",
]
TOKENS += [
    "[[-8]]",
    "[[]]",
    "[1, a]",
    "{name: x}",
    "{name: GN}",
    "{name: null}",
    "{1: 2}",
    "2001-01-01",
    *"!%@",
    "a: b: c",
]
WORDS = [*(b'" { } [ ] ,'.split()), b"\xff", b"\xe9", b"\x00", b"\xef\xbb\xbf", b"1e999", b"-", b"9" * 400, b"\\ud800"]
PICKLED = [*(b"2 \x85 \x86 \x87 ] } ) ( t 0 1 R b s u a e".split(b" ")), b"K\xff", b"J\xff\xff\xff\x7f"]
PICKLED += [b"\x8a\x09" + b"\xff" * 8 + b"\x7f", b"N", b"\x88", b"h\x00", b"q\x00", b".", b"X\xff\xff\xff\x7f"]
PICKLED += [b"X\x02\x00\x00\x00ab", b"(" + b"2\x86" * 40, b"c__main__\nx\n", b"cnumpy\ndtype\n", b"\x81"]


def tree(value: Any, random: Random) -> Any:
    """One to three changes of nested lists and dicts."""
    value = copy.deepcopy(value)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = list(_places(value))
        if places:
            _change(*random.choice(places), places, random)
    return value


def _places(value: Any):
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _change(parent: Any, key: Any, places: list, random: Random) -> None:
    old, kind = parent[key], random.randrange(9)
    if isinstance(old, int | float) and random.random() < 0.5:
        parent[key] = number(old, random)
    elif kind <= 2:
        parent[key] = random.choice(VALUES)
    elif kind == 3:
        del parent[key]
    elif kind == 4:
        other, where = random.choice(places)
        parent[key] = copy.deepcopy(other[where]) if _holds(other, where) else None
    elif kind == 5 and isinstance(parent, list):
        parent.insert(random.randint(0, len(parent)), copy.deepcopy(old))
    elif kind == 5:
        parent[f"{key}{random.choice(('', 's', ' ', '_', '.x'))}"] = parent.pop(key)
    elif kind <= 7:
        parent[key] = random.choice(([old], {"x": old}, str(old)))
    else:
        parent[key] = random.choice(VALUES)


def number(old: float, random: Random) -> Any:
    """Another number, mostly near to the old one."""
    small = [-old, old + 0.5, old - 1, old + 1, old * 1e-9, old / 2, 0, -1, 1, 2, 0.5, -0.5, 50, math.nan, math.inf]
    return random.choice([*small, str(old)]) if random.random() < 0.9 else old * 10**6


def _holds(parent: Any, key: Any) -> bool:
    return key in parent if isinstance(parent, dict) else key < len(parent)


def to_json(value: Any) -> bytes:
    """A tree of ``tree`` as JSON; keys may be of any type."""
    text = json.dumps(value, skipkeys=True).replace(json.dumps(HUGE), "9" * 5000)
    return text.encode()


def data(content: bytes, random: Random, near: tuple[float, ...] = (0.0, 1.0)) -> bytes:
    """One to four changes of bytes, around any place, or a share ``near`` of the content."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4))):
        size = len(changed)
        at = random.randrange(size) if size else 0
        if size and random.random() < 0.3:
            at = min(max(int(random.choice(near) * size + random.gauss(0, 100)), 0), size - 1)
        length, kind = random.choice((1, 1, 2, 4, 16, 200)), random.randrange(10)
        if kind <= 2 and size:
            changed[at] ^= 1 << random.randrange(8)
        elif kind == 3:
            changed[at : at + length] = random.randbytes(length)
        elif kind == 4:
            del changed[at : at + length]
        elif kind == 5:
            changed[at:at] = changed[at : at + length]
        elif kind == 6:
            changed[at:at] = random.choice(WORDS)
        elif kind == 7:
            changed[at : at + length] = bytes([random.choice((0, 255))]) * length
        elif kind == 8:
            other = random.randrange(size) if size else 0
            changed[at : at + length] = changed[other : other + length]
        elif random.random() < 0.4:
            del changed[at:]
    return bytes(changed)


def text(content: bytes, random: Random) -> bytes:
    """A change of encoding, or of bytes."""
    if random.random() < 0.1:
        encoding = random.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7", "cp037"))
        return content.decode("utf-8", "replace").encode(encoding, "replace")
    return data(content, random)


def pickled(content: bytes, random: Random) -> bytes:
    """Operations of a pickle are deleted, doubled, moved or invented; else bytes change."""
    if random.random() < 0.4:
        return data(content, random)
    ends = [position for _, _, position in pickletools.genops(content)] + [len(content)]
    ops = [content[a:b] for a, b in itertools.pairwise(ends)]
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(ops))
        kind = random.randrange(4)
        if kind == 0:
            del ops[at : at + random.choice((1, 1, 2, 5))]
        elif kind == 1:
            ops.insert(at, random.choice(ops) if random.random() < 0.4 else random.choice(PICKLED))
        elif kind == 2:
            ops[at] = random.choice(PICKLED)
        else:
            other = random.randrange(len(ops))
            ops[at], ops[other] = ops[other], ops[at]
        if not ops:
            break
    return b"".join(ops)


def zipped(content: bytes, random: Random) -> bytes:
    """A file of torch.save with another pickle or other records in it, and checksums that are right."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
        names = old.namelist()
        damaged = random.choice([*names, *[n for n in names if n.endswith("data.pkl")] * len(names)])
        for name in names:
            record = old.read(name)
            if name == damaged and not name.endswith("data.pkl") and random.random() < 0.2:
                continue
            if name == damaged:
                record = (pickled if name.endswith("data.pkl") else data)(record, random)
            new.writestr(name, record)
    return written.getvalue()


def hdf5(path: Path, random: Random) -> None:
    """A data set of the file becomes another; else bytes change."""
    if random.random() < 0.5:
        path.write_bytes(data(path.read_bytes(), random))
        return
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
        name = random.choice(names)
        old = file[name][()]
        del file[name]
        new = [h5py.Empty("f4"), "text", 1.0, old.astype("c8"), old.astype("S3"), old[:0], old[..., None], old.ravel()]
        new += [
            np.full_like(old, np.nan),
            old.astype("i1"),
            np.array(["a", "b"], dtype=h5py.string_dtype()),
            np.bool_(1),
        ]
        kind = random.randrange(len(new) + 3)
        if kind < len(new):
            file[name] = new[kind]
        elif kind == len(new):
            file[name] = h5py.SoftLink("/nowhere")
        elif kind == len(new) + 1:
            file[name] = h5py.ExternalLink("/etc/passwd", "/x")
        else:
            file.create_dataset(name, shape=(2**20, 2**16), dtype="f4", chunks=(1, 64), fillvalue=0)
