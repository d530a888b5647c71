"""CocoFolder and LvisFolder: folders with files in COCO's form, whoever wrote them."""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from detkit.data.datasets.coco import read_categories, read_json
from detkit.data.datasets.rows import ImageRow, Row, as_row, is_text, row_type
from detkit.data.formats.content import Content
from detkit.data.formats.dataset import FormatDataset, image_of
from detkit.data.formats.files import Folder, by_part, decoded, part_of
from detkit.data.interfaces import DATASETS, NEGATIVE, NOT_EXHAUSTIVE
from detkit.data.issues import Issue, raise_errors
from detkit.registry import DataError

PEEK = 1 << 20
"""Bytes at both ends of a JSON file that are looked at to tell what it is."""


@DATASETS.register()
class CocoFolder(FormatDataset):
    """A folder with COCO JSON, as the COCO site, Roboflow, CVAT or Label Studio write it.

    Parts are told by the folder or name of each file (``train/_annotations.coco.json``, ``instances_val2017.json``);
    images are found by their name anywhere below the folder. CVAT writes brush masks with ``iscrowd: 1``; each is one
    object. A category that only groups others and has no objects (Roboflow's first) stays a class without objects.
    Ids are the files' own where they are unique over the parts. Options are those of ``FormatDataset``.
    """

    key = "coco"
    format = "COCO"

    @classmethod
    def recognise(cls, folder: Folder) -> str | None:
        return ", ".join([name for names in _files(folder, cls).values() for name in names][:4]) or None

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        return _files(folder, cls)

    @classmethod
    def matches(cls, head: str) -> bool:
        """Whether both ends of a file look like this format."""
        has_lists = re.search(r'"images"\s*:\s*\[', head) and re.search(r'"categories"\s*:\s*\[', head)
        return bool(has_lists) and '"segments_info"' not in head and '"neg_category_ids"' not in head

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        return joined(distinct(parts, lambda name: _content(folder, name, issubclass(cls, LvisFolder))))


@DATASETS.register()
class LvisFolder(CocoFolder):
    """LVIS (Gupta et al. 2019, v0.5 and v1): COCO's form, with images named by ``coco_url``.

    Which classes an image has none of, and of which not all objects are labelled, is kept for evaluators. Options are
    those of ``FormatDataset``.
    """

    key = "lvis"
    format = "LVIS"

    @classmethod
    def matches(cls, head: str) -> bool:
        return '"neg_category_ids"' in head


def _files(folder: Folder, kind: type[CocoFolder]) -> dict[str, list[str]]:
    """Part -> its files; where some are of instances, only these."""
    found: list[str] = []
    for name in sorted(folder.candidates("*.json")):
        path = folder.path / name
        with open(path, "rb") as file:
            head = file.read(PEEK)
            file.seek(max(path.stat().st_size - PEEK, 0))
            ends = decoded(head + file.read())
        if kind.matches(ends):
            found.append(name)
    return {part: [name for name in names if "instances" in name] or names for part, names in by_part(found).items()}


def distinct(parts: Mapping[str, list[str]], read: Callable[[str], Content]) -> list[Content]:
    """The contents of the files; an image that several files of a part have is taken from the last of them."""
    out: list[Content] = []
    for names in parts.values():
        seen: set[str] = set()
        kept: list[Content] = []
        for name in reversed(names):
            content = read(name)
            own = {row.file_name for row in content.images}
            common = own & seen
            if common and common == own:
                kept[-1].notes = [*kept[-1].notes, f"{name}: left out, other files have all of its images"]
                continue
            if common:
                words = f"{name}: {len(common)} of its {len(own)} images left out, other files have them"
                gone = {row.id for row in content.images if row.file_name in common}
                content.images = [row for row in content.images if row.file_name not in common]
                content.rows = [row for row in content.rows if image_of(row) not in gone]
                content.notes = [*content.notes, words]
            seen, kept = seen | own, [*kept, content]
        out += reversed(kept)
    return out


def _content(folder: Folder, name: str, is_lvis: bool) -> Content:
    place = str(folder.path / name)
    image_rows, rows, entries = read_json(place, row_type(()))
    categories, keypoints = read_categories(entries, place, raise_errors)
    path = PurePosixPath(name)
    ends = (path.stem.rpartition("_")[2], part_of(name), "")
    below = (where / base / end for where in path.parents[:2] for base in ("images", "") for end in ends)
    near = [where for where in dict.fromkeys(map(str, (path.parent, *below))) if folder.below(where)]
    image_rows = [as_row(row, ImageRow) for row in image_rows]
    words = ("supercategory", "frequency") if is_lvis else ("supercategory",)
    kept = {entry["id"]: {word: entry[word] for word in words if is_text(entry.get(word))} for entry in entries}
    extras: dict[str, dict[Any, dict[str, Any]]] = {"categories": kept}
    if is_lvis:
        known = _lvis_images(place)
        for row in (row for row in image_rows if isinstance(row, ImageRow) and row.id in known):
            row.file_name = known[row.id].name()
        lists = {
            id_: {NEGATIVE: i.neg_category_ids, NOT_EXHAUSTIVE: i.not_exhaustive_category_ids}
            for id_, i in known.items()
        }
        extras["images"] = lists
    for i, row in enumerate(image_rows):
        if not isinstance(row, ImageRow) or not isinstance(row.file_name, str):
            what = f"images[{i}] is {str(row)[:60]!r}; expected a mapping with a file_name"
            raise Issue("malformed entry", place, f"images[{i}]", what)
    images = list(_images(folder, image_rows, near, name))
    objects, brushes = [], 0
    for row in rows:
        if isinstance(row, Row) and row.iscrowd == 1 and _is_brush(row.segmentation, entries, row):
            row.iscrowd, brushes = 0, brushes + 1
        objects.append(row)
    notes = [f"{name}: {brushes} masks of CVAT's brush, written as crowds, are taken as objects"] if brushes else []
    return Content(images, objects, categories, keypoints, notes, extras)  # type: ignore[arg-type]


