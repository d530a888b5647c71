"""CocoPanopticFolder: COCO panoptic's JSON with its PNGs of segment ids."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

import msgspec
import numpy as np
import pycocotools.mask as coco_mask

from detkit.data.datasets.rows import ImageRow
from detkit.data.formats.coco_folder import CocoFolder, distinct, joined
from detkit.data.formats.content import Content
from detkit.data.formats.files import Folder
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError


@DATASETS.register()
class CocoPanopticFolder(CocoFolder):
    """COCO panoptic (Kirillov et al. 2019): the things of a JSON with a folder of PNGs of segment ids.

    Classes are the things. Options are those of ``FormatDataset``.
    """

    key = "coco_panoptic"
    format = "COCO panoptic"

    @classmethod
    def matches(cls, head: str) -> bool:
        return '"segments_info"' in head and '"categories"' in head

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        return joined(distinct(parts, lambda name: _panoptic(folder, name)))


class _Segment(msgspec.Struct, gc=False):
    id: int
    category_id: int
    iscrowd: Literal[0, 1] = 0


class _SegmentedImage(msgspec.Struct, gc=False):
    image_id: int | str
    file_name: str
    segments_info: list[_Segment]


class _PanopticImage(msgspec.Struct, gc=False):
    id: int | str
    file_name: str
    height: int
    width: int


class _PanopticCategory(msgspec.Struct, gc=False):
    id: int
    name: str
    isthing: int = 0


class _PanopticFile(msgspec.Struct):
    images: list[_PanopticImage]
    annotations: list[_SegmentedImage]
    categories: list[_PanopticCategory]


def _panoptic(folder: Folder, name: str) -> Content:
    place = str(folder.path / name)
    try:
        file = msgspec.convert(folder.json(name), _PanopticFile)
    except msgspec.ValidationError as error:
        raise DataError(f"{place}: is not COCO panoptic ({error})") from None
    things = {category.id: category.name for category in file.categories if category.isthing}
    found = {entry.image_id: entry for entry in file.annotations}
    rows: list[dict[str, Any]] = []
    out = []
    masks = {path for path in folder.images if PurePosixPath(path).parent.name == PurePosixPath(name).stem}
    for image in file.images:
        named = [path for path in folder.images_named(PurePosixPath(image.file_name).name) if path not in masks]
        path = named[0] if len(named) == 1 else folder.image(image.file_name, origin=name)
        out.append(ImageRow(image.id, path, image.height, image.width))
        if (entry := found.get(image.id)) is None:
            continue
        stem = PurePosixPath(entry.file_name).name
        pngs = [other for other in folder.images_named(stem) if other != path]
        if not pngs:
            raise DataError(f"{place}: image {image.id}: there is no '{stem}', which holds its segments")
        colours = folder.mask(pngs[0]).astype(np.int64)
        if colours.ndim != 3:
            raise DataError(f"{folder.path / pngs[0]}: has one channel; expected RGB, id = R + 256 G + 65536 B")
        ids = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
        for segment in entry.segments_info:
            if segment.category_id in things:
                mask = ids == segment.id
                if not mask.any():
                    raise DataError(f"{place}: image {image.id}: segment {segment.id} has no pixel in {stem}")
                rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
                keys = {"image_id": image.id, "category_id": segment.category_id, "iscrowd": segment.iscrowd}
                rows.append({"id": len(rows) + 1, **keys, "bbox": coco_mask.toBbox(rle).tolist(), "segmentation": rle})
    return Content(out, rows, things)
