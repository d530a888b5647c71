"""A dataset's parts rewritten as folders that other tools export, for tests and trials.

``python tests/rewritten_folders.py ../shared/data/balloon roboflow_yolo /tmp/balloon`` writes one.
"""

import json
import shutil
import sys
from pathlib import Path

from detkit.data import TableDataset, open_dataset
from detkit.data.formats import LABEL_WRITERS
from detkit.data.formats.writing import write_dataset

WRITERS = LABEL_WRITERS.by_key()
ROBOFLOW_NAMES = {"train": "train", "val": "valid", "test": "test"}


def parts_of(source, val_fraction=0.2):
    """``{"train": dataset, "val": dataset}`` of a folder, divided where it has no parts."""
    whole = open_dataset(source)
    parts = {"train", "val"} & {*whole.splits} or {"train", "val"}
    fraction = None if whole.splits else val_fraction
    names = whole.class_names
    return {p: open_dataset(source, split=p, val_fraction=fraction, class_names=names) for p in sorted(parts)}


def share(dataset, number):
    """The first images of a dataset."""
    content = dataset.coco()
    images = content["images"][:number]
    kept = {image["id"] for image in images}
    rows = [row for row in content["annotations"] if row["image_id"] in kept]
    names = {category["id"]: category["name"] for category in content["categories"]}
    return TableDataset(images, rows, names, image_root=dataset.image_root, reading=dataset.reading)


def rewrite(parts, root, kind):
    """Writes the parts into ``root``, as one of ``KINDS``."""
    root = Path(root)
    write_dataset(parts, root, kind.removeprefix("roboflow_"))
    if kind == "roboflow_yolo":
        _as_roboflow_yolo(root, parts)
    elif kind == "roboflow_coco":
        _as_roboflow_coco(root, parts)
    return root


def _as_roboflow_yolo(root, parts):
    lines = [f"{part}: ../{ROBOFLOW_NAMES[part]}/images" for part in parts]
    names = list(next(iter(parts.values())).class_names)
    lines += [f"nc: {len(names)}", f"names: {json.dumps(names)}", "roboflow:", "  workspace: w", "  version: 1"]
    (root / "data.yaml").write_text("\n".join(lines))
    for part in parts:
        (root / ROBOFLOW_NAMES[part]).mkdir()
        for kind in ("images", "labels"):
            (root / kind / part).rename(root / ROBOFLOW_NAMES[part] / kind)
    for kind in ("images", "labels"):
        (root / kind).rmdir()


def _as_roboflow_coco(root, parts):
    """Ids begin from 1 again in each part, and the first category is one that stands above the others."""
    for part in parts:
        folder = root / ROBOFLOW_NAMES[part]
        (root / "images" / part).rename(folder)
        content = json.loads((root / f"annotations/instances_{part}.json").read_text())
        images = {image["id"]: n for n, image in enumerate(content["images"])}
        classes = {category["id"]: n for n, category in enumerate(content["categories"], 1)}
        content["categories"] = [
            {"id": 0, "name": "things", "supercategory": "none"},
            *({"id": classes[c["id"]], "name": c["name"], "supercategory": "things"} for c in content["categories"]),
        ]
        for image in content["images"]:
            image["id"] = images[image["id"]]
        for number, row in enumerate(content["annotations"]):
            new = {"id": number, "image_id": images[row["image_id"]], "category_id": classes[row["category_id"]]}
            row.update(new, segmentation=row.get("segmentation", []))
        (folder / "_annotations.coco.json").write_text(json.dumps(content))
    shutil.rmtree(root / "annotations")
    (root / "images").rmdir()


KINDS = (*WRITERS, "roboflow_yolo", "roboflow_coco")

if __name__ == "__main__":
    source, kind, target = sys.argv[1:]
    rewrite(parts_of(source), target, kind)
