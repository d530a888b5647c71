"""COCO files as text: encodings, numbers beyond reach, and words for files that are something else."""

import dataclasses
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from detkit.data.datasets.row_reader import CHUNK
from detkit.data.datasets.rows import ImageRow, Row
from detkit.registry import DataError, nearest

logger = logging.getLogger(__name__)
LISTS = ("images", "annotations", "categories")
TEST_SET = {"images", "categories"}
RESULT_LINES = "predictions-*.jsonl"
"""The files of a folder of results: each has COCO results, a row a line."""
NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises, also for what Python's json takes, such as NaN."""
READER = "convert it to COCO, or write a reader of its rows (docs/extending.md, 'A dataset')"
AUTO = "{name: AutoDataset, path: FOLDER} reads a folder of such files with their images (docs/data_formats.md)"
OTHER_JSON: tuple[tuple[str, set[str], str], ...] = (
    ("a VIA project", {"regions", "filename"}, AUTO),
    ("a file of LabelMe", {"shapes", "imagePath"}, AUTO),
    ("an export of Label Studio", {"data", "annotations"}, AUTO),
    ("a list of detections (COCO results)", {"image_id", "score"}, "CocoResults reads it, with the images' file"),
    ("a list of Detectron2's dicts", {"file_name", "annotations"}, READER),
    ("a file of CreateML", {"image", "annotations"}, READER),
    ("a file of BDD100K or Scalabel", {"name", "labels"}, READER),
    ("a VoTT project", {"asset", "regions"}, "export it from VoTT again, as Pascal VOC or CSV, and " + READER),
    ("a file of Supervisely", {"objects", "size"}, AUTO),
    ("a file of Cityscapes", {"objects", "imgHeight"}, AUTO),
    ("GeoJSON", {"features", "type"}, READER),
    ("a VIA 3 project", {"file", "metadata"}, READER),
    ("a file of Datumaro (CVAT)", {"items", "categories"}, "export it from CVAT again, as COCO"),
    ("a file of V7 Darwin", {"item", "annotations"}, "export it from V7 again, as COCO"),
    ("an export of Labelbox", {"data_row", "projects"}, READER),
    ("an export of FiftyOne", {"samples"}, "export it from FiftyOne again, as COCODetectionDataset"),
    ("COCO's captions", {"image_id", "caption"}, "take COCO's instances_*.json"),
)
"""What else is written as JSON: the keys of its entries, and what to do."""
OTHER_BYTES: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "compressed (gzip)", "unpack it first (gunzip)"),
    (b"PK\x03\x04", "a zip archive", "unpack it first (unzip)"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch the file (git lfs pull)"),
    (b"<", "XML or HTML", AUTO),
    (b"\x89PNG", "an image", "give the file of the annotations"),
    (b"\xff\xd8\xff", "an image", "give the file of the annotations"),
)
"""How other files begin."""


class _Parts(msgspec.Struct, gc=False):
    images: list[ImageRow]
    annotations: list[msgspec.Raw]
    categories: list[Any]


@dataclasses.dataclass
class JsonRows(Iterable[Any]):
    """The entries of a JSON list, each a text that is decoded when its turn comes: they are never all in memory."""

    texts: list[msgspec.Raw]
    kind: type[Row]
    path: str

    def __iter__(self) -> Iterator[Any]:
        decoder = msgspec.json.Decoder(list[self.kind])  # type: ignore[name-defined]
        for start in range(0, len(self.texts), CHUNK):
            text = b"[" + b",".join(map(bytes, self.texts[start : start + CHUNK])) + b"]"
            try:
                yield from decoder.decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError):  # such as an entry that is no mapping, or 1e999
                yield from _loads(text, self.path)


def read_json(
    path: str, kind: type[Row], *, needs_objects: bool = True
) -> tuple[Iterable[Any], Iterable[Any], list[Any]]:
    """The images, annotations (as rows of that kind) and categories of a file.

    UTF-8, UTF-16 and UTF-32 are read, with or without a byte order mark. A file that has nothing but images and
    categories is a test set without objects. COCO's panoptic form, whose annotations are no objects, is taken where
    these are not needed.

    Raises:
        DataError: the file is not JSON, or has not the three lists. It says what the file seems to be.
    """
    text = _utf8(path)
    try:
        parts = msgspec.json.decode(text, type=_Parts)
        if needs_objects and parts.annotations and b'"segments_info"' in bytes(parts.annotations[0]):
            raise DataError(f"{path}: is COCO's panoptic form, which has no objects; {AUTO}")
        return parts.images, JsonRows(parts.annotations, kind, path), parts.categories
    except NOT_DECODED:
        content = _loads(text, path)
    if isinstance(content, Mapping) and content.get("images") and {*content} - {"info", "licenses"} == TEST_SET:
        logger.warning("%s: has no 'annotations': it is taken as a test set without objects", path)
        content = {**content, "annotations": []}
    if not isinstance(content, Mapping) or not all(isinstance(content.get(name), list) for name in LISTS):
        raise DataError(f"{path}: is not a COCO instances file{_seems(content)}")
    return content["images"], content["annotations"], content["categories"]


