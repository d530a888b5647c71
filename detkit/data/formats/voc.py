"""VocDataset: Pascal VOC's folders, boxes in XML and instance masks in PNG."""

import dataclasses
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from detkit.data.formats.content import Content, LabelledImage, LabelledObject, lines_of, values_of
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder
from detkit.data.formats.labelme_xml import is_labelme_xml
from detkit.data.formats.parts import by_part, without_val
from detkit.data.formats.shapes import points
from detkit.data.image_files import IMAGE_SUFFIXES
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError
from detkit.utils.words import amount

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""Of VOC 2007 to 2012, in their order; taken where a VOCdevkit has no other labels and no list of its classes."""
VOID = 255
VOID_COLOUR = (224, 224, 192)
"""Of the same in VOC's palette, where a mask was saved as colours."""
CHANNELS = (1 << 16, 1 << 8, 1)
COLUMNS = re.compile(r"(\S.*?)(\s+-?\d+)?\s+-?\d+")
"""A name and one or two whole numbers. Names may have spaces and end in a number themselves."""
FIX = "expected xmin, ymin, xmax and ymax as numbers"


@DATASETS.register()
class VocDataset(FormatDataset):
    """Pascal VOC (Everingham et al. 2010): ``Annotations/*.xml``, and ``SegmentationObject`` with ``-Class`` for masks.

    Pixels count from 1 and corners are inclusive, so ``xmin 1, xmax 500`` covers an image of 500. Masks may be
    palettes, or RGB with a ``labelmap.txt`` (CVAT), or outlines in the XML (Roboflow). Parts are the lists of
    ``ImageSets``, or told by folders (Roboflow). Options are those of ``FormatDataset``.
    """

    key = "voc"
    format = "Pascal VOC"

    @classmethod
    def recognise(cls, folder: Folder) -> str | None:
        masks = folder.glob("SegmentationObject/*.png")
        heads = ((name, folder.head(name)) for name in folder.candidates("*.xml"))
        xml = next((name for name, head in heads if "<annotation" in head and not is_labelme_xml(head)), None)
        if (xml is None and not masks) or (xml is not None and "<annotations" in folder.head(xml)):
            return None
        found = len([n for n in folder.files if n.endswith(".xml")])
        return f"{found} XML files" + (f", {len(masks)} instance masks" if masks else "")

    @classmethod
    def hint(cls, folder: Folder) -> str:
        found = folder.glob("SegmentationClass/*.png")
        return f"{found[0]} tells no objects apart; masks of objects are in SegmentationObject. " if found else ""

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        lists: dict[str, list[str]] = {}
        files = (name for name in folder.files if name.endswith(".xml") or name in folder.images)
        known = {re.sub(r"(Annotations|JPEGImages|images)/|\.[^./]*$", "", name) for name in files}
        stems = {PurePosixPath(name).name for name in known}
        for name in folder.glob("ImageSets/*/*.txt"):
            path = PurePosixPath(name)
            lines = [_stem(line, path.parents[2], known, stems) for _, line in lines_of(folder.text(name))]
            if not _has_columns(lines, stems):
                lists.setdefault(path.stem, []).extend(lines)
        return without_val(lists) or by_part(_stems(folder), own_name=False)

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        labels = _label_map(folder)
        colours = {colour: label for label, colour in labels.items() if colour} or None
        listed = _listed_classes(folder, labels)
        images = [_image(folder, stem, colours, listed) for stems in parts.values() for stem in dict.fromkeys(stems)]
        if listed is None and folder.glob("ImageSets/*/*.txt"):
            seen = list(dict.fromkeys(thing.label for image in images for thing in image.objects))
            listed = list(CLASSES) if {*seen} <= {*CLASSES} else None
        return Content.of_images(folder, images, listed, _notes(folder, cls.parts(folder)))


def _notes(folder: Folder, parts: Mapping[str, Any]) -> list[str]:
    """Says which XML is of no image of a list."""
    if not folder.glob("ImageSets/*/*.txt"):
        return []
    listed = {_xml_of(folder, stem) for stems in parts.values() for stem in stems}
    others = [name for name in folder.files if name.endswith(".xml") and name not in listed]
    if not others:
        return []
    return [f"{amount(len(others), 'XML file')} left out, such as {others[0]}: no list of ImageSets names the image"]


def _has_columns(lines: Sequence[str], stems: Container[str]) -> bool:
    """Whether a list says more than names: 1, 0 or -1 of one class, or also a person's number (Layout, Action)."""
    rows = [COLUMNS.fullmatch(line) for line in lines]
    if not all(rows) or any(PurePosixPath(line).name in stems for line in lines):
        return False
    return any(PurePosixPath(name).name in stems for row in rows if row for name in (row[1], row[1] + (row[2] or "")))


