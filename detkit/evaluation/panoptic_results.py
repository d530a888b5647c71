"""Panoptic maps as COCO has them: a JSON, and an image of ids for each image."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

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
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, image_id: int | str, image: EncodedPanoptic | Panoptic, **more: Any) -> None:
        """The map of an image; ``more`` are further keys of its entry."""
        if isinstance(image, Panoptic):
            image = encoded(image, self.categories)
        stem = f"{image_id:012d}" if isinstance(image_id, int) else file_stem(image_id)
        path = self._free(self.folder / f"{stem}.png")
        with naming_file(path), atomic_write(path) as file:
            file.write(image.png)
        self._entries.append({"image_id": image_id, "file_name": path.name, "segments_info": image.segments, **more})

    def close(self) -> None:
        """Writes the JSON: ``annotations`` and ``categories``."""
        with atomic_write(self.json_file, "w") as file:
            json.dump({"annotations": self._entries, "categories": list(self.categories.values())}, file)
