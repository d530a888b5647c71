"""LvisEvaluator: equal to the lvis package, and what its limit means."""

import importlib
import json
import logging
import sys
import types

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from test_labelled import lvis_content

from detkit.data import TableDataset
from detkit.evaluation import CocoEvaluator, LvisEvaluator


@pytest.fixture
def lvis(monkeypatch):
    """The lvis package, which asks for OpenCV, though only to draw, and for a name that numpy has dropped."""
    if importlib.util.find_spec("lvis") is None:
        pytest.skip("lvis, of the extra dev, is not installed: pip install lvis")
    monkeypatch.setitem(sys.modules, "cv2", types.ModuleType("cv2"))
    monkeypatch.setattr(np, "float", float, raising=False)
    monkeypatch.setattr(logging.Logger, "warn", logging.Logger.warning, raising=False)
    return importlib.import_module("lvis")


class Lvis(TableDataset):
    """A dataset with the lists of LVIS."""

    def __init__(self, content):
        names = {category["id"]: category["name"] for category in content["categories"]}
        super().__init__(content["images"], content["annotations"], names, check_images=0)
        self.content = content

    def coco(self):
        return self.content


def with_masks(content, found):
    """The same with an ellipse in each box."""
    rows, columns = np.mgrid[:100, :100] + 0.5

    def masked(row):
        x, y, width, height = row["bbox"]
        inside = ((columns - x - width / 2) / width) ** 2 + ((rows - y - height / 2) / height) ** 2 < 0.25
        rle = coco_mask.encode(np.asfortranarray(inside.astype(np.uint8)))
        return {**row, "segmentation": {**rle, "counts": rle["counts"].decode()}}

    annotations = [masked(row) for row in content["annotations"]]
    for row in annotations:
        row["area"] = float(coco_mask.area(row["segmentation"]))
    return {**content, "annotations": annotations}, [masked(row) for row in found]


@pytest.mark.parametrize("most", [300, 9])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_lvis_package(lvis, tmp_path, seed, most):
    content, found = with_masks(*lvis_content(seed))
    content["images"][0]["neg_category_ids"] = []
    found += [{**found[0], "bbox": [80.0, 80.0, 60.0, 50.0], "score": 0.99}]  # beyond the image
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "found.json").write_text(json.dumps(found))
    evaluator = LvisEvaluator(Lvis(content), max_detections=most)
    evaluator.read_results(tmp_path / "found.json")
    ours = evaluator.compute()
    for task, kind in (("box", "bbox"), ("mask", "segm")):
        dropped = ("segmentation",) if task == "box" else ("bbox",)  # as Detectron2 gives them: a mask has its own area
        rows = [{key: value for key, value in row.items() if key not in dropped} for row in found]
        truth = lvis.LVIS(str(tmp_path / "truth.json"))
        theirs = lvis.LVISEval(truth, lvis.LVISResults(truth, rows, max_dets=most), kind)
        theirs.run()
        names = {name: name for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")}
        names |= {f"AR{most}": "AR@300", "ARs": "ARs@300", "ARm": "ARm@300", "ARl": "ARl@300"}
        for name, key in names.items():
            assert ours[task][name] == pytest.approx(float(theirs.results[key]), abs=1e-9), f"{task} {name}"


def test_the_limit_is_over_an_image_not_over_each_of_its_classes(tmp_path):
    content, found = lvis_content(0)
    (tmp_path / "found.json").write_text(json.dumps(found))
    limited = []
    for kind in (CocoEvaluator, LvisEvaluator):
        evaluator = kind(Lvis(content), max_detections=5)
        evaluator.read_results(tmp_path / "found.json")
        limited.append(evaluator.compute())
    coco, lvis = limited
    assert "(5 an image)" in evaluator.report(lvis)
    assert coco["box"]["AP"] != lvis["box"]["AP"]
    assert lvis["box"]["limits"]["cut_by_evaluator"] == {"detections": len(found) - 12 * 5, "images": 12}
    best = evaluator.detections
    assert {len(rows.scores) for rows in best.values()} == {5}
    scores = sorted((row["score"] for row in found if row["image_id"] == 1), reverse=True)[:5]
    assert sorted(best[1].scores.tolist(), reverse=True) == pytest.approx(scores)
    assert len(evaluator.results()) == 60
