"""VocWriter: Pascal VOC, boxes in XML and masks in PNG."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pycocotools.mask as coco_mask
from PIL import Image

from detkit.data.formats.writer_interfaces import LABEL_WRITERS, ImageLabels, LabelWriter, write_text
from detkit.structures.rle import as_rle

XML = """<annotation>
  <filename>{name}</filename>
  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>
{objects}</annotation>
"""
OBJECT = """  <object>
    <name>{label}</name>
    <difficult>0</difficult>
    <bndbox><xmin>{x1:.8g}</xmin><ymin>{y1:.8g}</ymin><xmax>{x2:.8g}</xmax><ymax>{y2:.8g}</ymax></bndbox>
  </object>
"""


@LABEL_WRITERS.register()
class VocWriter(LabelWriter):
    """Pascal VOC: ``Annotations``, ``JPEGImages``, ``ImageSets`` and masks, in which a pixel is of one object."""

    key = "voc"
    image_folder = "JPEGImages"
    lists_names = True

    def begin(self) -> None:
        self._stems: dict[str, list[str]] = {}

    def add(self, part: str, image: ImageLabels) -> None:
        flat = dataclasses.replace(image, name=image.name.replace("/", "__"))
        self.write(part, self._copied("", flat), image)

    def write(self, part: str, name: str, image: ImageLabels) -> None:
        stem, objects, (height, width) = PurePosixPath(name).stem, self.objects(image, keeps_boxes=True), image.size
        self._stems.setdefault(part.replace("/", "__") or "default", []).append(stem)
        if any(row.get("segmentation") for row in objects):
            self._masks(stem, objects, image.size)
        text = "".join(self._object(row) for row in objects)
        xml = XML.format(name=escape(name), width=width, height=height, objects=text)
        write_text(self.root / f"Annotations/{stem}.xml", xml)

    def _object(self, row: Mapping[str, Any]) -> str:
        x, y, width, height = row["bbox"]
        return OBJECT.format(label=escape(self.label(row)), x1=x + 1, y1=y + 1, x2=x + width, y2=y + height)

    def _masks(self, stem: str, objects: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> None:
        """Writes the masks of an image; small objects lie over large ones."""
        deep = len(objects) > 254 or len(self.categories) > 254
        ids, classes = (np.zeros(size, np.uint16 if deep else np.uint8) for _ in range(2))
        masks = [_bitmap(row, size) for row in objects]
        for i in sorted(range(len(objects)), key=lambda i: -int(masks[i].sum())):
            self.lost["pixels of masks that lie under others"] += int((ids[masks[i]] > 0).sum())
            ids[masks[i]], classes[masks[i]] = i + 1, self.number[objects[i]["category_id"]] + 1
        for folder, values in (("SegmentationObject", ids), ("SegmentationClass", classes)):
            (self.root / folder).mkdir(exist_ok=True)
            image = Image.fromarray(values)
            if not deep:
                image.putpalette(_palette())
            image.save(self.root / folder / f"{stem}.png")

    def close(self) -> None:
        names = "".join(f"{name}\n" for name in ("__background__", *self.class_names))
        write_text(self.root / "class_names.txt", names)
        for part, stems in self._stems.items():
            write_text(self.root / f"ImageSets/Main/{part}.txt", "".join(f"{stem}\n" for stem in stems))


def _bitmap(row: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    mask = row.get("segmentation")
    return coco_mask.decode(as_rle(mask, size)).astype(bool) if mask else np.zeros(size, bool)


def _palette() -> list[int]:
    """VOC's colours: the bits of an index go round red, green and blue, the lowest first, into their highest bits."""
    return [
        sum((index >> (3 * place + channel) & 1) << (7 - place) for place in range(8))
        for index in range(256)
        for channel in range(3)
    ]
