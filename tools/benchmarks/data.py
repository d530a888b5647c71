"""loading: from files to augmented training samples, in one process; and opening a set of COCO's size"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import v2

from benchmarks.coco_sized import opened
from benchmarks.options import DataOptions
from benchmarks.report import Report, Row
from benchmarks.timing import Candidate, measure
from detkit.data import CocoInstances, Mapper, RandomFlip, ResizeShortestEdge

SHORT_EDGES = tuple(range(640, 801, 32))
MAX_SIZE = 1333


def make_set(folder: Path, images: int) -> tuple[Path, Path]:
    """JPEG files of 480 x 640 with smooth noise and 7 polygons each; the JSON and the folder of images."""
    rng, angle = np.random.default_rng(0), np.linspace(0, 2 * np.pi, 24, endpoint=False)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "blob"}]}
    for i in range(1, images + 1):
        coarse = Image.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=90)
        content["images"].append({"id": i, "file_name": f"{i}.jpg", "height": 480, "width": 640})
        for _ in range(7):
            x, y, r = rng.uniform(70, 570), rng.uniform(70, 410), rng.uniform(5, 60)
            points = np.stack([x + r * np.cos(angle), y + r * np.sin(angle)], 1).round(2)
            base = {"id": len(content["annotations"]) + 1, "image_id": i, "category_id": 1, "iscrowd": 0}
            box = [round(x - r, 2), round(y - r, 2), round(2 * r, 2), round(2 * r, 2)]
            content["annotations"].append(
                {**base, "bbox": box, "area": 3 * r * r, "segmentation": [points.reshape(-1).tolist()]}
            )
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path, folder


def reference(json_file: Path, image_root: Path, images: int) -> Callable[[], None]:
    """torchvision's reference pipeline: its COCO dataset (Pillow) and v2 transforms."""
    transforms = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomShortestSize(min_size=list(SHORT_EDGES), max_size=MAX_SIZE),
            v2.RandomHorizontalFlip(0.5),
            v2.ToPureTensor(),
        ]
    )
    plain = datasets.CocoDetection(str(image_root), str(json_file), transforms=transforms)
    keys = ("boxes", "labels", "masks")
    dataset = datasets.wrap_dataset_for_transforms_v2(plain, target_keys=keys)
    order = {plain.coco.loadImgs(id_)[0]["file_name"]: i for i, id_ in enumerate(plain.ids)}
    chosen = [i for _, i in sorted(order.items())][:images]

    def run() -> None:
        """Goes through the images once."""
        for index in chosen:
            dataset[index]

    return run


def run(options: DataOptions) -> Report:
    """Measures, with one thread. The baseline is torchvision's reference pipeline; the same files on both sides."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            json_file, image_root = options.json_file, options.image_root
            if json_file is None or image_root is None:
                json_file, image_root = make_set(Path(folder), options.images)
            dataset = CocoInstances(json_file=str(json_file), image_root=str(image_root), check_images=0)
            mapper = Mapper(dataset, [ResizeShortestEdge(short_edge=SHORT_EDGES, max_size=MAX_SIZE), RandomFlip()])
            names = sorted((dataset.image_path(i), i) for i in range(len(dataset)))
            chosen = [i for _, i in names][: options.images]
            candidates = [
                Candidate("torchvision v2", reference(json_file, image_root, options.images)),
                Candidate("detkit", lambda: [mapper(0, i).image.shape for i in chosen]),
            ]
            measured = measure(candidates, rounds=options.rounds, warmup=options.warmup)
    finally:
        torch.set_num_threads(threads)
    facts: dict[str, Any] = opened() if options.coco_sized else {}
    rows = [
        Row.of(m, measured[0], **{"images/s a core": len(chosen) / float(np.median(m.processor_seconds))})
        for m in measured
    ]
    what = "made-up JPEG" if options.json_file is None else str(options.json_file)
    return Report(f"loading {len(chosen)} images with polygons, {what}", rows, facts, options.plain())
