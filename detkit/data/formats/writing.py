"""Datasets written in another format."""

import functools
import os
from collections.abc import Mapping
from typing import Any

from detkit.data.datasets.table_dataset import TableDataset
from detkit.data.formats.writer_interfaces import LABEL_WRITERS, ImageLabels
from detkit.data.interfaces import NEGATIVE, NOT_EXHAUSTIVE
from detkit.data.paths import leaves_folder
from detkit.registry import DataError
from detkit.utils.progress import watched


def write_dataset(datasets: Mapping[str, TableDataset], folder: str | os.PathLike[str], to: str) -> list[str]:
    """Writes the parts of a dataset, images and labels, into a folder.

    Args:
        datasets: name of each part, such as ``train``, and its images.
        folder: a folder that is empty or not there.
        to: the ``key`` of one of ``LABEL_WRITERS``.

    Returns:
        What the format cannot hold and was left out, in words.

    Raises:
        ConfigError: there is no such format.
        DataError: the folder holds something, the parts have different classes, or a part's name, which the data may
            say, would lead out of the folder.
    """
    kind = LABEL_WRITERS.with_key(to, "to")
    classes = {part: dataset.class_names for part, dataset in datasets.items()}
    if len(set(classes.values())) > 1:
        raise DataError(f"the parts have different classes: {classes}; give class_names")
    if outside := [part for part in datasets if leaves_folder(os.fspath(folder), part)]:
        raise DataError(f"the name of the part '{outside[0][:200]}' leads out of {folder}; correct it in the data")
    contents = {part: dataset.coco() for part, dataset in datasets.items()}
    categories = next(iter(contents.values()))["categories"]
    with kind(folder, categories) as writer:
        for part, content in contents.items():
            ids = {own["id"]: first["id"] for own, first in zip(content["categories"], categories)}
            rows: dict[Any, list[dict[str, Any]]] = {}
            for row in content["annotations"]:
                rows.setdefault(row["image_id"], []).append({**row, "category_id": ids[row["category_id"]]})
            if datasets[part].semantic_names:
                writer.lost["maps of stuff left out"] += len(datasets[part])
            dataset, names = datasets[part], [image["file_name"] for image in content["images"]]
            above = len(os.path.commonpath([os.path.dirname(name) for name in names] or [""]))  # such as train/
            for i, image in watched(enumerate(content["images"]), f"{part}: images", total=len(dataset)):
                labels = ImageLabels(
                    names[i][above:].lstrip("/"),
                    (image["height"], image["width"]),
                    rows.get(image["id"], ()),
                    file=dataset.image_path(i),
                    pixels=functools.partial(dataset.read_image, i),
                    reading=dataset.reading,
                    id=image["id"],
                    extras={
                        k: [ids[c] for c in image[k] if c in ids] for k in (NEGATIVE, NOT_EXHAUSTIVE) if k in image
                    },
                )
                writer.add(part, labels)
    return [f"{count} {words}" for words, count in writer.lost.items() if count]
