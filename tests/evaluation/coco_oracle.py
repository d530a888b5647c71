"""Predictions made from ground truth, and pycocotools' verdict on them."""

import contextlib
import copy
import io

import numpy as np
import pycocotools.mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detkit.data.interfaces import Dataset

STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR{}", "ARs", "ARm", "ARl")


class JsonDataset(Dataset):
    """A dataset of which only the ground truth is there."""

    def __init__(self, coco):
        super().__init__()
        self.class_names = tuple(c["name"] for c in coco["categories"])
        self._coco = coco

    def coco(self):
        return copy.deepcopy(self._coco)

    def __len__(self):
        return len(self._coco["images"])


def shift(mask, dy, dx):
    """A mask moved, with what leaves the image cut off."""
    out = np.zeros_like(mask)
    h, w = mask.shape
    out[max(dy, 0) : h + min(dy, 0), max(dx, 0) : w + min(dx, 0)] = mask[
        max(-dy, 0) : h + min(-dy, 0), max(-dx, 0) : w + min(-dx, 0)
    ]
    return out


def rle_of(coco, ann):
    image = next(i for i in coco["images"] if i["id"] == ann["image_id"])
    seg, (h, w) = ann["segmentation"], (image["height"], image["width"])
    if isinstance(seg, list):
        return coco_mask.merge(coco_mask.frPyObjects(seg, h, w))
    return coco_mask.frPyObjects(seg, h, w) if isinstance(seg["counts"], list) else seg


def noisy_results(coco, rng, copies=2):
    """Predictions near and far from the ground truth, with ties, wrong classes, and images left empty."""
    rows = []
    num_classes = len(coco["categories"])
    for ann in coco["annotations"]:
        if ann["image_id"] % 7 == 0:
            continue
        mask = coco_mask.decode(rle_of(coco, ann))
        for _ in range(rng.integers(0, copies + 1)):
            reach = 1 + int(0.12 * min(ann["bbox"][2:]))
            dy, dx = (int(v) for v in rng.integers(-reach, reach + 1, 2))
            moved = coco_mask.encode(np.asfortranarray(shift(mask, dy, dx)))
            wrong = rng.random() < 0.2
            rows.append(
                {
                    "image_id": ann["image_id"],
                    "category_id": int(rng.integers(1, num_classes + 1)) if wrong else ann["category_id"],
                    "bbox": [
                        ann["bbox"][0] + dx,
                        ann["bbox"][1] + dy,
                        *(v * rng.uniform(0.8, 1.2) for v in ann["bbox"][2:]),
                    ],
                    "score": float(np.float32(round(rng.random(), 1))),  # one decimal: many ties
                    "segmentation": {"size": moved["size"], "counts": moved["counts"].decode()},
                }
            )
    return rows


def pycocotools_metrics(coco, results, task, limits):
    """The oracle: {name: metric} and {class: AP}."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(coco)
        truth.createIndex()
        left_out = "bbox" if task == "mask" else "segmentation"
        found = truth.loadRes([{k: v for k, v in copy.deepcopy(r).items() if k != left_out} for r in results])
        oracle = COCOeval(truth, found, "segm" if task == "mask" else "bbox")
        oracle.params.maxDets = limits
        oracle.evaluate()
        oracle.accumulate()
        oracle.summarize()
    precision = oracle.eval["precision"]
    stats = dict(zip((s.format(limits[-1]) for s in STATS), oracle.stats))
    if limits[-1] != 100:  # its summary takes AP at 100 detections and knows no other number
        stats["AP"] = precision[:, :, :, 0, -1][precision[:, :, :, 0, -1] > -1].mean()
    classes = {}
    for k, category in enumerate(coco["categories"]):
        p = precision[:, :, k, 0, -1]
        classes[category["name"]] = p[p > -1].mean() if (p > -1).any() else -1
    return stats, classes
