"""What was not measured is no number in a line of metrics."""

import math

import numpy as np
import torch

from detkit.engine.loss_mean import summed
from detkit.engine.metrics import Metrics, flatten, mean_over_ranks
from detkit.structures import Losses


def test_a_metric_without_anything_to_measure_leaves_the_mean_alone():
    metrics, nan = Metrics(4), math.nan
    for step, (accuracy, never) in enumerate([(nan, nan), (0.5, nan), (nan, nan), (0.7, nan)]):
        values = {"total_loss": 1.0, "mask_head/accuracy": accuracy, "never": never}
        metrics.add(step, {name: torch.tensor(value) for name, value in values.items()})
    assert metrics.settle() is None
    line = metrics.flush(0.1, 0, torch.device("cpu"))
    assert (line["total_loss"], round(line["mask_head/accuracy"], 6)) == (1.0, 0.6)
    assert math.isnan(line["never"])


def test_micro_batches_without_foreground_do_not_count():
    parts = [Losses({"loss": torch.tensor(1.0)}, {"accuracy": torch.tensor(value)}) for value in (math.nan, 0.25)]
    assert summed(parts).metrics["accuracy"] == 0.25


def test_a_mean_of_nothing_is_no_number():
    means = mean_over_ranks({"loss_mask": (0.0, 0.0), "loss_cls": (3.0, 2)})
    assert math.isnan(means["loss_mask"])
    assert means["loss_cls"] == 1.5


def test_minus_one_is_a_number_unless_a_reason_says_otherwise():
    results = {"box": {"AP": -1, "AP50": -1.0, "reasons": {"AP": "no objects"}}, "correlation": -1, "none": None}
    flat = flatten(results)
    assert flat.keys() == {"box/AP", "box/AP50", "correlation", "none"}
    assert (flat["box/AP50"], flat["correlation"]) == (-1, -1)
    assert math.isnan(flat["box/AP"])
    assert math.isnan(flat["none"])


def test_what_is_no_number_is_left_out_of_a_line():
    matrix, none = np.zeros((2, 2)), torch.zeros(0)
    results = {"mine": {"matrix": matrix, "none": none, "list": [1], "words": "x", "score": np.float32(0.5)}}
    assert flatten(results) == {"mine/score": 0.5}