def _stem(line: str, root: PurePosixPath, known: Container[str], stems: Container[str]) -> str:
    """The name in a list below ``root``, without what some tools write: quotes, folders, the suffix of an image."""
    path = PurePosixPath(re.sub(r'^"(.*)"', r"\1", line).replace("\\", "/"))
    if path.suffix.lower() in IMAGE_SUFFIXES and path.name not in stems:
        path = path.with_suffix("")
    ends = (PurePosixPath(*path.parts[start:]) for start in range(len(path.parts)))
    names = (str(name) for end in ends for name in (root / end, end))
    return next((name for name in names if name in known), str(path))


def _stems(folder: Folder) -> list[str]:
    pattern = re.compile(r"(?:.*/)?(?:Annotations/.*\.xml|SegmentationObject/.*\.png)")
    found = sorted(filter(pattern.fullmatch, folder.files), key=lambda name: name.endswith(".png"))
    names = found or folder.glob("*.xml")
    return list(dict.fromkeys(re.sub(r"(Annotations|SegmentationObject)/|\.[^./]*$", "", name) for name in names))


def _xml_of(folder: Folder, stem: str) -> str | None:
    """The XML of an image, which some lay beside the images."""
    return _file(folder, stem, ("Annotations", "JPEGImages"), ".xml")


def _file(folder: Folder, stem: str, bases: Sequence[str], suffix: str) -> str | None:
    """The file of an image in one of the folders, or anywhere; ``stem`` may have folders above or below that one."""
    path = PurePosixPath(stem)
    ends = [f"{stem}{suffix}"]
    for name in bases:
        ends += [f"{path.parent}/{name}/{path.name}{suffix}", f"{name}/{stem}{suffix}"]
    exact = next((end for end in ends if end in folder.files), None)
    return exact or next(iter(folder.named(f"{path.parent.name or bases[0]}/{path.name}{suffix}")), None)


def _label_map(folder: Folder) -> dict[str, tuple[int, ...]]:
    """Label -> colour of a ``labelmap.txt``, which may be empty where only boxes were exported."""
    out: dict[str, tuple[int, ...]] = {}
    for name in folder.glob("labelmap.txt"):
        for number, line in lines_of(folder.text(name)):
            if line[0] == "#":
                continue
            label, _, rest = line.partition(":")
            colour = rest.split(":")[0]
            try:
                out[label] = tuple(int(v) for v in colour.split(",")) if colour else ()
            except ValueError:
                raise DataError(f"{folder.path / name}, line {number}: {line[:60]!r}; expected name:r,g,b::") from None
    return out


def _listed_classes(folder: Folder, labels: Mapping[str, tuple[int, ...]]) -> list[str] | None:
    if labels:
        classes = {name: any(colour) if colour else name != "background" for name, colour in labels.items()}
        return [name for name, is_class in classes.items() if is_class and labels[name] != VOID_COLOUR]
    for name in folder.candidates("class_names.txt", "classes.txt", "labels.txt"):
        lines = [line for _, line in lines_of(folder.text(name)) if line != "__ignore__"]
        background = next((i for i, line in enumerate(lines) if line.strip("_").lower() == "background"), len(lines))
        return lines[:background] + lines[background + 1 :]  # a second one is a class
    return None


