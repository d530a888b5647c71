"""LabelStudioDataset: the JSON of Label Studio.

Its ``image_rotation`` is how an image was shown: nothing turns by it.
"""

import contextlib
import itertools
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from detkit.data.formats.content import Content, LabelledImage, LabelledObject, listed_first
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.file_index import without_query
from detkit.data.formats.files import Folder, embedded_image
from detkit.data.formats.shapes import (
    drawn,
    ellipse,
    extent,
    is_line,
    mask_size,
    numbers,
    numbers_of,
    points,
    rectangle,
    rotation_of,
    turned,
)
from detkit.data.image_files import IMAGE_SUFFIXES
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError
from detkit.utils.words import amount

FIELDS = {
    "points": "polygonlabels",
    "rle": "brushlabels",
    "imageDataURL": "bitmasklabels",
    "radiusX": "ellipselabels",
    "width": "rectanglelabels",
}
"""Of the values of shapes, and which they are of."""
SHAPES = (*FIELDS.values(), "labels")
BARE = ("rectangle", "polygon", "ellipse", "brush", "bitmask")
"""The same without a class, which a result of ``labels`` with the same id gives."""
TASK_FILES = (".json", ".csv", ".tsv", ".txt")
"""Suffixes of files that tasks are imported from."""


@DATASETS.register()
class LabelStudioDataset(FormatDataset):
    """Label Studio's JSON and JSON_MIN exports, and the files of its target storages.

    Read are rectangles (also turned ones), polygons, ellipses, brushes and bitmaps.
    Of a task's annotations that were not cancelled the ground truth counts, or else the first; tasks without an
    annotation are left out. Predictions count in a file that has no annotations at all, such as one to be imported, for
    images that no other file has. Images are found by the last parts of their address. Classes are those of
    ``label_config.xml`` and other labels that occur; parts are told by the files' names. Options are those of
    ``FormatDataset``.
    """

    key = "label_studio"
    format = "Label Studio"

    @classmethod
    def files(cls, folder: Folder) -> list[str]:
        return [
            name
            for name in folder.candidates("*.json")
            if (start := folder.head(name).lstrip("\ufeff \r\n\t")[:1]) in ("[", "{")
            and re.search(r'"(result|annotation_id)"\s*:', text := folder.ends(name))
            and re.search(r'"(annotations|completions|predictions|annotator|task)"\s*:', text)
            and (start == "[" or re.search(r'"data"\s*:', text))
        ]

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        images: list[LabelledImage] = []
        predicted: list[LabelledImage] = []
        notes: list[str] = []
        for name in itertools.chain.from_iterable(parts.values()):
            content, place = _tasks(folder.json(name)), str(folder.path / name)
            if not isinstance(content, list):
                raise DataError(f"{place}: expected a list of tasks")
            content = [_from_short(task) if isinstance(task, dict) else task for task in content]
            keys = {key for task in content if isinstance(task, dict) for key in task}
            key = next((key for key in ("annotations", "completions", "predictions") if key in keys), "annotations")
            near = str(PurePosixPath(name).parent)
            found = [_image(folder, task, key, near, f"{place}, task {number}") for number, task in enumerate(content)]
            (predicted if key == "predictions" else images).extend(image for image in found if image)
            left_out = sum(image is None for image in found)
            several = sum(len(_done(task, key)) > 1 for task in content)
            notes += [f"{name}: {amount(left_out, 'task')} without an annotation left out"] if left_out else []
            notes += [f"{name}: {amount(several, 'task')} with several {key}, of which one counts"] if several else []
            more = sum(len(_labels(result)) > 1 for task in content for result in _results(task, key) or ())
            notes += [f"{name}: {amount(more, 'shape')} of several classes, of which the first counts"] if more else []
            if key == "predictions":
                notes.append(f"{name}: has predictions alone; they are labels of images without annotations elsewhere")
        images += predicted
        return Content.of_images(folder, images, listed_first(_configured(folder), images), notes)


def _tasks(content: Any) -> Any:
    """The tasks of an export. In a file of a target storage there is one task, or one annotation with its task."""
    if isinstance(content, dict) and isinstance(content.get("task"), dict):
        return [{**content["task"], "annotations": [content]}]
    return [content] if isinstance(content, dict) else content


