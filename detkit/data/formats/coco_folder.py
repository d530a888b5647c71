"""CocoFolder and LvisFolder: folders with files in COCO's form, whoever wrote them."""

import contextlib
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import msgspec

from detkit.data.datasets.coco import read_categories, read_json
from detkit.data.datasets.row_masks import box_around
from detkit.data.datasets.rows import MISSING, ImageRow, Row, as_row, is_text, row_type
from detkit.data.formats.coco_parts import distinct, joined, near_file, own_part
from detkit.data.formats.content import Content
from detkit.data.formats.dataset import FormatDataset, image_of
from detkit.data.formats.files import PEEK, Folder
from detkit.data.formats.parts import grouped, part_of
from detkit.data.interfaces import DATASETS, NEGATIVE, NOT_EXHAUSTIVE
from detkit.data.issues import Issue, raise_errors
from detkit.registry import DataError

_OTHERS = re.compile(r"(?:^|/)(captions|image_info|stuff)_[^/]*$")
"""Files without objects or of stuff alone, as they may lie beside others of the same images."""
_LISTS = r'"(images|categories{})"\s*:\s*\['


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
    def files(cls, folder: Folder) -> list[str]:
        return [name for names in cls.parts(folder).values() for name in names]

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, list[str]]:
        files = (name for name in sorted(folder.candidates("*.json")) if cls.matches(_sketch(folder, name)))
        found = grouped(files, lambda name: part_of(name) or own_part(name))
        with_objects = {part: [n for n in names if not _OTHERS.search(n)] or names for part, names in found.items()}
        return {part: [n for n in names if "instances" in n] or names for part, names in with_objects.items()}

    @classmethod
    def matches(cls, head: str) -> bool:
        """Whether both ends of a file look like this format."""
        has_lists = len({*re.findall(_LISTS.format(""), head)}) == 2
        return has_lists and '"segments_info"' not in head and '"neg_category_ids"' not in head

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


def _sketch(folder: Folder, name: str) -> str:
    """Both ends of a file, and of one of COCO's lists whose others are not there, the keys between them."""
    ends, path = folder.ends(name), folder.path / name
    lists = {*re.findall(_LISTS.format("|annotations"), ends)}
    if not lists or {"images", "categories"} <= lists or ends.lstrip("\ufeff \r\n\t")[:1] != "{":
        return ends
    return ends + _keys(path, path.stat().st_size, path.stat().st_mtime_ns)


@functools.lru_cache(64)
def _keys(path: Path, size: int, changed: int) -> str:
    """The keys in a file by which its kind is known; each format asks for them."""
    keys = re.compile(f'{_LISTS.format("")}|"segments_info"|"neg_category_ids"')
    found: set[str] = set()
    with open(path, "rb") as file:
        encoding = json.detect_encoding(file.read(4))
    with open(path, encoding=encoding, errors="replace") as file:
        text = ""
        while piece := file.read(PEEK):
            text = text[-100:] + piece
            found |= {match[0] for match in keys.finditer(text)}
    return " ".join(sorted(found))


def _content(folder: Folder, name: str, is_lvis: bool) -> Content:
    place = str(folder.path / name)
    image_rows, rows, entries = read_json(place, row_type(()))
    categories, keypoints = read_categories(entries, place, raise_errors)
    images = [as_row(row, ImageRow) for row in image_rows]
    words = ("supercategory", "frequency") if is_lvis else ("supercategory",)
    kept = {entry["id"]: {word: entry[word] for word in words if is_text(entry.get(word))} for entry in entries}
    written = [getattr(image, "file_name", None) for image in images]
    extras = {"categories": kept, "images": _lvis_lists(images, place) if is_lvis else {}}
    for i, image in enumerate(images):
        if not isinstance(image, ImageRow) or not isinstance(image.file_name, str):
            what = f"images[{i}] is {str(image)[:60]!r}; expected a mapping with a file_name"
            raise Issue("malformed entry", place, f"images[{i}]", what)
    _find_images(folder, images, name, written)
    objects: list[Any] = list(rows)
    of_cvat = {entry["id"] for entry in entries if entry.get("supercategory") == ""}
    known = [row for row in objects if isinstance(row, Row)]
    brushes = [row for row in known if row.iscrowd == 1 and _is_brush(row, of_cvat)]
    for row in brushes:
        row.iscrowd = 0
    notes = [f"{len(brushes)} masks of CVAT's brush, written as crowds, are taken as objects"] if brushes else []
    notes = [f"{name}: {note}" for note in (*notes, *_complete(known, images))]
    return Content(images, objects, categories, keypoints, notes, extras, place=place)


def _complete(rows: Sequence[Row], images: Sequence[Any]) -> Iterator[str]:
    """Gives annotations what all of a file lack, and says it; where only some lack it, that is a mistake."""
    texts = [row.image_id for row in rows]
    if {type(i.id) for i in images} == {int} and texts and all(type(t) is str and t.isdecimal() for t in texts):
        yield "its image_id are texts, as VIA writes them, and are taken as the numbers of its images"
        for row in rows:
            row.image_id = int(row.image_id)
    if rows and all(row.id is MISSING or type(row.id) is str for row in rows):
        what = "no ids" if rows[0].id is MISSING else "ids of text"
        yield f"its annotations have {what}, so they are numbered from 1"
        for number, row in enumerate(rows, 1):
            row.id = number
    if rows and not any(row.bbox for row in rows):
        yield "its annotations have no boxes, so these are the ones around their masks"
        sizes: dict[Any, Any] = {i.id: (i.height, i.width) for i in images if isinstance(i.id, int | str)}
        for row in rows:
            box = box_around(row.segmentation, sizes.get(image_of(row), (0, 0)))
            row.bbox = MISSING if box is None else box


def _is_brush(row: Row, of_cvat: Set[int]) -> bool:
    """Whether a crowd is a mask of CVAT, which leaves the class' supercategory empty and never compresses."""
    mask = row.segmentation
    known = isinstance(row.category_id, int) and row.category_id in of_cvat
    return known and isinstance(mask, dict) and isinstance(mask.get("counts"), list)


def _find_images(folder: Folder, images: Iterable[ImageRow], name: str, written: Iterable[Any]) -> None:
    """Gives the images of a file the paths that they have in the folder, by their names or those that were written."""
    near = near_file(folder, name)
    for image, other in zip(images, written):
        for file in dict.fromkeys(filter(is_text, (image.file_name, other))):
            with contextlib.suppress(DataError):  # named as it is; the check of the images says that it is missing
                image.file_name = folder.image(file, near, name)
                break


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
        return "/".join(self.coco_url.split("/")[-2:]) or re.sub(r"^COCO_[a-z]+\d{4}_", "", self.file_name)


class _LvisImages(msgspec.Struct, gc=False):
    images: list[_LvisImage]


def _lvis_lists(images: Iterable[Any], place: str) -> dict[Any, dict[str, Any]]:
    """Image id -> LVIS's lists of its categories; gives ``images`` the names that LVIS means."""
    try:
        found = msgspec.json.decode(Path(place).read_bytes(), type=_LvisImages).images
    except msgspec.DecodeError as error:
        raise DataError(f"{place}: is not an LVIS file ({error})") from None
    known = {image.id: image for image in found if isinstance(image.id, int | str)}  # others are reported later
    for row in images:
        if isinstance(row, ImageRow) and isinstance(row.id, int | str) and row.id in known:
            row.file_name = known[row.id].name()
    return {i: {NEGATIVE: o.neg_category_ids, NOT_EXHAUSTIVE: o.not_exhaustive_category_ids} for i, o in known.items()}
