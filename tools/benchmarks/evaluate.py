"""box and mask AP by the COCO protocol, from predictions on to the metrics"""

import contextlib
import copy
import io
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.options import EvalOptions
from benchmarks.report import Report, Row
from benchmarks.timing import Candidate, measure
from detkit.evaluation.coco_metrics import GroundTruth, coco_metrics

SIZE = (480, 640)
CLASSES = 80
OBJECTS = 7
"""Objects an image."""
STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
KINDS = {"box": "bbox", "mask": "segm"}
OTHER = {"box": "segmentation", "mask": "bbox"}


def shapes(count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Uneven ellipses of all sizes as ``segmentation``, ``bbox`` and ``area``."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    found = []
    for _ in range(count):
        cx, cy, r = rng.uniform(50, 590), rng.uniform(50, 430), rng.uniform(4, 100)
        inside = ((x - cx) / r) ** 2 + ((y - cy) / (0.7 * r)) ** 2 < 1 + 0.3 * np.sin(x / 5)
        rle = coco_mask.encode(np.asfortranarray(inside.astype(np.uint8)))
        shape = {"size": list(SIZE), "counts": rle["counts"].decode("ascii")}
        found.append(
            {"segmentation": shape, "bbox": coco_mask.toBbox(rle).tolist(), "area": float(coco_mask.area(rle))}
        )
    return found


def made_up(images: int, detections: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A ground truth, and results of which some are right, some nearly and most wrong."""
    rng = np.random.default_rng(0)
    pool = shapes(300, rng)
    annotations, results = list[dict[str, Any]](), list[dict[str, Any]]()
    for image in range(1, images + 1):
        chosen, classes = rng.integers(0, len(pool), OBJECTS), rng.integers(1, CLASSES + 1, OBJECTS)
        for shape, category in zip(chosen.tolist(), classes.tolist()):
            crowd = int(rng.random() < 0.02)
            base = {"id": len(annotations) + 1, "image_id": image, "category_id": category, "iscrowd": crowd}
            annotations.append({**base, **pool[shape]})
        picked, guesses = rng.integers(0, len(pool), detections), rng.integers(1, CLASSES + 1, detections)
        picked[:OBJECTS], guesses[:OBJECTS] = chosen[:detections], classes[:detections]
        scores = rng.random(detections).round(3)
        for shape, category, score in zip(picked.tolist(), guesses.tolist(), scores.tolist()):
            found = {key: pool[shape][key] for key in ("bbox", "segmentation")}
            results.append({"image_id": image, "category_id": category, "score": score, **found})
    coco = {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)],
    }
    return coco, results


class Theirs:
    """pycocotools, from results to its twelve numbers."""

    def __init__(self, coco: dict[str, Any], results: list[dict[str, Any]]):
        self.coco, self.given = coco, results
        self.metrics: dict[str, dict[str, float]] = {}

    def prepare(self) -> None:
        """Fresh copies: it writes into what it is given."""
        self.truth = COCO()
        # without the other key, for pycocotools would take a mask's size from its box
        self.results = {task: [_without(key, row) for row in self.given] for task, key in OTHER.items()}
        self.truth.dataset = copy.deepcopy(self.coco)
        with contextlib.redirect_stdout(io.StringIO()):
            self.truth.createIndex()

    def run(self) -> None:
        """Boxes and masks."""
        for task, kind in KINDS.items():
            with contextlib.redirect_stdout(io.StringIO()):
                evaluation = COCOeval(self.truth, self.truth.loadRes(self.results[task]), kind)
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
            self.metrics[task] = dict(zip(STATS, evaluation.stats.tolist()))


def _without(key: str, row: dict[str, Any]) -> dict[str, Any]:
    return {name: copy.copy(value) for name, value in row.items() if name != key}


def run(options: EvalOptions) -> Report:
    """Measures. The baseline is pycocotools; the numbers must be equal."""
    coco, results = made_up(options.images, options.detections)
    truth = GroundTruth(coco, [category["name"] for category in coco["categories"]])
    theirs, ours = Theirs(coco, results), dict[str, dict[str, Any]]()

    def evaluate() -> None:
        """Our numbers of both tasks, into ``ours``."""
        for task in ("box", "mask"):
            ours[task] = coco_metrics(truth, results, task, 100, True)

    candidates = [
        Candidate("pycocotools", theirs.run, theirs.prepare, memory=False),
        Candidate("detkit", evaluate, memory=False),
    ]
    measured = measure(candidates, rounds=options.rounds, warmup=options.warmup)
    apart = [abs(ours[task][name] - value) for task in KINDS for name, value in theirs.metrics[task].items()]
    assert max(apart) < 1e-12, "the same numbers"
    facts = {f"{task} AP": ours[task]["AP"] for task in KINDS} | {"largest difference of a metric": max(apart)}
    title = f"COCO evaluation of boxes and masks, {options.images} images with {options.detections} detections each"
    return Report(title, [Row.of(m, measured[0]) for m in measured], facts, options.plain())