def _place_in_palette(colour: int) -> tuple[int, int]:
    """Where a colour stands in VOC's palette, whose bits go round the three channels from the highest; others last."""
    index = sum((colour >> (16 - 8 * (bit % 3) + 7 - bit // 3) & 1) << bit for bit in range(24))
    return (index if index < 256 else 256, colour)


def _image(folder: Folder, stem: str, colours: Mapping[Any, str] | None, listed: list[str] | None) -> LabelledImage:
    image = folder.image_of_stem(PurePosixPath(stem).name, "JPEGImages", beside=stem)
    xml = _xml_of(folder, stem)
    root = None if xml is None else folder.xml(xml)
    written = "" if root is None else root.findtext("filename") or stem
    if image is None:
        origin = "a list of ImageSets" if xml is None else xml
        image = folder.expected_image(written or stem, str(PurePosixPath(stem).parent), origin)
    elif written:  # one of another suffix may lie beside
        same = str(PurePosixPath(image).with_suffix(PurePosixPath(written).suffix))
        image = same if same in folder.images else image
    given = [] if root is None else [root.findtext(f"size/{side}") or "" for side in ("height", "width")]
    size = (int(given[0]), int(given[1])) if all(side.isdecimal() and int(side) for side in given) and given else None
    objects = [] if root is None else list(_boxes(root, f"{folder.path / str(xml)}"))
    if name := _file(folder, stem, ("SegmentationObject",), ".png"):
        objects = _with_masks(folder, name, objects, colours, listed) if "SegmentationObject" in name else objects
    return LabelledImage(image, objects, size)


def _boxes(root: Element, place: str) -> Iterator[LabelledObject]:
    for number, thing in enumerate(root.findall("object"), 1):
        label, box = (thing.findtext("name") or "").strip(), thing.find("bndbox")
        origin = f"{place}, object {number}"
        if not label or box is None:
            raise DataError(f"{origin}: has no {'bndbox' if label else 'name'}")
        try:
            x1, y1, x2, y2 = (float(box.findtext(key) or "") for key in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError:
            raise DataError(f"{origin}: its bndbox is not four numbers; {FIX}") from None
        if not (x2 >= x1 and y2 >= y1):
            raise DataError(
                f"{origin}: its bndbox {x1:g}, {y1:g}, {x2:g}, {y2:g} has no area; {FIX}, the smaller first"
            )
        yield LabelledObject(label, (x1 - 1, y1 - 1, x2, y2), _outline(thing, origin), origin)


def _outline(thing: Element, origin: str) -> list[list[float]] | None:
    """The outline that Roboflow writes beside the box: ``<x1>``, ``<y1>``, ``<x2>`` and so on, which count from 0."""
    values = {child.tag: child.text for child in thing.findall("polygon/*")}
    numbered = range(1, len(values) // 2 + 1)
    return [points([[values.get(f"{axis}{n}") for axis in "xy"] for n in numbered], origin)] if "x1" in values else None


def _with_masks(
    folder: Folder,
    name: str,
    boxes: list[LabelledObject],
    colours: Mapping[Any, str] | None,
    listed: list[str] | None,
) -> list[LabelledObject]:
    """The objects of an instance mask: those of the XML in their order, or one a value or colour and other boxes."""
    place = str(folder.path / name)
    ids, numbers = _numbered_objects(folder.mask(name), place)
    class_file = name.replace("SegmentationObject", "SegmentationClass")
    if boxes and max(numbers.values(), default=0) <= len(boxes):
        in_order = all(_is_in(ids == value, boxes[number - 1].box) for value, number in numbers.items())
        if in_order or class_file not in folder.files:  # a tool may write other objects as masks than as boxes
            for value, number in numbers.items():
                boxes[number - 1] = dataclasses.replace(boxes[number - 1], mask=ids == value)
            return boxes
    if class_file not in folder.files:
        raise DataError(f"{place}: there is no {class_file}, which would say the classes of its objects")
    classes, out = folder.mask(class_file), []
    if classes.shape[:2] != ids.shape:
        raise DataError(f"{place}: is of another size than {class_file}")
    for number, value in enumerate(numbers, 1):
        mask, origin = ids == value, f"{place}, object {number}"
        values, counts = np.unique(classes[mask].reshape(mask.sum(), -1), axis=0, return_counts=True)
        most_frequent = tuple(values[counts.argmax()].tolist())
        if (label := _label(most_frequent, colours, listed)) is None:
            raise DataError(f"{origin}: {class_file} says {most_frequent}, which is no class")
        own = next((thing for thing in boxes if thing.label == label and _is_in(mask, thing.box)), None)
        boxes = [thing for thing in boxes if thing is not own]
        out.append(LabelledObject(label, None if own is None else own.box, mask, origin))
    return [*boxes, *out]


def _is_in(mask: np.ndarray, box: Sequence[float] | None) -> bool:
    """Whether most of a mask lies in a box."""
    rows, columns = np.nonzero(mask)
    x1, y1, x2, y2 = box or (0, 0, 0, 0)
    return float(np.mean((rows + 0.5 > y1) & (rows + 0.5 < y2) & (columns + 0.5 > x1) & (columns + 0.5 < x2))) > 0.5


def _numbered_objects(mask: np.ndarray, place: str) -> tuple[np.ndarray, dict[int, int]]:
    """``(H, W)`` values or colours of an instance mask; and those of objects, with the number of each in the XML."""
    if mask.ndim == 2:
        others = (0, VOID) if mask.dtype == np.uint8 else (0,)  # more objects than a byte counts have no void
        return mask, {value: value for value in values_of(mask, place) if value not in others}
    colours, others = mask[..., :3].astype(np.int64) @ np.array(CHANNELS), (0, int(np.dot(VOID_COLOUR, CHANNELS)))
    places = {colour: _place_in_palette(colour) for colour in values_of(colours, place) if colour not in others}
    return colours, {colour: places[colour][0] for colour in sorted(places, key=places.__getitem__)}


def _label(value: tuple[int, ...], colours: Mapping[Any, str] | None, listed: list[str] | None) -> str | None:
    """The class of a value, of one channel or more, in a mask of classes; None where it is of none."""
    if colours is not None and len(value) >= 3:
        return colours.get(value[:3])
    index = value[0] if len(value) == 1 else _place_in_palette(int(np.dot(value[:3], CHANNELS)))[0]
    names = listed or CLASSES
    return names[index - 1] if 1 <= index <= len(names) else None