def _from_short(task: dict[str, Any]) -> dict[str, Any]:
    """A task of the export JSON_MIN as the others are: there, fields of the data and labels stand side by side."""
    if "annotation_id" not in task or "data" in task:
        return task
    lists = [value for value in task.values() if isinstance(value, list)]
    shapes = [
        (shape, kind)
        for shape in itertools.chain(*lists)
        if isinstance(shape, dict)
        for kind in SHAPES
        if kind in shape
    ]
    sizes = ("original_width", "original_height")
    results = [{"type": kind, "value": shape, **{k: shape.get(k) for k in sizes}} for shape, kind in shapes]
    return {"id": task.get("id"), "data": task, "annotations": [{"result": results}]}


def _configured(folder: Folder) -> list[str]:
    """The classes of ``label_config.xml`` in their order."""
    return [
        label.get("value") or ""
        for name in folder.glob("label_config.xml")[:1]
        for control in folder.xml(name).iter()
        if control.tag.lower() in SHAPES
        for label in control.iter("Label")
    ]


def _addresses(task: Mapping[str, Any]) -> list[str]:
    """The upload of a task, or the texts of its data: those that are named as images, if any are.

    An upload may be the file that many tasks are of, ``0a1b2c3d-tasks.json``; then their images are in their data.
    """
    data, upload = task.get("data"), str(task.get("file_upload") or "")
    texts = [value for value in data.values() if isinstance(value, str)] if isinstance(data, dict) else []
    texts = [upload] if upload and PurePosixPath(upload).suffix.lower() not in TASK_FILES else texts
    texts = list(map(without_query, texts))
    return [text for text in texts if PurePosixPath(text).suffix.lower() in IMAGE_SUFFIXES] or texts


def _path(folder: Folder, task: Mapping[str, Any], near: str, place: str) -> str:
    """The image of a task: the first of its addresses that is there."""
    named = _addresses(task)
    for text in named:
        with contextlib.suppress(DataError):
            return folder.image(text, near, place)
    if not any(named):
        raise DataError(f"{place}: its data has no text that names an image; tasks of several pages cannot be read")
    address = max(named, key=lambda text: "/" in text)
    return folder.expected_image(address, near, place) if folder.images else address.lstrip("/") or place


