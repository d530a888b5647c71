"""SuperviselyDataset: a project of Supervisely."""

import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from detkit.data.formats.content import Content, LabelledImage, LabelledObject
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder, embedded_image
from detkit.data.formats.parts import grouped
from detkit.data.formats.shapes import covered, drawn, extent, numbers, placed, points, rectangle, rotation_of, turned
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError

IGNORED = ("point", "line", "polyline", "graph", "cuboid", "cuboid_2d")


@DATASETS.register()
class SuperviselyDataset(FormatDataset):
    """Supervisely's projects: ``meta.json`` and, a folder a dataset, ``img`` and ``ann``.

    Rectangles are of whole pixels, the last one included, and of turned ones the enclosing box is taken; polygons may
    have holes; bitmaps are masks. Classes are those of ``meta.json`` in their order, parts the datasets. Options are
    those of ``FormatDataset``.
    """

    key = "supervisely"
    format = "Supervisely"

    @classmethod
    def recognise(cls, folder: Folder) -> str | None:
        metas, names = folder.glob("meta.json"), folder.glob("ann/*.json")
        return f"{metas[0]} and {len(names)} JSON files" if metas and names else None

    @classmethod
    def hint(cls, folder: Folder) -> str:
        names = [] if folder.glob("meta.json") else folder.glob("ann/*.json")
        if any('"classTitle"' in folder.head(name) for name in names[:10]):
            return f"{names[0]} is of Supervisely, whose classes are in meta.json: put that there, above the datasets. "
        return ""

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        project = PurePosixPath(folder.glob("meta.json")[0]).parent

        def dataset(name: str) -> str:
            above = PurePosixPath(name).parent.parent
            part = (above.relative_to(project) if above.is_relative_to(project) else above).as_posix()
            return "" if part == "." else part

        return grouped(folder.glob("ann/*.json"), dataset)

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        file = folder.glob("meta.json")[0]
        meta = folder.json(file)
        try:
            shapes = {str(entry["title"]): entry.get("shape") for entry in meta["classes"]}
        except (AttributeError, KeyError, TypeError):
            raise DataError(f"{folder.path / file}: has no list 'classes' of entries with a title") from None
        images = (_image(folder, name, shapes) for found in parts.values() for name in found)
        return Content.of_images(folder, images, list(shapes))


def _image(folder: Folder, name: str, shapes: Mapping[str, Any]) -> LabelledImage:
    content, place = folder.json(name), str(folder.path / name)
    try:
        size = (int(content["size"]["height"]), int(content["size"]["width"]))
        things = list(content["objects"])
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{place}: has no size (height, width) or no list 'objects'") from None
    near = str(PurePosixPath(name).parent.parent / "img")
    image = folder.expected_image(PurePosixPath(name).stem, near, name)
    if image in folder.images and not image.startswith(f"{near}/") and folder.has_below(near):
        raise DataError(f"{place}: there is no image of this name in '{near}'; '{image}' is of another dataset")
    found = [_object(entry, size, shapes, f"{place}, object {n}") for n, entry in enumerate(things, 1)]
    objects = [thing for thing in found if thing]
    return LabelledImage(image, objects, size, ignored=len(found) - len(objects))


def _object(entry: Any, size: tuple[int, int], shapes: Mapping[str, Any], origin: str) -> LabelledObject | None:
    """An object; its shape is that of its class in files of 2018, which say none. None for what has no area."""
    label, kind = (entry.get("classTitle"), entry.get("geometryType")) if isinstance(entry, dict) else (None, None)
    if kind is None and isinstance(label, str):
        kind = shapes.get(label)
    if kind in IGNORED:
        return None
    if not isinstance(label, str):
        raise DataError(f"{origin}: has no classTitle")
    if kind in ("bitmap", "alpha_mask"):
        bitmap = entry.get("bitmap")
        if not isinstance(bitmap, dict):
            raise DataError(f"{origin}: has no bitmap; expected a mapping with origin and data")
        x, y = map(int, numbers(bitmap.get("origin"), origin, "the origin of its bitmap", 2))
        patch = drawn(embedded_image(str(bitmap.get("data")), origin, compressed=True))
        return LabelledObject(label, None, placed(patch, x, y, size, origin), origin)
    given = entry.get("points")
    outer, inner = (given.get("exterior"), given.get("interior")) if isinstance(given, dict) else (given, None)
    if kind in ("rectangle", "oriented_bbox"):
        corners = numbers(outer, origin, "its pair of corners", 4).reshape(2, 2)
        box = [*corners.min(0).tolist(), *(corners.max(0) + 1).tolist()]
        if kind == "oriented_bbox":
            degrees = math.degrees(rotation_of(entry.get("angle"), origin))  # clockwise
            box = extent(turned(rectangle(box), degrees, rectangle(box).mean(0)))
        return LabelledObject(label, box, None, origin, turned=kind == "oriented_bbox")
    if kind == "polygon":
        outline = points(outer, origin)
        if not inner:
            return LabelledObject(label, None, [outline], origin)
        if not isinstance(inner, list):
            raise DataError(f"{origin}: interior is {str(inner)[:60]}; expected a list of holes")
        holes = [points(hole, origin) for hole in inner]
        mask = covered([outline], size, origin) & ~covered(holes, size, origin)
        return LabelledObject(label, extent(outline), mask, origin)
    raise DataError(f"{origin}: the geometryType is {kind!r}; expected bitmap, polygon, rectangle or oriented_bbox")