def read_results(path: str, kind: type[Row]) -> Iterable[Any]:
    """The detections of a COCO results file, a JSON list or a row a line, or of a folder of results, as that kind.

    Raises:
        DataError: the file is not JSON, or no list. It says what the file seems to be.
    """
    if not Path(path).exists():
        raise DataError(f"{path}: there is no such file")
    files = sorted(map(str, Path(path).glob(RESULT_LINES))) if Path(path).is_dir() else [path]
    if not files:
        raise DataError(f"{path}: the folder holds no {RESULT_LINES}, as detkit predict --results writes them")
    text = b"".join(map(_utf8, files))
    if not text.strip() and files[0].endswith(".jsonl"):
        return []
    if _is_lines(text):
        return JsonRows([msgspec.Raw(line) for line in text.splitlines() if line.strip()], kind, path)
    try:
        return JsonRows(msgspec.json.decode(text, type=list[msgspec.Raw]), kind, path)
    except NOT_DECODED:
        content = _loads(text, path)
    if not isinstance(content, list):
        seems = (
            ": it seems to be a COCO file itself, which CocoInstances reads"
            if isinstance(content, Mapping) and "images" in content
            else ""
        )
        raise DataError(f"{path}: is not a COCO results file, which is a list of detections{seems}")
    return content


def _is_lines(text: bytes) -> bool:
    """Whether a text is a detection a line: its first line is a whole one."""
    if not text[:100].lstrip().startswith(b"{"):
        return False
    try:
        first = msgspec.json.decode(text.lstrip().partition(b"\n")[0])
    except NOT_DECODED:
        return False
    return isinstance(first, Mapping) and "image_id" in first


def _utf8(path: str) -> bytes:
    """The text of a JSON file. Raises DataError where it is none, or of an encoding that is not what it seems."""
    if not Path(path).is_file():
        raise DataError(f"{path}: is no regular file")  # a named pipe would be waited for
    text = Path(path).read_bytes()
    for start, what, fix in OTHER_BYTES:
        if text[:100].lstrip().startswith(start):
            raise DataError(f"{path}: is {what}; {fix}")
    encoding = json.detect_encoding(text)
    if encoding != "utf-8":
        try:
            text = text.decode(encoding).encode()
        except UnicodeError as error:
            raise DataError(f"{path}: is not text in {encoding}, as its first bytes say ({error})") from None
    return text


def _loads(text: bytes, path: str) -> Any:
    """As ``json.loads``, with infinity for whole numbers of more digits than Python takes."""
    try:
        return json.loads(text.decode(), parse_int=lambda digits: int(digits) if len(digits) < 500 else float(digits))
    except UnicodeDecodeError as error:
        place = text[max(0, error.start - 20) : error.start + 1].decode("latin-1")
        fix = "iconv -f WINDOWS-1252 -t UTF-8 OLD.json > NEW.json converts it, with its own encoding behind -f"
        raise DataError(f"{path}: is not UTF-8: {place!r} looks like Latin-1 or another encoding; {fix}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error}); {_json_fix(text, error)}") from None


def _json_fix(text: bytes, error: Exception) -> str:
    if not text.strip():
        return "it is empty: copy it again"
    if not isinstance(error, json.JSONDecodeError):
        return "expected a COCO instances file"
    if error.msg == "Extra data":
        return f"several values, as in a file with one JSON a line; {READER}"
    if not error.doc[error.pos :].strip() or error.msg.startswith("Unterminated string"):
        return "it ends too early: copy or download it again"
    return f"correct it at {error.doc[max(0, error.pos - 15) : error.pos + 15]!r}, or write it by a JSON writer"


def _seems(content: Any) -> str:
    """What JSON without the three lists seems to be, and what to do."""
    entries = [content]
    for _ in range(2):
        inner = ([*e.values()] if isinstance(e, Mapping) else e if isinstance(e, list) else () for e in entries)
        entries += [entry for values in inner for entry in values[:20]]
    for what, keys, fix in OTHER_JSON:
        if any(isinstance(entry, Mapping) and keys <= entry.keys() for entry in entries):
            return f": it is {what}; {fix}"
    if not isinstance(content, Mapping):
        return f": it is a {type(content).__name__}; expected a mapping with the lists {', '.join(LISTS)}"
    lacking = [name for name in LISTS if not isinstance(content.get(name), list)]
    keys_words = f"keys {', '.join(map(repr, [*content][:20]))}" if content else "no keys"
    others = [key for key in [*content][:100] if key not in LISTS]
    near = {name: other for name in lacking if (other := nearest(name, others))}
    fix = "".join(f". Is '{other}' meant for '{name}'? Rename it" for name, other in near.items())
    return f": it has {keys_words}, but no list under {', '.join(map(repr, lacking))}{fix}"