def _done(task: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """A task's annotations that were not cancelled."""
    return [a for a in task[key] if isinstance(a, dict) and not a.get("was_cancelled")]


def _results(task: Mapping[str, Any], key: str) -> Any:
    """The results of the annotation that counts; None where a task has none."""
    done = _done(task, key)
    chosen = next((annotation for annotation in done if annotation.get("ground_truth")), done[0] if done else {})
    return chosen.get("result")


def _labels(result: Any) -> Any:
    """The classes of a shape; empty for what is none."""
    kind, value = (result.get("type"), result.get("value")) if isinstance(result, dict) else ("", None)
    labels = value.get(kind) if isinstance(value, dict) and kind in SHAPES else ()
    return labels if isinstance(labels, list) else ()


def _image(folder: Folder, task: Any, key: str, near: str, place: str) -> LabelledImage | None:
    if not isinstance(task, dict) or not isinstance(task.get(key), list):
        raise DataError(f"{place}: has no list of {key}; expected a task of Label Studio's JSON export")
    place = f"{place} (id {task.get('id')})"
    if not _done(task, key):
        return None
    path, results = _path(folder, task, near, place), _results(task, key)
    if not isinstance(results, list):
        raise DataError(f"{place}: its annotation has no list 'result'")
    entries = {number: result for number, result in enumerate(results, 1) if isinstance(result, dict)}
    sizes = [(result.get("original_height"), result.get("original_width")) for result in entries.values()]
    size = next(((h, w) for h, w in sizes if isinstance(h, int) and isinstance(w, int) and h > 0 and w > 0), None)
    shown = {str(result.get("to_name")) for result in entries.values() if result.get("type") in SHAPES}
    if len(shown) > 1 and len(_addresses(task)) > 1:
        what = f"its labels are of several images ({', '.join(sorted(shown))})"
        raise DataError(f"{place}: {what}; expected tasks of one image each")
    found = {number: _object(result, f"{place}, result {number}") for number, result in entries.items()}
    named = {str(entries[number].get("id")) for number, thing in found.items() if thing}
    bare = sum(result.get("type") in BARE and str(result.get("id")) not in named for result in entries.values())
    ignored = sum(not thing and str(entries[number].get("type")).endswith("labels") for number, thing in found.items())
    objects, id_ = [thing for thing in found.values() if thing], task.get("id")
    return LabelledImage(path, objects, size, id_ if isinstance(id_, int | str) else None, ignored + bare)


def _object(result: Any, origin: str) -> LabelledObject | None:
    """An object; None for what is no shape, covers nothing or has no class."""
    kind = result.get("type")
    if kind not in SHAPES:
        return None
    value, height, width = result.get("value"), result.get("original_height"), result.get("original_width")
    if not isinstance(value, dict):
        raise DataError(f"{origin}: its value is {str(value)[:60]!r}; expected a mapping")
    labels = value.get(kind)
    if kind == "labels":  # of a control that names what another one draws
        kind = next((k for field, k in FIELDS.items() if field in value), kind)
    if labels == [] or (kind == "polygonlabels" and is_line(value.get("points"))):
        return None  # somebody took the class away again, or began an outline and left it
    if not isinstance(labels, list):
        raise DataError(f"{origin}: has no '{kind}'; expected its class there")
    scale = numbers([width, height], origin, "original_width, original_height", 2) / 100
    degrees = rotation_of(value.get("rotation"), origin)
    if kind == "rectanglelabels":
        x, y, w, h = numbers_of(value, ("x", "y", "width", "height"), origin)
        corners = rectangle((x * scale[0], y * scale[1], (x + w) * scale[0], (y + h) * scale[1]))
        box = extent(turned(corners, degrees, corners[0]))
        return LabelledObject(str(labels[0]), box, None, origin, turned=degrees != 0)
    if kind == "polygonlabels":
        outline = np.reshape(points(value.get("points"), origin), (-1, 2)) * scale
        return LabelledObject(str(labels[0]), None, [outline.reshape(-1).tolist()], origin)
    if kind == "ellipselabels":
        x, y, rx, ry = numbers_of(value, ("x", "y", "radiusX", "radiusY"), origin)
        centre, radii = (x * scale[0], y * scale[1]), (rx * scale[0], ry * scale[1])
        around, curve = ellipse(centre, radii, degrees)
        return LabelledObject(str(labels[0]), around, [curve], origin)
    if kind == "bitmasklabels":
        mask = drawn(embedded_image(str(value.get("imageDataURL")).rpartition(",")[2], origin))
    else:
        mask = _brush(value.get("rle"), *mask_size(height, width, origin), origin)
    return LabelledObject(str(labels[0]), None, mask, origin)


def _brush(content: Any, height: int, width: int, origin: str) -> np.ndarray:
    """``(H, W)`` bool of Label Studio's packed run lengths over RGBA values.

    A stream of bits: 32 for the number of values, 5 for the bits of a value less one, four times 4 for the bits of
    four kinds of run length less one; then runs, each of 1 bit (the same value again), 2 bits (its kind), a length
    less one, and one value or as many as the length says.
    """
    data = numbers(content, origin, "rle").astype(np.uint8)
    bits = np.unpackbits(data)
    at = 0

    def take(count: int) -> int:
        nonlocal at
        if at + count > len(bits):
            raise DataError(f"{origin}: its rle ends before its last value")
        number = int("".join(map(str, bits[at : at + count].tolist())) or "0", 2)
        at += count
        return number

    total, word = take(32), take(5) + 1
    if total != height * width * 4:
        raise DataError(f"{origin}: its rle is of {total} values; expected {height} x {width} x 4")
    lengths = [take(4) + 1 for _ in range(4)]
    out, filled = np.zeros(total, np.uint8), 0
    while filled < total:
        same, run = take(1), take(lengths[take(2)]) + 1
        run = min(run, total - filled)
        if same:
            out[filled : filled + run] = take(word) & 255
        else:
            for i in range(run):
                out[filled + i] = take(word) & 255
        filled += run
    return out.reshape(height, width, 4)[..., 3] > 0
