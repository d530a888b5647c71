"""Predictions of many images: a folder of JSON lines that processes write as they come, and that goes on after a kill.

``listing.jsonl`` has a line an image, written before anything is predicted: its number is its place. Each process
appends to two files of its own: the detections of an image to ``predictions-<process>.jsonl``, and then a line to
``images-<process>.jsonl``, which says that the image is done and how long the first file is by now. So what a killed
process has left is known: a line that is cut off, and detections without a line, are taken away, and the image is
predicted again. ``unreadable-<process>.jsonl`` has the images that could not be read, which the next start tries again.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detkit.data.datasets.coco_file import RESULT_LINES
from detkit.data.flat import Ragged
from detkit.registry import DataError
from detkit.structures import KeypointSpec
from detkit.utils.paths import atomic_write, naming_file, remove_leftovers

LISTING, SETTINGS = "listing.jsonl", "settings.json"
DETECTIONS, IMAGES, UNREADABLE = RESULT_LINES, "images-*.jsonl", "unreadable-*.jsonl"
PANOPTIC = "panoptic"
"""The folder of panoptic maps, the JSON beside it, and what an image's line says of its map."""
_AT_ONCE = 10_000


class Listed(NamedTuple):
    """An image of the listing: the id that results have, and its file."""

    id: int | str
    file_name: str


class Listing(Sequence[Listed]):
    """The images of a folder of results, read from its file as they are asked for: none is held in memory."""

    def __init__(self, folder: Path):
        self.path = path = folder / LISTING
        size = path.stat().st_size if path.exists() else 0
        text = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
        ends = [np.flatnonzero(text[i : i + 2**24] == ord("\n")) + i + 1 for i in range(0, size, 2**24)]
        self._lines = Ragged(text, np.concatenate([[0], *ends]).astype(np.int64))

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, number: Any) -> Any:
        try:
            row = json.loads(self._lines[number].tobytes())
            return Listed(row["id"], row["file_name"])
        except (ValueError, TypeError, KeyError):
            raise _damaged(self.path, f"line {number + 1}") from None


def begin(folder: Path, settings: Mapping[str, Any], images: Iterable[tuple[int | str | None, str]]) -> None:
    """Makes the folder ready for a start, the first or a later one: repairs it, and lists the images that are new.

    Args:
        folder: where results are; it may be missing or empty.
        settings: what results depend on, as JSON has it.
        images: ids and file names; None for an id gives the image's number in the listing, from 1.

    Raises:
        DataError: the folder was begun with other settings, or holds something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    _check_settings(folder, json.loads(json.dumps(settings)))
    for path in folder.glob(UNREADABLE):
        path.unlink()
    for process in {path.stem.rpartition("-")[2] for kind in (DETECTIONS, IMAGES) for path in folder.glob(kind)}:
        _repair(*(folder / kind.replace("*", process) for kind in (IMAGES, DETECTIONS)))
    _cut(folder / LISTING, _end_of_last_line(folder / LISTING))
    known, count = {_key(image.file_name) for image in Listing(folder)}, len(Listing(folder))
    with open(folder / LISTING, "ab") as file, naming_file(folder / LISTING):
        for id_, name in images:
            if (key := _key(name)) not in known:
                known.add(key)
                count += 1
                file.write(_line({"id": count if id_ is None else id_, "file_name": name}))


def done(folder: Path) -> np.ndarray:
    """``(N,)`` bool: which images of the listing have their results. The folder must not be written to meanwhile."""
    found = np.zeros(len(Listing(folder)), bool)
    for path in folder.glob(IMAGES):
        with open(path, "rb") as file:
            for line in file:
                found[json.loads(line)["number"]] = True
    return found


class ShardWriter:
    """Appends results of one process; a context manager.

    Args:
        folder: made ready by ``begin``.
        process: the number of this process; no other of the same start has it.
    """

    def __init__(self, folder: Path, process: int):
        self.paths = [folder / name.replace("*", f"{process:05d}") for name in (DETECTIONS, IMAGES, UNREADABLE)]
        self._files = [open(path, "ab", buffering=0) for path in self.paths]  # noqa: SIM115  # closed by the context manager

    def add(
        self,
        number: int,
        image: Listed,
        size: tuple[int, int],
        rows: Sequence[Mapping[str, Any]],
        num_cut: int = 0,
        **more: Any,
    ) -> None:
        """The results of an image.

        Args:
            number: its place in the listing.
            image: what the listing says of it.
            size: ``(height, width)`` of its file.
            rows: of ``coco_results``.
            num_cut: how many detections more a limit on their number has cut off.
            **more: what else its line says, as JSON has it.
        """
        start = self._files[0].tell()
        self._write(0, b"".join(_line({**row, "file_name": image.file_name}) for row in rows))
        words = {**image._asdict(), "height": size[0], "width": size[1], "detections": len(rows), "cut_off": num_cut}
        self._write(1, _line({**words, **more, "number": number, "start": start, "end": self._files[0].tell()}))

    def unreadable(self, image: Listed, reason: str) -> None:
        """An image that cannot be read."""
        self._write(2, _line({**image._asdict(), "error": reason}))

    def _write(self, which: int, text: bytes) -> None:
        left = memoryview(text)
        with naming_file(self.paths[which]):
            while left:  # the last bytes before a disk is full are written without an error
                left = left[self._files[which].write(left) :]

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files:
            file.close()


def read_lines(folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
    """The rows of all files of a kind (``DETECTIONS``, ``IMAGES`` or ``UNREADABLE``), one at a time."""
    for path in sorted(folder.glob(pattern)):
        with open(path, "rb") as file:
            yield from map(json.loads, file)


def write_images(folder: Path, categories: Mapping[int, str], keypoints: KeypointSpec | None = None) -> Path:
    """Writes ``images.json``, a COCO file of the images that are done and the categories, and returns its path."""
    points = {} if keypoints is None else keypoints.coco()
    keys = ("id", "file_name", "height", "width")
    rows = ({key: row[key] for key in keys} for row in read_lines(folder, IMAGES))
    with atomic_write(folder / "images.json", "w") as file:
        file.write('{"images": [')
        write_list(file, rows)
        named = [{"id": id_, "name": name, **points} for id_, name in categories.items()]
        file.write(f'], "annotations": [], "categories": {json.dumps(named)}}}')
    return folder / "images.json"


def write_json(folder: Path) -> Path:
    """Writes all detections as one COCO results file, ``predictions.json``, and returns its path."""
    with atomic_write(folder / "predictions.json", "w") as file:
        file.write("[")
        write_list(file, read_lines(folder, DETECTIONS))
        file.write("]")
    return folder / "predictions.json"


def write_parquet(folder: Path) -> Path:
    """Writes all detections as ``predictions.parquet``, a row each, and returns its path.

    Raises:
        ImportError: pyarrow is not installed; the message says how to install it.
    """
    pa, parquet = import_pyarrow()
    numbers, mask = pa.list_(pa.float64()), pa.struct({"size": pa.list_(pa.int32()), "counts": pa.string()})
    first = next(read_lines(folder, IMAGES), {"id": 0})
    fields = {"image_id": pa.string() if isinstance(first["id"], str) else pa.int64(), "file_name": pa.string()}
    fields |= {"category_id": pa.int64(), "score": pa.float64(), "bbox": numbers}
    schema, rows = pa.schema({**fields, "segmentation": mask, "keypoints": numbers}), read_lines(folder, DETECTIONS)
    with atomic_write(folder / "predictions.parquet") as file, parquet.ParquetWriter(file, schema) as writer:
        while chunk := list(itertools.islice(rows, _AT_ONCE)):
            for row in chunk:  # parquet's texts are UTF-8, which names of files need not be
                row["file_name"] = row["file_name"].encode(errors="backslashreplace").decode()
            writer.write_table(pa.Table.from_pylist(chunk, schema))
    return folder / "predictions.parquet"


def import_pyarrow() -> tuple[Any, Any]:
    """pyarrow and its module for parquet. Raises ImportError, which says how to install it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError("parquet needs pyarrow: pip install 'detkit[parquet]' (or: pip install pyarrow)") from None
    return pyarrow, pyarrow.parquet


