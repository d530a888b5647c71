"""Real datasets are the same in the folders of every tool: images, classes, boxes and masks."""

import os
from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from rewritten_folders import KINDS, parts_of, rewrite, share

from detkit.data import open_dataset

SHARED = Path(os.environ.get("DETKIT_SHARED", Path(__file__).resolve().parents[4] / "shared")) / "data"
SETS = {"nuclei": 0.99, "balloon": 0.97, "bccd": None}
"""And the IoU of each mask at least; VOC has one object a pixel, and LabelMe and others one outline a mask."""


def raster(row, size):
    mask = row["segmentation"]
    return coco_mask.merge(coco_mask.frPyObjects(mask, *size)) if isinstance(mask, list) else mask


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no data at {SHARED}; set DETKIT_SHARED to the folder that holds data")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SETS)
def test_a_dataset_is_the_same_in_every_tools_folder(name, kind, tmp_path):
    parts = {part: share(dataset, 3) for part, dataset in parts_of(SHARED / name).items()}
    rewrite(parts, tmp_path / kind, kind)
    assert len(open_dataset(tmp_path / kind)) == 6
    for part, dataset in parts.items():
        back = open_dataset(tmp_path / kind, split=part)
        parents = ("things",) if kind == "roboflow_coco" else ()
        assert back.class_names == parents + dataset.class_names
        stems = [Path(d.image_path(i)).stem for d in (dataset, back) for i in range(3)]
        assert stems[:3] == stems[3:]
        rows, own = (d.coco()["annotations"] for d in (back, dataset))
        assert len(rows) == len(own)
        for i in range(3):
            size = dataset.image_size(i)
            ours, theirs = back[i], dataset[i]
            np.testing.assert_array_equal(ours.image, theirs.image)
            np.testing.assert_array_equal(ours.classes - len(parents), theirs.classes)
            exact = 0.01 if "masks" not in theirs.objects else 1.0  # outlines have boxes of their own
            np.testing.assert_allclose(ours.boxes.tensor, theirs.boxes.tensor, atol=exact)
            for got, row in zip(rows[: len(theirs.boxes)], own[: len(theirs.boxes)]):
                if SETS[name] is not None and (kind != "voc" or name == "nuclei"):
                    iou = coco_mask.iou([raster(got, size)], [raster(row, size)], [0]).item()
                    assert iou >= SETS[name]
            rows, own = rows[len(theirs.boxes) :], own[len(theirs.boxes) :]
