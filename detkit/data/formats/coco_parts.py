"""Several COCO files as one dataset: their parts, where their images lie, and one numbering for all."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from detkit.data.datasets.image_table import ImageTable
from detkit.data.datasets.rows import ImageRow, Row, as_row
from detkit.data.formats.content import Content
from detkit.data.formats.dataset import image_of
from detkit.data.formats.files import Folder
from detkit.data.formats.parts import part_of
from detkit.data.issues import Issue, raise_errors
from detkit.registry import DataError
from detkit.structures import KeypointSpec

_OWN_PART = re.compile(r"(?:instances|keypoints|panoptic|image_info)_(.+?)_?(?:(?:19|20)\d\d)?\.json$")


def own_part(name: str) -> str:
    """What ``instances_night2014.json`` is called after; CVAT's ``default`` is no part."""
    own = _OWN_PART.search(name)
    return own[1] if own and own[1] != "default" else ""


def near_file(folder: Folder, name: str) -> list[str]:
    """The folders in which the images of a COCO file may lie, the likeliest first."""
    path = PurePosixPath(name)
    own = name.partition("instances_")[2].removesuffix(".json")  # with / where a part is a folder below another
    ends = (own, path.stem.rpartition("_")[2], part_of(name), "")
    below = (
        where / base / end for where in path.parents[: 2 + own.count("/")] for base in ("images", "") for end in ends
    )
    return [where for where in dict.fromkeys(map(str, (path.parent, *below))) if folder.has_below(where)]


def distinct(parts: Mapping[str, list[str]], read: Callable[[str], Content]) -> list[Content]:
    """The contents of the files; an image that several files of a part have is taken from the last of them.

    Raises:
        DataError: there are several, and an image is malformed.
    """
    out: list[Content] = []
    several = sum(map(len, parts.values())) > 1
    for names in parts.values():
        seen: set[str] = set()
        kept: list[Content] = []
        for name in reversed(names):
            content = read(name)
            if several:
                ImageTable.from_rows(content.images, content.place, raise_errors)
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


def joined(parts: list[Content]) -> Content:
    """Several contents as one: categories by name, ids kept where they are unique, else numbered again.

    Raises:
        DataError: an object is of no image or category of its own file, whose ids another file may have; a category
            has other keypoints in another file.
    """
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    same = all(dict(part.categories) == dict(first.categories) for part in parts)
    names = list(dict.fromkeys(name for part in parts for name in part.categories.values()))
    categories = dict(first.categories) if same else dict(enumerate(names, 1))
    by_name = {name: id_ for id_, name in categories.items()}
    files: dict[Any, str] = {}  # an image may be in several parts, such as COCO's val and minival
    unique = all(files.setdefault(row.id, row.file_name) == row.file_name for part in parts for row in part.images)
    images: dict[str, ImageRow] = {}
    rows: list[Any] = []
    lists: dict[Any, dict[str, list[int]]] = {}
    words: dict[int, Mapping[str, Any]] = {}
    keypoints: dict[int, KeypointSpec] = {}
    for part in parts:
        number = {id_: id_ if same else by_name[name] for id_, name in part.categories.items()}
        kept = {}
        for image in part.images:
            if image.file_name not in images:
                kept[image.id] = id_ = image.id if unique else image.file_name
                images[image.file_name] = ImageRow(id_, image.file_name, image.height, image.width)
                if own := part.extras.get("images", {}).get(image.id):
                    lists[id_] = {key: [number[c] for c in ids if c in number] for key, ids in own.items()}
        rows += _numbered(part, kept, number)
        for id_, spec in part.keypoints.items():
            if keypoints.setdefault(number[id_], spec).names != spec.names:
                what = f"category '{part.categories[id_]}' has other keypoints than in another file of the folder"
                raise DataError(f"{part.place}: {what}; give the files one list, or read one with split or path")
        words |= {number[id_]: own for id_, own in part.extras.get("categories", {}).items() if id_ in number}
    annotation_ids = [row.id for row in rows if isinstance(row.id, int)]  # others are reported later
    if len(set(annotation_ids)) < len(annotation_ids):
        for id_, row in enumerate(rows, 1):
            row.id = id_ if isinstance(row.id, int) else row.id
    notes = [words for part in parts for words in part.notes]
    extras: dict[str, Any] = {"images": lists, "categories": words}
    segments = {path: file for part in parts for path, file in part.segments.items()}
    stuff = {name: id_ for part in parts for id_, name in part.stuff.items()}
    maps: Any = {"segments": segments, "stuff": {id_: name for name, id_ in stuff.items()}}
    return Content(list(images.values()), rows, categories, keypoints, notes, extras, **maps)


def _numbered(part: Content, images: Mapping[Any, Any], categories: Mapping[int, int]) -> Iterator[Row]:
    """The rows of the images that are kept, with other ids of these and of the categories; each says where it stood."""
    known = {image.id for image in part.images}
    for i, entry in enumerate(part.rows):
        row = as_row(entry, Row)
        label = f"annotation {row.id}" if type(getattr(row, "id", None)) is int else f"annotations[{i}]"
        if not isinstance(row, Row):
            what = f"{label} is {str(row)[:40]!r}; expected a mapping"
            raise Issue("malformed entry", part.place, label, what)
        row.origin = f"{part.place}, {label}"
        if (image := image_of(row)) is not None:  # what is no id at all is reported later
            if image not in known:
                what = f"{label}: image_id {image!r} is not the id of any of its {len(known)} images"
                raise Issue("unknown image", part.place, label, what, "remove the annotation, or add its image")
            if image not in images:
                continue
            row.image_id = images[image]
        if isinstance(row.category_id, int):
            if row.category_id not in categories:
                what = f"{label}: category_id {row.category_id} is not listed in 'categories'"
                raise Issue("unknown category", part.place, label, what, "correct category_id, or add the category")
            row.category_id = categories[row.category_id]
        yield row