def write_list(file: Any, rows: Iterable[Any]) -> None:
    """What stands between the brackets of a JSON list, a row a line."""
    for number, row in enumerate(rows):
        file.write(f"{',' if number else ''}\n{json.dumps(row)}")


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _key(name: str) -> bytes:
    return hashlib.blake2b(os.fsencode(name), digest_size=10).digest()  # takes less memory than a path


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    path = folder / SETTINGS
    if not path.exists():
        others = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        if others:
            raise DataError(f"{folder}: holds {others[0]}, and no results to go on with; give a new or an empty folder")
        with atomic_write(path, "w") as file:
            json.dump(settings, file, indent=1)
        return
    try:
        before, now = _flat(json.loads(path.read_text(encoding="utf-8"))), _flat(settings)
    except ValueError:
        raise _damaged(path, "it") from None
    changed = [key for key in [*before, *(now.keys() - before.keys())] if before.get(key) != now.get(key)]
    if changed:
        words = "; ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise DataError(
            f"{folder}: holds results of other settings ({words}{more}), and mixing them would be wrong."
            " Take another folder, or the settings of before"
        )


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path}: {what} is damaged or has been edited, so results cannot go on here; give a new folder")


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by their paths."""
    if not isinstance(settings, Mapping) or not settings:
        return {prefix: settings}
    return {k: v for name, part in settings.items() for k, v in _flat(part, f"{prefix}.{name}".strip(".")).items()}


def _repair(images: Path, detections: Path) -> None:
    """Takes away what a killed process, or a machine that lost its power, has left half written in a pair of files.

    Also what follows an edit by hand, as from there on detections are no more where the images' lines say they are.
    """
    detections.touch()
    size = detections.stat().st_size
    good = end = 0
    with open(images, "ab+") as file, open(detections, "rb") as rows:
        file.seek(0)
        for line in file:
            try:
                row = json.loads(line) if line.endswith(b"\n") else {}
                start, row_end = row.get("start", end), row["end"]
                rows.seek(max(0, row_end - 1))
                if start != end or not start <= row_end <= size or (row_end > start and rows.read(1) != b"\n"):
                    break
            except (ValueError, TypeError, KeyError, AttributeError):
                break
            good, end = good + len(line), row_end
    _cut(images, good)
    _cut(detections, end)


def _end_of_last_line(path: Path) -> int:
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2**16))
        return size - len(file.read().rpartition(b"\n")[2])


def _cut(path: Path, size: int) -> None:
    if path.exists() and path.stat().st_size > size:
        os.truncate(path, size)
