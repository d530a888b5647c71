"""Intersection over union of semantic maps."""

import numpy as np
import pytest
import torch

from detkit.evaluation import SemanticEvaluator
from detkit.structures import Prediction, Sample


class Truth:
    """A dataset of semantic maps alone."""

    semantic_names = ("things", "sky", "sea", "sand")

    def __init__(self, maps):
        self.all = maps

    def __len__(self):
        return len(self.all)

    def image_id(self, index):
        return f"image {index}"

    def maps(self, index):
        return {"semantic": self.all[index]}


def evaluated(truths, founds):
    evaluator = SemanticEvaluator(Truth(truths))
    for number, found in enumerate(founds):
        sample = Sample(torch.zeros(3, 1, 1), (1, 1), f"image {number}")
        evaluator.update([sample, sample], [Prediction(semantic=torch.from_numpy(found))] * 2)
    return evaluator.compute()["semantic"]


def test_metrics_are_those_of_the_confusion_matrix():
    rng = np.random.default_rng(0)
    truths = [rng.choice([0, 1, 2, 255], (9, 11)).astype(np.uint8) for _ in range(3)]
    founds = [np.where(rng.random((9, 11)) < 0.6, t % 4, rng.integers(0, 4, (9, 11))).astype(np.int64) for t in truths]
    results = evaluated(truths, founds)
    matrix = np.zeros((4, 4))
    for truth, found in zip(truths, founds):
        for t, p in zip(truth.ravel().tolist(), found.ravel().tolist()):
            if t != 255:
                matrix[t, p] += 1
    right, true = matrix.diagonal()[:3], matrix.sum(1)[:3]
    iou = right / (true + matrix.sum(0)[:3] - right)
    assert results["mIoU"] == pytest.approx(iou.mean(), abs=1e-9)
    assert results["fwIoU"] == pytest.approx((iou * true / true.sum()).sum(), abs=1e-9)
    assert results["mACC"] == pytest.approx((right / true).mean(), abs=1e-9)
    assert results["pACC"] == pytest.approx(right.sum() / true.sum(), abs=1e-9)
    assert list(results["per_class"].values())[:3] == pytest.approx(iou, abs=1e-9)
    assert results["per_class"]["sand"] == -1, "no pixel is of it"


def test_unknown_pixels_and_images_without_any_known_one():
    unknown = np.full((2, 2), 255, np.uint8)
    results = evaluated([unknown], [np.zeros((2, 2), np.int64)])
    assert results["mIoU"] == results["pACC"] == -1
    signed = evaluated([np.array([[-1, 1]])], [np.array([[2, 1]])])
    assert signed["mIoU"] == signed["pACC"] == 1


def test_maps_that_do_not_fit_are_refused():
    truth = np.zeros((2, 2), np.uint8)
    for found in (np.zeros((2, 3), np.int64), np.full((2, 2), 4)):
        with pytest.raises(ValueError, match="do not belong together"):
            evaluated([truth], [found])
