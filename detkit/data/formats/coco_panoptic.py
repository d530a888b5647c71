"""CocoPanoptic and CocoPanopticFolder: COCO panoptic's JSON with its PNGs of segment ids."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np
import pycocotools.mask as coco_mask

from detkit.config import CountOrZero, FilePath
from detkit.data.datasets.coco import CocoInstances
from detkit.data.datasets.row_masks import InvalidMasks
from detkit.data.datasets.row_reader import InvalidBoxes
from detkit.data.datasets.rows import ImageRow
from detkit.data.formats.coco_folder import CocoFolder
from detkit.data.formats.coco_parts import distinct, joined, near_file
from detkit.data.formats.content import Content
from detkit.data.formats.files import Folder
from detkit.data.formats.parts import part_of
from detkit.data.formats.segment_files import LabelledSegment, SegmentedImage, SegmentFile, SegmentFiles, segment_ids
from detkit.data.images import DEFAULT_READING, ImageReading
from detkit.data.interfaces import DATASETS
from detkit.data.paths import data_path
from detkit.registry import DataError
from detkit.structures import Panoptic


@DATASETS.register()
class CocoPanopticFolder(CocoFolder):
    """COCO panoptic (Kirillov et al. 2019): a JSON with a folder of PNGs of segment ids.

    Classes are the things; records have a semantic map of all things together and of the stuff. Options are those of
    ``FormatDataset``.
    """

    key = "coco_panoptic"
    format = "COCO panoptic"

    @classmethod
    def matches(cls, head: str) -> bool:
        return '"segments_info"' in head and '"categories"' in head

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        return joined(distinct(parts, lambda name: _panoptic(folder, name)))


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
    annotations: list[SegmentedImage]
    categories: list[_PanopticCategory]


def _read(place: str) -> _PanopticFile:
    try:
        return msgspec.json.decode(Path(place).read_bytes(), type=_PanopticFile)
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error.strerror})") from None
    except msgspec.DecodeError as error:  # of what is no JSON, too
        raise DataError(f"{place}: is not COCO panoptic ({error})") from None


def _segments(entry: SegmentedImage, categories: Mapping[int, _PanopticCategory], place: str) -> list[LabelledSegment]:
    """The segments of an image. Raises DataError for a category that is none."""
    found = []
    for segment in entry.segments_info:
        if (category := categories.get(segment.category_id)) is None:
            what = f"segment {segment.id} of image {entry.image_id} has category {segment.category_id}"
            raise DataError(f"{place}: {what}, which is not among the categories")
        found.append(LabelledSegment(segment.id, category.name, bool(category.isthing), bool(segment.iscrowd)))
    return found


def _photograph(folder: Folder, file_name: str, near: Sequence[str], name: str) -> str:
    """The image of a name that is none of the PNGs of segments, which lie in a folder that is named as their JSON.

    Args:
        folder: the data's folder.
        file_name: the image's, as the JSON says it.
        near: the folders where it is looked for first.
        name: the JSON.
    """
    for where in near:
        if (path := os.path.normpath(f"{where}/{file_name}")) in folder.images:
            return path
    named = folder.images_named(PurePosixPath(file_name).name)
    named = [path for path in named if PurePosixPath(path).parent.name != PurePosixPath(name).stem]
    named = folder.of_own_part(named, part_of(name))
    return named[0] if len(named) == 1 else folder.image(file_name, near, name)


def _panoptic(folder: Folder, name: str) -> Content:
    place = str(folder.path / name)
    file = _read(place)
    categories = {category.id: category for category in file.categories}
    numbers = {category.name: category.id for category in file.categories if category.isthing}
    found = {entry.image_id: entry for entry in file.annotations}
    rows: list[dict[str, Any]] = []
    out, files, near = [], dict[str, SegmentFile](), near_file(folder, name)
    for image in file.images:
        path = _photograph(folder, image.file_name, near, name)
        out.append(ImageRow(image.id, path, image.height, image.width))
        if (entry := found.get(image.id)) is None:
            continue
        stem = PurePosixPath(entry.file_name).name
        pngs = folder.of_own_part([other for other in folder.images_named(stem) if other != path], part_of(name))
        pngs.sort(key=lambda other: PurePosixPath(other).parent.name != PurePosixPath(name).stem)
        if not pngs:
            raise DataError(f"{place}: image {image.id}: there is no '{stem}', which holds its segments")
        colours = folder.mask(pngs[0]).astype(np.int64)
        if colours.ndim != 3:
            raise DataError(f"{folder.path / pngs[0]}: has one channel; expected RGB, id = R + 256 G + 65536 B")
        ids = segment_ids(colours)
        files[path] = SegmentFile(pngs[0], _segments(entry, categories, place))
        for segment in files[path].segments:
            if segment.is_thing:
                mask = ids == segment.id
                if not mask.any():
                    raise DataError(f"{place}: image {image.id}: segment {segment.id} has no pixel in {stem}")
                rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
                keys = {"image_id": image.id, "category_id": numbers[segment.label], "iscrowd": int(segment.crowd)}
                rows.append({"id": len(rows) + 1, **keys, "bbox": coco_mask.toBbox(rle).tolist(), "segmentation": rle})
    things = {id_: name for name, id_ in numbers.items()}
    return Content(out, rows, things, segments=files, stuff=_stuff(file), place=place)


def _stuff(file: _PanopticFile) -> dict[int, str]:
    return {category.id: category.name for category in file.categories if not category.isthing}


@DATASETS.register()
class CocoPanoptic(CocoInstances):
    """COCO's instances with panoptic maps beside them: objects have their polygons, and stuff comes from the PNGs.

    Records have a semantic map: class 0 is all things together, then come the categories of stuff in the order of the
    file; what is in no segment is unknown. Classes and their order are those of the instances.

    Args:
        panoptic_json: COCO panoptic's JSON, of the same images.
        panoptic_root: the folder of its PNGs.
        json_file, image_root, class_names, keep_empty, keep_crowd: see ``CocoInstances``.
        invalid_boxes, invalid_masks, check_images, reading: see ``CocoInstances``.

    Raises:
        DataError: as ``CocoInstances`` does; or the panoptic JSON is none, or lacks an image.
    """

    def __init__(
        self,
        *,
        json_file: FilePath,
        image_root: FilePath,
        panoptic_json: FilePath,
        panoptic_root: FilePath,
        class_names: tuple[str, ...] | None = None,
        keep_empty: bool = True,
        keep_crowd: bool = True,
        invalid_boxes: InvalidBoxes = "drop",
        invalid_masks: InvalidMasks = "error",
        check_images: CountOrZero = 1000,
        reading: ImageReading = DEFAULT_READING,
    ):
        place = data_path(panoptic_json, "CocoPanoptic.panoptic_json", folder=False)
        root = data_path(panoptic_root, "CocoPanoptic.panoptic_root", folder=True)
        super().__init__(
            json_file=json_file,
            image_root=image_root,
            class_names=class_names,
            keep_empty=keep_empty,
            keep_crowd=keep_crowd,
            invalid_boxes=invalid_boxes,
            invalid_masks=invalid_masks,
            check_images=check_images,
            reading=reading,
        )
        file = _read(place)
        categories = {category.id: category for category in file.categories}
        entries = {entry.image_id: entry for entry in file.annotations}
        missing = [id_ for id_ in map(self.image_id, range(len(self))) if id_ not in entries]
        if missing:
            raise DataError(f"{place}: has no segments of image {missing[0]!r}, nor of {len(missing) - 1} others")
        found = (entries[self.image_id(index)] for index in range(len(self)))
        files = (SegmentFile(entry.file_name, _segments(entry, categories, place)) for entry in found)
        self._segments = SegmentFiles.of(root, files, self.class_names, _stuff(file).values())
        self.semantic_names, self.stuff_ids = self._segments.semantic_names, tuple(_stuff(file))

    def panoptic_map(self, index: int) -> Panoptic:
        return self._segments.panoptic_map(index, self.image_size(index))
