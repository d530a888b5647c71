"""ViaDataset: the JSON and CSV of the VGG Image Annotator."""

import collections
import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from detkit.data.formats.content import Content, LabelledImage, LabelledObject
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder
from detkit.data.formats.shapes import ellipse, numbers, numbers_of, points, rotation_of
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError
from detkit.utils.words import amount


@DATASETS.register()
class ViaDataset(FormatDataset):
    """VIA's JSON (Dutta and Zisserman 2019, versions 1 to 3; matterport's balloons) and CSV: polygons, boxes, circles.

    The class of a region is its attribute ``class``, ``label``, ``name``, ``type`` or ``category``, whichever most
    regions have, or else the first one; where no region has any, all are of one class, ``object``. Classes are the
    labels, sorted. Options are those of ``FormatDataset``.
    """

    key = "via"
    format = "VIA"

    @classmethod
    def files(cls, folder: Folder) -> list[str]:
        heads = {name: folder.head(name) for name in folder.candidates("*.json", "*.csv")}
        heads |= {name: folder.ends(name) for name, head in heads.items() if EMBEDDED in head}
        return [name for name, head in heads.items() if any(all(word in head for word in form) for form in FORMS)]

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        everything = (name for found in cls.parts(folder).values() for name in found)  # parts have equal classes
        projects = {name: _entries(folder, name) for name in everything}
        places = [(str(folder.path / name), entries) for name, (entries, _) in projects.items()]
        regions = [region for place, entries in places for entry in entries for region in _regions(entry, place)]
        key, notes = _class_attribute(list(map(_marked, regions)))
        names = [name for found in parts.values() for name in found]
        images = [image for name in names for image in _images(folder, name, *projects[name], key)]
        objects = [thing for image in images for thing in image.objects]
        unnamed = [thing for thing in objects if not thing.label]
        if 0 < len(unnamed) < len(objects):
            more = f" (as {amount(len(unnamed) - 1, 'more region')})" if unnamed[1:] else ""
            raise DataError(f"{unnamed[0].origin}: has no class{more}, and others have; give it one, or remove it")
        for thing in unnamed:
            thing.label = "object"
        return Content.of_images(folder, images, None, notes)


FORMS = (
    ('"regions"', '"filename"'),
    ('"attribute"', '"anchor_id"'),
    ("region_shape_attributes", "filename"),
    ("CSV_HEADER", "spatial_coordinates"),
)
"""Words that stand in the beginning of JSON and CSV of VIA 2, and of VIA 3."""
EMBEDDED = '"base64_img_data"'
"""Of VIA 1: an image may stand in front of its regions."""
CLASS_ATTRIBUTES = ("class", "label", "name", "type", "category")
"""Attributes of a region that mostly hold its class, in any case."""
SHAPES = {1: "point", 2: "rect", 3: "circle", 4: "ellipse", 5: "polyline", 6: "polyline", 7: "polygon", 8: "extent"}
"""The numbers of shapes in VIA 3; 8 is a rectangle given by the outermost points of what is in it."""
COMMENT = re.compile(r"(?m)^# (ATTRIBUTE|CSV_HEADER) = (.*)$")
"""What VIA 3 says of its CSV in it."""
KEYS = {"rect": ("x", "y", "width", "height"), "circle": ("cx", "cy", "r"), "ellipse": ("cx", "cy", "rx", "ry")}


