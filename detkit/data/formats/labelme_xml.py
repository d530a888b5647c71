"""LabelMeXmlDataset: one XML an image, as LabelMe's web tool and CVAT write it."""

import contextlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

from detkit.data.formats.content import Content, LabelledImage, LabelledObject
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder
from detkit.data.formats.parts import by_part
from detkit.data.formats.shapes import drawn, extent, is_line, points
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError


@DATASETS.register()
class LabelMeXmlDataset(FormatDataset):
    """The XML of LabelMe's web tool (Russell et al. 2008), which CVAT calls LabelMe 3.0: polygons, boxes, masks.

    Deleted objects are left out, and so are those without a class or with fewer than three points. A part of another
    object is an object. Classes are the labels, sorted. Options are those of ``FormatDataset``.
    """

    key = "labelme_xml"
    format = "LabelMe XML"

    @classmethod
    def recognise(cls, folder: Folder) -> str | None:
        heads = _heads(folder)
        return f"{len(heads)} XML files" if any(map(is_labelme_xml, heads.values())) else None

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        return by_part(_heads(folder), own_name=False)

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        roots = ((name, folder.xml(name)) for names in parts.values() for name in names)
        images = [_image(folder, name, root) for name, root in roots if root.tag == "annotation"]
        return Content.of_images(folder, images, None)


def _heads(folder: Folder) -> dict[str, str]:
    """The files of an image and how they begin; one without objects may not say whose it is."""
    heads = {name: folder.head(name) for name in folder.candidates("*.xml")}
    return {name: head for name, head in heads.items() if "<annotation" in head and "<annotations" not in head}


def is_labelme_xml(head: str) -> bool:
    """Whether an XML file begins as LabelMe's; Pascal VOC's has the same root and objects."""
    words = ("<sourceAnnotation", "<imagesize>", "<pt>")
    others = ("<annotations", "<bndbox>")
    return "<annotation" in head and any(map(head.__contains__, words)) and not any(map(head.__contains__, others))


def _image(folder: Folder, name: str, root: Element) -> LabelledImage:
    near, (above, written) = str(PurePosixPath(name).parent), (_text(root, key) for key in ("folder", "filename"))
    image = None
    with contextlib.suppress(DataError):
        image = folder.image(f"{above}/{written}" if above else written, near, name)
    # an image that was converted since has another suffix
    image = image or folder.image_of_stem(PurePosixPath(written).stem, beside=name)
    image = image or folder.expected_image(written, near, name)
    things = [thing for thing in root.findall("object") if _text(thing, "deleted") != "1"]
    found = [_object(folder, thing, near, f"{folder.path / name}, object {n}") for n, thing in enumerate(things, 1)]
    objects = [thing for thing in found if thing]
    return LabelledImage(image, objects, ignored=len(found) - len(objects))


def _object(folder: Folder, thing: Element, near: str, origin: str) -> LabelledObject | None:
    label, mask = _text(thing, "name"), _text(thing, "segm/mask")
    outline = [[point.findtext(axis) for axis in "xy"] for point in thing.findall("polygon/pt")]
    if not label or (not mask and is_line(outline)):
        return None
    if mask:
        file = folder.image(mask, [f"{near}/Masks", near.replace("Annotations", "Masks"), near], origin)
        return LabelledObject(label, None, drawn(folder.mask(file)), origin)
    corners = points(outline, origin)
    if _text(thing, "type") == "bounding_box":
        return LabelledObject(label, extent(corners), None, origin)
    return LabelledObject(label, None, [corners], origin)


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
