"""Panoptic maps as COCO has them: a JSON, and an image of ids for each image."""

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from PIL import Image

from detkit.data.formats.segment_files import LabelledSegment, SegmentedImage, SegmentFile, SegmentFiles
from detkit.data.interfaces import Dataset
from detkit.evaluation.result_folder import PANOPTIC, write_list
from detkit.registry import DataError
from detkit.structures import Panoptic
from detkit.utils.file_names import FreeNames, file_stem
from detkit.utils.paths import atomic_write, naming_file

Categories = Mapping[tuple[bool, int], Mapping[str, Any]]
"""Whether a class is of things, and its number -> its entry in a file of COCO's."""


class EncodedPanoptic(NamedTuple):
    """The PNG of a map, whose ids are R + 256 G + 65536 B, and COCO's entries of its segments."""

    png: bytes
    segments: list[dict[str, Any]]


def categories_of(
    class_names: Sequence[str],
    category_ids: Sequence[int] | None,
    semantic_names: Sequence[str],
    stuff_ids: Sequence[int] = (),
) -> dict[tuple[bool, int], dict[str, Any]]:
    """The categories of segments; where ids are not known they go on from the largest that is.

    Args:
        class_names: the classes of things.
        category_ids: their ids; None: 1, 2, ...
        semantic_names: the classes of the semantic map, the first of all things.
        stuff_ids: the ids of the others.
    """
    ids = list(category_ids or range(1, len(class_names) + 1))
    stuff = list(stuff_ids or range(max(ids, default=0) + 1, max(ids, default=0) + len(semantic_names)))
    out = {(True, k): {"id": i, "name": n, "isthing": 1} for k, (i, n) in enumerate(zip(ids, class_names))}
    named = enumerate(zip(stuff, semantic_names[1:], strict=True), 1)
    return out | {(False, k): {"id": i, "name": n, "isthing": 0} for k, (i, n) in named}


def encoded(panoptic: Panoptic, categories: Categories) -> EncodedPanoptic:
    """A map as COCO's file has it."""
    ids = panoptic.ids.cpu().numpy()
    file = io.BytesIO()
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(colors).save(file, "PNG", compress_level=1)
    areas = np.bincount(ids.ravel(), minlength=max([0, *(s.id for s in panoptic.segments)]) + 1).tolist()
    segments = []
    for segment in panoptic.segments:
        category = categories[segment.is_thing, segment.class_index]
        entry = {"id": segment.id, "category_id": category["id"], "isthing": category["isthing"]}
        score = {} if segment.score is None else {"score": segment.score}
        segments.append({**entry, "area": areas[segment.id], "iscrowd": int(segment.crowd), **score})
    return EncodedPanoptic(file.getvalue(), segments)


class PanopticWriter:
    """Writes maps one by one; ``close`` writes the JSON, which lies beside the folder and is named after it.

    Args:
        folder: where the PNGs go.
        categories: see ``categories_of``.
    """

    def __init__(self, folder: Path, categories: Categories):
        self.folder, self.categories = folder, categories
        self.json_file = folder.with_name(f"{folder.name}.json")
        self._entries: list[dict[str, Any]] = []
        self._free = FreeNames()

    def write(self, image_id: int | str, image: EncodedPanoptic | Panoptic, stem: str | None = None) -> dict[str, Any]:
        """The map of an image as a PNG, called ``stem`` or after the id; the image's entry in the JSON."""
        if isinstance(image, Panoptic):
            image = encoded(image, self.categories)
        stem = stem or (f"{image_id:012d}" if isinstance(image_id, int) else file_stem(image_id))
        path = self._free(self.folder / f"{stem}.png")
        with naming_file(path), atomic_write(path) as file:
            file.write(image.png)
        return {"image_id": image_id, "file_name": path.name, "segments_info": image.segments}

    def add(self, image_id: int | str, image: EncodedPanoptic | Panoptic) -> None:
        """The map of an image, with an entry in the JSON."""
        self._entries.append(self.write(image_id, image))

    def close(self, entries: Iterable[dict[str, Any]] | None = None) -> None:
        """Writes the JSON: ``annotations``, of what was added or these ``entries``, and ``categories``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.json_file, "w") as file:
            file.write('{"annotations": [')
            write_list(file, self._entries if entries is None else entries)
            file.write(f'], "categories": {json.dumps(list(self.categories.values()))}}}')


class _Maps(msgspec.Struct):
    annotations: list[SegmentedImage]


def maps_file(path: str | os.PathLike[str]) -> Path | None:
    """The JSON of panoptic maps that a path is, or that is in a folder of ``detkit predict --results``; None: none."""
    path = Path(path)
    file = path / f"{PANOPTIC}.json" if path.is_dir() else path
    if not file.is_file() or (file == path and b'"segments_info"' not in path.read_bytes()):
        return None
    return file


def read_maps(file: Path, dataset: Dataset, categories: Categories) -> SegmentFiles:
    """The maps of all images of a dataset, from COCO's panoptic results: a JSON, and the PNGs in a folder of its name.

    Raises:
        DataError: the file cannot be read, lacks an image, or has a category that is not among ``categories``.
    """
    try:
        entries = {entry.image_id: entry for entry in msgspec.json.decode(file.read_bytes(), type=_Maps).annotations}
    except msgspec.DecodeError as error:
        raise DataError(f"{file}: is not COCO's panoptic results ({error})") from None
    kinds = {category["id"]: (category["name"], is_thing) for (is_thing, _), category in categories.items()}
    files = list[SegmentFile]()
    for image_id in map(dataset.image_id, range(len(dataset))):
        if image_id not in entries:
            raise DataError(f"{file}: has no map of image {image_id!r}; panoptic quality needs one of every image")
        segments = entries[image_id].segments_info
        other = next((s for s in segments if s.category_id not in kinds), None)
        if other is not None:
            raise DataError(
                f"{file}: segment {other.id} of image {image_id!r} has category {other.category_id}, which the test set"
                " has not; detkit predict --annotations FILE gives the ids of COCO panoptic's file"
            )
        labelled = [LabelledSegment(s.id, *kinds[s.category_id]) for s in segments]
        files.append(SegmentFile(entries[image_id].file_name, labelled))
    return SegmentFiles.of(str(file.with_suffix("")), files, dataset.class_names, dataset.semantic_names[1:])
