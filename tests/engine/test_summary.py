"""What the log says of arrays."""

import logging

import numpy as np
import pytest
import torch

from detkit.engine import describe_batch, summarize
from detkit.structures import BitMasks, Boxes, Instances, PolygonMasks, Sample


def sample():
    image = torch.zeros(3, 4, 6, dtype=torch.uint8)
    image[0, 1, 2] = 240
    masks = torch.zeros(2, 4, 6, dtype=torch.bool)
    masks[1] = True
    target = Instances(
        (4, 6),
        boxes=Boxes([[0, 1, 2, 3], [1, 1, 5.5, 4]]),
        classes=torch.tensor([7, 2]),
        masks=BitMasks(masks),
    )
    return Sample(image, (8, 12), image_id=3, file_name="a.png", target=target, valid_region=(0, 0, 6, 3))


def test_shape_type_and_statistics():
    expected = {"shape": [2, 2], "type": "Tensor int64", "min": 1, "max": 10, "mean": 4.0}
    assert summarize(torch.tensor([[1, 2], [3, 10]])) == expected
    real = {"shape": [2], "type": "ndarray float64", "min": 0.5, "max": 1.5, "mean": 1.0}
    assert summarize(np.array([0.5, 1.5])) == real
    assert summarize(torch.tensor([True, False, False, False]))["mean"] == 0.25
    assert summarize(torch.zeros(0, 4)) == {"shape": [0, 4], "type": "Tensor float32"}
    assert summarize((1, 2)) == {"shape": "(1, 2)", "type": "tuple"}


def test_what_is_not_finite_is_counted_and_left_out():
    summary = summarize(torch.tensor([1.0, float("nan"), float("inf"), 3.0], requires_grad=True))
    assert (summary["min"], summary["max"], summary["mean"]) == (1, 3, 2)
    assert summary["type"] == "Tensor float32, 2 not finite"
    assert "min" not in summarize(torch.tensor([float("nan")]))


def test_masks_as_bitmaps_and_as_polygons():
    bits = summarize(sample().target.masks)
    assert (bits["shape"], bits["type"], bits["mean"]) == ([2, 4, 6], "BitMasks bool", 0.5)
    polygons = PolygonMasks([[np.array([0.0, 0, 4, 0, 4, 2, 0, 2])]], (4, 6))
    areas = summarize(polygons)
    assert areas["shape"] == [1]
    assert areas["type"].startswith("PolygonMasks: areas,")
    assert areas["max"] == pytest.approx(8, abs=2)


def test_a_batch_has_a_row_an_array():
    rows = {line.split("  ")[0]: line.split() for line in describe_batch([sample(), sample()]).splitlines()[2:]}
    for number in (0, 1):
        assert rows[f"{number} image"][-3:] == ["0", "240", "3.3333"]
        assert "[3," in rows[f"{number} image"]
        assert rows[f"{number} target.boxes"][-3:-1] == ["0", "5.5"]
        assert rows[f"{number} target.classes"][-3:] == ["2", "7", "4.5"]
        assert "bool" in rows[f"{number} target.masks"]
        assert "(0, 0, 6, 3)" in " ".join(rows[f"{number} valid_region"])
        assert "a.png" in rows[f"{number} file_name"]


def test_the_trainer_says_it_once(make_trainer, caplog):
    with caplog.at_level(logging.DEBUG, "detkit"):
        make_trainer(3).train()
    said = [r for r in caplog.records if r.message.startswith("the first batch")]
    assert len(said) == 1
    assert said[0].levelno == logging.DEBUG
    assert "0 image" in said[0].message
    assert "1.png" in said[0].message