def _is_brush(mask: Any, entries: list[Any], row: Row) -> bool:
    """Whether a crowd is a mask of CVAT, which leaves the categories' supercategory empty and never compresses."""
    cvat = all(isinstance(entry, dict) and entry.get("supercategory") == "" for entry in entries)
    return cvat and isinstance(mask, dict) and isinstance(mask.get("counts"), list)


def _images(folder: Folder, rows: Iterable[Any], near: list[str], name: str) -> Iterator[Any]:
    for row in rows:
        with contextlib.suppress(DataError):  # named as it is; the check of the images says that it is missing
            row.file_name = folder.image(row.file_name, near, name)
        yield row


class _LvisImage(msgspec.Struct, gc=False):
    id: Any
    height: Any
    width: Any
    coco_url: str = ""
    file_name: str = ""
    neg_category_ids: list[int] = msgspec.field(default_factory=list)
    not_exhaustive_category_ids: list[int] = msgspec.field(default_factory=list)

    def name(self) -> str:
        """Its path: that of the address, or else its file's without ``COCO_val2014_``."""
        return "/".join(self.coco_url.split("/")[-2:]) or self.file_name.rpartition("_")[2]


class _LvisImages(msgspec.Struct, gc=False):
    images: list[_LvisImage]


def _lvis_images(place: str) -> dict[Any, _LvisImage]:
    try:
        images = msgspec.json.decode(Path(place).read_bytes(), type=_LvisImages).images
    except msgspec.DecodeError as error:
        raise DataError(f"{place}: is not an LVIS file ({error})") from None
    return {image.id: image for image in images}


def joined(parts: list[Content]) -> Content:
    """Several contents as one: categories by name, ids kept where they are unique, else numbered again."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    same = all(dict(part.categories) == dict(first.categories) for part in parts)
    names = list(dict.fromkeys(name for part in parts for name in part.categories.values()))
    categories = dict(first.categories) if same else dict(enumerate(names, 1))
    number = {name: id_ for id_, name in categories.items()}
    image_ids = [row.id for part in parts for row in part.images]
    unique = len(set(image_ids)) == len(image_ids)
    images: dict[str, ImageRow] = {}
    rows: list[Any] = []
    lists: dict[Any, dict[str, list[int]]] = {}
    for part in parts:
        ids: dict[Any, Any] = {}
        kept = set()
        for image in part.images:
            if image.file_name not in images:
                kept.add(image.id)
                id_ = image.id if unique else image.file_name
                images[image.file_name] = ImageRow(id_, image.file_name, image.height, image.width)
            ids[image.id] = images[image.file_name].id
            if image.id in kept and (own := part.extras.get("images", {}).get(image.id)):
                known = {k: [number[part.categories[c]] for c in v if c in part.categories] for k, v in own.items()}
                lists[ids[image.id]] = known
        for row in part.rows:
            entry: dict[str, Any] = (
                row if isinstance(row, dict) else msgspec.structs.asdict(row) if isinstance(row, Row) else {}
            )
            if entry.get("image_id") in kept:
                category = entry.get("category_id")
                if not same and isinstance(category, int) and category in part.categories:
                    category = number[part.categories[category]]
                rows.append({**entry, "image_id": ids[entry["image_id"]], "category_id": category})
    annotation_ids = [row["id"] for row in rows if isinstance(row.get("id"), int)]  # others are reported later
    if len(set(annotation_ids)) < len(annotation_ids):
        for id_, row in enumerate(rows, 1):
            row["id"] = id_
    notes = [words for part in parts for words in part.notes]
    frequencies = {
        number[part.categories[id_]]: entry
        for part in parts
        for id_, entry in part.extras.get("categories", {}).items()
        if id_ in part.categories
    }
    extras: dict[str, Any] = {"images": lists, "categories": frequencies}
    segments = {path: file for part in parts for path, file in part.segments.items()}
    stuff = {name: id_ for part in parts for id_, name in part.stuff.items()}
    maps: Any = {"segments": segments, "stuff": {id_: name for name, id_ in stuff.items()}}
    return Content(list(images.values()), rows, categories, first.keypoints, notes, extras, **maps)
