"""Results come back as a dataset, and go out with the ids of the file that the images are of."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detkit.data import CocoIds, CocoInstances, CocoResults
from detkit.evaluation import CocoEvaluator
from detkit.registry import DataError
from detkit.structures import BitMasks, Instances, Prediction, Sample

H, W = 40, 60
CATEGORIES = [{"id": 90, "name": "cat"}, {"id": 7, "name": "dog"}]
IMAGES = [{"id": id_, "file_name": f"{id_}.png", "height": H, "width": W} for id_ in (31, 5, 12)]


def box(id_, image_id, category_id, x=5):
    polygon = [x, 5, x + 20, 5, x + 20, 25, x, 25]
    row = {"id": id_, "image_id": image_id, "category_id": category_id, "bbox": [x, 5, 20, 20], "area": 400}
    return {**row, "iscrowd": 0, "segmentation": [polygon]}


@pytest.fixture
def truth(tmp_path):
    """A file with gaps in its ids, in no order; image 12 has no object."""
    for image in IMAGES:
        Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(tmp_path / image["file_name"])
    content = {"images": IMAGES, "categories": CATEGORIES}
    content |= {"annotations": [box(1, 5, 90), box(2, 31, 7), box(3, 31, 90, 30)]}
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"info": {}, **content}))
    return path


@pytest.fixture
def results(truth, tmp_path):
    """What a perfect model's evaluation writes."""
    dataset = CocoInstances(json_file=str(truth), image_root=str(tmp_path))
    evaluator = CocoEvaluator(dataset)
    for record in (dataset[i] for i in range(3)):
        masks = BitMasks(record.masks.bitmaps().tensor)
        fields = {"boxes": record.boxes, "classes": record.classes, "masks": masks}
        found = Instances((H, W), **fields, scores=0.5 + 0.1 * torch.arange(len(masks)))
        sample = Sample(torch.zeros(3, H, W, dtype=torch.uint8), (H, W), record.image_id)
        evaluator.update([sample], [Prediction(found)])
    evaluator.compute()
    evaluator.write_results(tmp_path / "new" / "results.json")
    return tmp_path / "new" / "results.json"


def load(truth, results, **options):
    return CocoResults(json_file=str(results), images_file=str(truth), image_root=str(truth.parent), **options)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_a_perfect_results_file_is_perfect_to_pycocotools(truth, results, kind):
    with contextlib.redirect_stdout(io.StringIO()):
        given = COCO(str(truth))
        judge = COCOeval(given, given.loadRes(str(results)), kind)
        judge.evaluate(), judge.accumulate(), judge.summarize()
    assert judge.stats[0] == pytest.approx(1)


def test_results_load_again_with_scores_and_the_images_that_have_none(truth, results, tmp_path):
    dataset = load(truth, results)
    assert [dataset.image_id(i) for i in range(3)] == [31, 5, 12]
    assert [len(dataset[i].objects) for i in range(3)] == [2, 1, 0]
    assert dataset[0].score.tolist() == pytest.approx([0.5, 0.6])
    assert dataset[0].masks.numpy().sum() == 800
    assert [c["id"] for c in dataset.coco()["categories"]] == [7, 90]
    assert load(truth, results, score_thresh=0.55).coco()["annotations"][0]["score"] == pytest.approx(0.6)
    corrected = tmp_path / "corrected.json"
    corrected.write_text(json.dumps(dataset.coco()))
    again = CocoInstances(json_file=str(corrected), image_root=str(tmp_path))
    for key in ("image_id", "category_id", "bbox", "area"):
        before = [row[key] for row in json.loads(truth.read_text())["annotations"]]
        assert sorted(row[key] for row in again.coco()["annotations"]) == sorted(before)
    assert len(again) == 3


def test_scores_of_keypoints_become_visibilities(truth, tmp_path):
    content = json.loads(truth.read_text())
    content["categories"] = [{"id": 90, "name": "cat", "keypoints": ["nose", "tail"]}]
    content["annotations"] = []
    truth.write_text(json.dumps(content))
    row = {"image_id": 5, "category_id": 90, "bbox": [5, 5, 9, 9], "score": 1, "keypoints": [6, 6, 0.93, 7, 7, 0.0]}
    (tmp_path / "r.json").write_text(json.dumps([row]))
    assert load(truth, tmp_path / "r.json").coco()["annotations"][0]["keypoints"] == [6, 6, 2, 7, 7, 0]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"image_id": 6, "category_id": 7, "bbox": [1, 1, 2, 2], "score": 1}], "image_id 6 is not the id"),
        ([{"image_id": 5, "category_id": 2, "bbox": [1, 1, 2, 2], "score": 1}], "category_id 2 is not listed"),
        ([{"image_id": 5, "category_id": 7, "bbox": [1, 1, 2, 2]}], "has no 'score'"),
        ([{"image_id": 5, "category_id": 7, "bbox": [1, 1, 2, 2], "score": "high"}], "'score': expected numbers"),
        ([5, None], r"annotations\[0\] is '5'"),
        ({"images": []}, "CocoInstances reads"),
        (5, "is a list of detections"),
        ("[{", "is not JSON"),
    ],
)
def test_what_is_no_result_is_named(truth, tmp_path, rows, words):
    (tmp_path / "r.json").write_text(rows if isinstance(rows, str) else json.dumps(rows))
    with pytest.raises(DataError, match=rf"r\.json.*{words}"):
        load(truth, tmp_path / "r.json")


def test_a_results_file_that_is_not_there_is_named(truth, tmp_path):
    evaluator = CocoEvaluator(CocoInstances(json_file=str(truth), image_root=str(tmp_path)))
    with pytest.raises(DataError, match=r"gone\.json: there is no such file"):
        evaluator.read_results(tmp_path / "gone.json")


def test_a_results_file_in_place_of_annotations_is_told_what_reads_it(truth, results):
    with pytest.raises(DataError, match="CocoResults"):
        CocoInstances(json_file=str(results), image_root=str(truth.parent))


def ids_of(tmp_path, *names):
    images = [{"id": f"id{i}", "file_name": name, "height": H, "width": W} for i, name in enumerate(names)]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "categories": CATEGORIES, "annotations": []}))
    return CocoIds(str(tmp_path / "a.json"))


def test_ids_are_found_by_the_end_of_a_path(tmp_path):
    ids = ids_of(tmp_path, "a/1.png", "b/1.png", "1.png", "sub\\2.png", "cafe\u0301.png", "x/3.png", "/abs/4.png")
    paths = ["/data/a/1.png", "/data/b/1.png", "/data/c/1.png", "sub/2.png", "caf\u00e9.png", "copy/3.png", "/q/4.png"]
    assert ids.images([*paths, "other.png"]) == ["id0", "id1", "id2", "id3", "id4", "id5", "id6", None]
    assert ids.categories(["dog", "cat"]) == (7, 90)


def test_ids_that_are_not_certain_are_errors(tmp_path):
    ids = ids_of(tmp_path, "a/1.png", "b/1.png", "2.png")
    with pytest.raises(DataError, match=r"c/1\.png may be a/1\.png \(id 'id0'\) and b/1\.png"):
        ids.images(["c/1.png"])
    with pytest.raises(DataError, match=r"p/2\.png and q/2\.png both are image 'id2'"):
        ids.images(["p/2.png", "q/2.png"])
    with pytest.raises(DataError, match="no category 'cow', which the model predicts; it has dog, cat"):
        ids.categories(["cat", "cow"])