def _entries(folder: Folder, name: str) -> tuple[list[Any], Mapping[str, Any]]:
    """The images of a file in the form of VIA 2, each with a filename and regions, and what its project describes."""
    place = folder.path / name
    if name.endswith(".csv") and "CSV_HEADER" in folder.head(name):
        return _of_version_3(_csv_of_version_3(folder.text(name), str(place)), str(place)), {}
    if name.endswith(".csv"):
        found: dict[str, list[Any]] = {}
        text = folder.text(name).lstrip("#")
        reader = csv.DictReader(io.StringIO(text), delimiter=";" if text.startswith("filename;") else ",")
        try:
            for row in reader:
                if None in row.values():
                    raise ValueError("a row that ends early; export or save it again")
                shape, given = (json.loads(row[f"region_{key}attributes"]) for key in ("shape_", ""))
                regions = found.setdefault(row["filename"], [])
                regions += [{"shape_attributes": shape, "region_attributes": given}] if shape else []
        except (csv.Error, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{place}, line {reader.line_num}: is not of VIA's CSV ({_words(error)})") from None
        return [{"filename": file, "regions": regions} for file, regions in found.items()], {}
    content = folder.json(name)
    if isinstance(content, dict) and "metadata" in content and "view" in content:
        return _of_version_3(content, str(place)), {}
    entries = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise DataError(f"{place}: expected a mapping of images, as VIA writes it")
    described = content.get("_via_attributes") if entries is not content else None
    attributes = described.get("region") if isinstance(described, dict) else None
    return list(entries.values()), attributes if isinstance(attributes, dict) else {}


def _words(error: Exception) -> str:
    """What is wrong with an entry, in words."""
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def _csv_of_version_3(text: str, place: str) -> dict[str, Any]:
    """The CSV as that version's JSON says the same."""
    said = {key: value.strip() for key, value in COMMENT.findall(text)}
    rows = "".join(line for line in text.splitlines(keepends=True) if line[:1] != "#")
    out: dict[str, Any] = {"file": {}, "view": {}, "metadata": {}}
    reader = csv.DictReader(io.StringIO(rows), said.get("CSV_HEADER", "").split(","))
    try:
        out["attribute"] = json.loads(said.get("ATTRIBUTE", "{}"))
        for row in reader:
            id_, (name, *_) = row["metadata_id"], json.loads(row["file_list"])
            out["file"][name], out["view"][id_] = {"fname": name}, {"fid_list": [name]}
            values = {"xy": json.loads(row["spatial_coordinates"]), "av": json.loads(row["metadata"])}
            out["metadata"][id_] = {"vid": id_, **values}
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{place}, row {reader.line_num}: is not of VIA's CSV ({_words(error)})") from None
    return out


def _of_version_3(content: dict[str, Any], place: str) -> list[Any]:
    at = "file"
    try:
        files = {fid: {"filename": entry["fname"], "regions": []} for fid, entry in content["file"].items()}
        for at, entry in content["metadata"].items():  # noqa: B007  # the message says which
            if not entry["xy"]:
                continue  # a span of time, or an attribute of the file
            kind, values = SHAPES.get(int(entry["xy"][0]), str(entry["xy"][0])), entry["xy"][1:]
            if kind == "extent":
                (x1, x2), (y1, y2) = ((min(ends), max(ends)) for ends in (values[::2], values[1::2]))
                kind, values = "rect", [x1, y1, x2 - x1, y2 - y1]
            shape = {"name": kind, **dict(zip(KEYS.get(kind, ()), values))}
            if kind == "polygon":
                shape |= {"all_points_x": values[::2], "all_points_y": values[1::2]}
            attributes = {number: content["attribute"][number] for number in entry["av"]}
            given = {a["aname"]: _chosen(a.get("options") or {}, entry["av"][n]) for n, a in attributes.items()}
            fid = str(content["view"][entry["vid"]]["fid_list"][0])
            files[fid]["regions"].append({"shape_attributes": shape, "region_attributes": given})
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{place}, {at}: is not as VIA 3 writes it ({_words(error)})") from None
    return list(files.values())


def _chosen(options: Mapping[str, Any], value: Any) -> Any:
    """What an attribute of VIA 3 says: one of its options, several that are ticked, or a text."""
    numbers = value.split(",") if isinstance(value, str) else []
    several = len(numbers) > 1 and options.keys() >= {*numbers}
    return {options[number]: True for number in numbers} if several else options.get(value, value)


def _images(
    folder: Folder, name: str, entries: list[Any], described: Mapping[str, Any], key: str
) -> list[LabelledImage]:
    place, near = str(folder.path / name), PurePosixPath(name).parent.as_posix()
    out = []
    for entry in entries:
        regions, at = _regions(entry, place), f"{place}, {entry['filename']}"
        image = folder.expected_image(entry["filename"], near, name)
        found = [_object(region, described, key, f"{at}, region {number}") for number, region in enumerate(regions, 1)]
        objects = [thing for thing in found if thing]
        out.append(LabelledImage(image, objects, ignored=len(found) - len(objects)))
    return out


def _regions(entry: Any, place: str) -> list[Any]:
    """The regions of an image; a list in VIA 2, and numbered in VIA 1."""
    if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str):
        raise DataError(f"{place}: {str(entry)[:60]!r} has no filename")
    regions = entry.get("regions") or []
    regions = list(regions.values()) if isinstance(regions, dict) else regions
    if not isinstance(regions, list):
        raise DataError(f"{place}, {entry['filename']}: regions is {str(regions)[:60]!r}; expected a list of them")
    return regions


