"""A small sound experiment on files: 12 training and 4 test images of noise, two classes, polygons and RLE."""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from PIL import Image

from detkit.doctor import CheckContext, run_checks
from detkit.experiment import load_experiment

ROOT = Path(__file__).resolve().parents[2]
SIDE = 64


def sound(first_id: int, num_images: int) -> dict:
    """Two objects an image, one of each class: a triangle as polygon, and a square as RLE."""
    images, annotations = [], []
    for i in range(first_id, first_id + num_images):
        images.append({"id": i, "file_name": f"{i}.png", "height": SIDE, "width": SIDE})
        x, y, side = 2 + i, 3, 20 + i % 5
        square = np.zeros((SIDE, SIDE), np.uint8, order="F")
        square[40:60, 30:54] = 1
        rle = coco_mask.encode(square)
        entry = {"image_id": i, "iscrowd": 0}
        triangle = [[x, y, x + side, y, x, y + side]]
        annotations += [
            {"id": 10 * i, "category_id": 1, "bbox": [x, y, side, side], "segmentation": triangle, **entry},
            {
                "id": 10 * i + 1,
                "category_id": 2,
                "bbox": [30, 40, 24, 20],
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                **entry,
            },
        ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


class Files:
    """The experiment's files, which a test may spoil."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.train, self.test = sound(1, 12), sound(21, 4)
        for content in (self.train, self.test):
            for image in content["images"]:
                rng = np.random.default_rng(image["id"])
                pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
                Image.fromarray(pixels).save(folder / image["file_name"])

    def experiment(self, *overrides: str):
        """Written and loaded."""
        datasets = []
        for name in ("train", "test"):
            path = self.folder / f"{name}.json"
            path.write_text(json.dumps(getattr(self, name)))
            node = f"{{name: CocoInstances, json_file: {path}, image_root: {self.folder}}}"
            datasets.append(f"data.{name}_dataset={node}")
        small = ["model.backbone.width=8", "model.neck.out_channels=16", "model.roi_heads.box_head.fc_dims=[16]"]
        out = f"train.output_dir={self.folder}/run"
        config = ROOT / "configs/quick_start/mask_rcnn_shapes.yaml"
        return load_experiment(config, [*datasets, *small, out, *overrides])

    def findings(self, *overrides: str, model: bool = False, **options):
        """What the doctor finds; without a model unless the test is about it."""
        context = CheckContext(self.experiment(*overrides), **options).load_data()
        return run_checks(context.build_model() if model else context)


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path)