def _marked(region: Any) -> dict[str, list[str]]:
    """The values of each attribute of a region: several where boxes are ticked, none where it is left empty."""
    given = region.get("region_attributes") if isinstance(region, dict) else None
    out = {}
    for key, value in given.items() if isinstance(given, dict) else ():
        values = [name for name, ticked in value.items() if ticked] if isinstance(value, dict) else [value]
        out[key] = [str(v) for v in values if type(v) in (str, int, float) and v != ""]
    return out


def _class_attribute(regions: Sequence[Mapping[str, Sequence[str]]]) -> tuple[str, list[str]]:
    """The attribute that is the class of regions, and notes; "" where none has a value."""
    counts = collections.Counter(key for marked in regions for key, values in marked.items() if values)
    usual = sorted(filter(_is_usual, counts), key=lambda key: CLASS_ATTRIBUTES.index(key.lower()))
    key = max(usual, key=counts.__getitem__, default=next(iter(counts), ""))
    several = sum(len(marked.get(key, ())) > 1 for marked in regions)
    notes = [f"{amount(several, 'region')} of several classes, of which the first counts"] if several else []
    return key, [f"the class of a region is its attribute '{key}'", *notes] if len(counts) > 1 else notes


def _is_usual(key: str) -> bool:
    return key.lower() in CLASS_ATTRIBUTES


def _label(marked: Mapping[str, Sequence[str]], described: Mapping[str, Any], key: str) -> str:
    """The class of a region, empty where it has none; of a choice that the project numbered what it describes.

    A region that does not know the attribute of the others, as where projects were joined, has one of its own.
    """
    others = [own for own, values in marked.items() if values and (_is_usual(own) or not _is_usual(key))]
    key = key if key in marked else next(iter(others), "")
    if not marked.get(key):
        return ""
    value = marked[key][0]
    options = described[key].get("options") if isinstance(described.get(key), dict) else None
    name = options.get(value) if isinstance(options, dict) and value.isdecimal() else None
    return name if isinstance(name, str) and name else value


def _object(region: Any, described: Mapping[str, Any], key: str, origin: str) -> LabelledObject | None:
    shape: Any = region.get("shape_attributes") if isinstance(region, dict) else None
    if not isinstance(shape, dict):
        raise DataError(f"{origin}: has no shape_attributes")
    kind, label = shape.get("name"), _label(_marked(region), described, key)
    if kind in ("point", "polyline"):
        return None
    if kind == "polygon":
        keys = ("all_points_x", "all_points_y")
        x, y = (numbers(shape.get(key) or [], origin, key).reshape(-1).tolist() for key in keys)
        if len(x) != len(y):
            raise DataError(f"{origin}: has {len(x)} values of x and {len(y)} of y")
        return LabelledObject(label, None, [points(list(zip(x, y)), origin)], origin)
    if kind == "rect":
        left, top, width, height = numbers_of(shape, KEYS[kind], origin)
        return LabelledObject(label, (left, top, left + width, top + height), None, origin)
    if kind in ("circle", "ellipse"):
        cx, cy, *radii = numbers_of(shape, KEYS[kind], origin)
        degrees = math.degrees(rotation_of(shape.get("theta"), origin))
        box, outline = ellipse((cx, cy), (radii[0], radii[-1]), degrees)
        return LabelledObject(label, box, [outline], origin)
    raise DataError(f"{origin}: the shape is {kind!r}; expected polygon, rect, circle or ellipse")
