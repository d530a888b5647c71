import copy
import json
import pickle

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detkit.data import CocoInstances
from detkit.evaluation import CocoEvaluator
from detkit.structures import CroppedMasks, Instances, PolygonMasks, Prediction, Sample

H, W = 40, 60
TRIANGLE = [10.0, 10, 30, 10, 10, 30]


def rle_of(mask, compressed=True):
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    if compressed:
        return {"size": [H, W], "counts": rle["counts"].decode()}
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.r_[0, flat, 0]))
    runs = np.diff(np.r_[0, edges, len(flat)])
    return {"size": [H, W], "counts": [int(n) for n in (runs if not flat[-1] else runs[:-1])]}


def annotation(i, image=1, category=7, box=(10, 10, 20, 20), **more):
    return {"id": i, "image_id": image, "category_id": category, "bbox": list(box), "iscrowd": 0, "area": 200.0, **more}


@pytest.fixture
def disc():
    y, x = np.mgrid[:H, :W]
    return (y - 20) ** 2 + (x - 30) ** 2 < 100


@pytest.fixture
def content(disc):
    """Polygons on image 1, everything on image 4, nothing on image 9; ids with gaps."""
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": H, "width": W} for i in (4, 1, 9)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 90, "name": "cow"}],
        "annotations": [
            annotation(11, 1, 7, segmentation=[TRIANGLE]),
            annotation(12, 4, 90, (20, 10, 20, 20), segmentation=rle_of(disc)),
            annotation(13, 4, 3, (20, 10, 20, 20), segmentation=rle_of(disc, compressed=False), iscrowd=1),
            annotation(14, 4, 7, segmentation=[TRIANGLE, [40, 5, 50, 5, 50, 15, 40, 15]], area=123.5),
        ],
    }


@pytest.fixture
def make(tmp_path):
    def write(content, **options):
        for entry in content["images"]:
            pixels = np.full((H, W, 3), int(entry["id"]) if str(entry["id"]).isdigit() else 0, np.uint8)
            Image.fromarray(pixels).save(tmp_path / entry["file_name"])
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return CocoInstances(json_file=str(path), image_root=str(tmp_path), **options)

    return write


def test_classes_are_numbered_in_the_order_of_category_ids(make, content):
    dataset = make(content)
    assert dataset.class_names == ("dog", "cat", "cow")
    assert [r.objects.classes.tolist() for r in dataset] == [[2, 0, 1], [1], []]


def test_record_holds_what_the_file_says(make, content, tmp_path):
    dataset = make(content)
    record = dataset[0]
    assert (record.image_id, record.file_name) == (4, str(tmp_path / "4.png"))
    assert record.original_size == dataset.image_size(0) == (H, W)
    assert record.image.shape == (H, W, 3)
    assert record.image.dtype == np.uint8
    assert (record.image == 4).all()
    assert record.objects.boxes.tolist() == [[20, 10, 40, 30], [20, 10, 40, 30], [10, 10, 30, 30]]
    assert record.objects.boxes.dtype == torch.float32
    assert record.objects.crowd.tolist() == [False, True, False]
    assert record.objects.annotation_ids.tolist() == [12, 13, 14]


def test_masks_of_every_form_equal_pycocotools(make, content, disc):
    dataset = make(content)
    mixed, polygons, empty = (dataset[i].objects.masks for i in range(3))
    assert isinstance(polygons, PolygonMasks)
    assert isinstance(mixed, CroppedMasks)
    assert len(empty) == 0
    parts = content["annotations"][3]["segmentation"]
    union = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, H, W))).astype(bool)
    assert (mixed.numpy() == np.stack([disc, disc, union])).all()
    assert (polygons.bitmaps().numpy()[0] == coco_mask.decode(coco_mask.frPyObjects([TRIANGLE], H, W))[:, :, 0]).all()


def test_coco_form_reads_back_to_the_same_dataset(make, content):
    dataset = make(content)
    truth = json.loads(json.dumps(dataset.coco()))
    assert [c["name"] for c in truth["categories"]] == list(dataset.class_names)
    assert [c["id"] for c in truth["categories"]] == list(dataset.category_ids) == [3, 7, 90]
    assert {a["id"]: (a["image_id"], a["area"], a["iscrowd"], a["category_id"]) for a in truth["annotations"]} == {
        11: (1, 200.0, 0, 7),
        12: (4, 200.0, 0, 90),
        13: (4, 200.0, 1, 3),
        14: (4, 123.5, 0, 7),
    }
    assert truth["annotations"][2]["segmentation"] == content["annotations"][3]["segmentation"]
    again = make(truth)
    for a, b in zip(dataset, again):
        assert a.objects.boxes.tolist() == b.objects.boxes.tolist()
        assert a.objects.classes.tolist() == b.objects.classes.tolist()
        assert torch.equal(a.objects.masks.bitmaps().tensor, b.objects.masks.bitmaps().tensor)


def test_empty_images_are_kept_or_dropped_and_counted(make, content):
    content["annotations"] = content["annotations"][:1] + content["annotations"][2:3]  # image 4 holds a crowd only
    kept, dropped = make(content), make(content, keep_empty=False)
    assert (len(kept), len(dropped)) == (3, 1)
    assert dropped[0].image_id == 1
    assert "2 images without an object kept" in kept.summary()
    assert "2 images without an object left out" in dropped.summary()
    assert [image["id"] for image in dropped.coco()["images"]] == [1]
    assert [a["id"] for a in dropped.coco()["annotations"]] == [11]


def test_crowds_are_kept_or_dropped(make, content):
    dataset = make(content, keep_crowd=False)
    assert dataset[0].objects.annotation_ids.tolist() == [12, 14]
    assert "1 crowds left out" in dataset.summary()


def test_class_names_select_and_order(make, content):
    dataset = make(content, class_names=("cow", "cat"))
    assert dataset.class_names == ("cow", "cat")
    assert [r.objects.classes.tolist() for r in dataset] == [[0, 1], [1], []]
    assert "1 objects of other classes left out" in dataset.summary()
    assert [c["name"] for c in dataset.coco()["categories"]] == ["cow", "cat"]


def test_boxes_without_area_are_dropped_and_counted_and_long_ones_cut(make, content):
    boxes = [(5, 5, 0, 10), (5, 5, 10, -2), (W + 5, 5, 10, 10), (50, 30, 20, 20.5), (0, 0, W + 0.2, H)]
    content["annotations"] += [annotation(20 + i, 9, box=b, segmentation=[TRIANGLE]) for i, b in enumerate(boxes)]
    dataset = make(content)
    assert dataset[2].objects.annotation_ids.tolist() == [23, 24]
    assert dataset[2].objects.boxes.tolist() == [[50, 30, W, H], [0, 0, W, H]]
    assert "3 boxes without area in their image left out" in dataset.summary()
    assert "1 boxes that reached over their image cut" in dataset.summary()
    assert dataset.coco()["annotations"][-2]["bbox"] == [50, 30, 20, 20.5]  # the file's own, for evaluation


def test_file_without_segmentations_gives_boxes_only(make, content):
    for entry in content["annotations"]:
        entry["segmentation"] = []
    del content["annotations"][0]["segmentation"], content["annotations"][0]["area"]
    dataset = make(content)
    assert all("masks" not in record.objects for record in dataset)
    assert "segmentation" not in dataset.coco()["annotations"][0]
    assert dataset.coco()["annotations"][-1]["area"] == 400
    assert "boxes only" in dataset.summary()


def test_missing_mask_is_dropped_or_becomes_the_box(make, content):
    content["annotations"][0]["segmentation"] = []
    content["annotations"][3]["segmentation"] = [[1, 1, 2, 2]]
    dropped, boxes = make(content, invalid_masks="drop"), make(content, invalid_masks="box")
    assert [r.objects.annotation_ids.tolist() for r in dropped] == [[12, 13], [], []]
    assert "2 objects without a mask left out" in dropped.summary()
    assert boxes[1].objects.masks.bitmaps().boxes().tolist() == [[10, 10, 30, 30]]
    assert boxes[1].objects.masks.areas().tolist() == [400]
    assert "2 objects without a mask given their box as one" in boxes.summary()


def test_polygon_of_two_points_beside_a_good_one_is_dropped_alone(make, content):
    content["annotations"][0]["segmentation"].append([1, 1, 2, 2])
    dataset = make(content, invalid_masks="drop")
    assert len(dataset[1].objects.masks[0]) == 1
    assert "1 polygons of fewer than 3 points left out" in dataset.summary()


def test_missing_area_is_that_of_the_mask(make, content, disc):
    for entry in content["annotations"]:
        del entry["area"]
    areas = {a["id"]: a["area"] for a in make(content).coco()["annotations"]}
    assert areas == {11: 200, 12: disc.sum(), 13: disc.sum(), 14: 300}


def test_image_ids_may_be_strings(make, content):
    names = {4: "b", 1: "a", 9: "c"}
    for entry in content["images"]:
        entry["id"] = names[entry["id"]]
    for entry in content["annotations"]:
        entry["image_id"] = names[entry["image_id"]]
    dataset = make(content)
    assert [r.image_id for r in dataset] == ["b", "a", "c"]
    assert dataset.coco()["annotations"][0]["image_id"] == "b"


def test_dataset_pickles_small_and_whole(make, content):
    dataset = make(content)
    again = pickle.loads(pickle.dumps(dataset))
    assert again.coco() == dataset.coco()
    assert (again[0].image == dataset[0].image).all()


def test_index_beyond_the_end(make, content):
    with pytest.raises(IndexError):
        make(content)[3]
    with pytest.raises(IndexError):
        make(content)[-1]


def test_editing_a_record_does_not_edit_the_dataset(make, content):
    dataset = make(content)
    before = copy.deepcopy(dataset[0].objects.boxes)
    dataset[0].objects.boxes[:] = 0
    assert (dataset[0].objects.boxes == before).all()


@pytest.mark.parametrize(
    ("name", "split", "folder", "images", "objects", "crowds"),
    [
        ("coco_mini", "instances_train2017", "train2017", 80, 739, 8),
        ("coco_mini", "instances_val2017", "val2017", 79, 624, 5),
        ("nuclei", "instances_train", "train", 268, 7570, 0),
        ("nuclei", "instances_val", "val", 66, 1973, 0),
        ("balloon", "instances_train", "train", 61, 255, 0),
        ("balloon", "instances_val", "val", 13, 50, 0),
    ],
)
def test_real_data(shared_data, name, split, folder, images, objects, crowds):
    path = shared_data / name / "annotations" / f"{split}.json"
    dataset = CocoInstances(json_file=str(path), image_root=str(shared_data / name / folder))
    truth = dataset.coco()
    assert (len(dataset), len(truth["annotations"])) == (images, objects)
    assert sum(a["iscrowd"] for a in truth["annotations"]) == crowds
    original = {a["id"]: a for a in json.loads(path.read_text())["annotations"]}
    for i in range(0, images, max(1, images // 6)):
        record = dataset[i]
        assert record.image.shape == (*record.original_size, 3)
        objects = record.objects
        for found, index, crowd in zip(objects.masks.bitmaps().numpy(), objects.annotation_ids.tolist(), objects.crowd):
            if crowd:
                continue  # among polygons its box stands in for it
            segmentation = original[int(index)]["segmentation"]
            if isinstance(segmentation, list):
                rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, *record.original_size))
            elif isinstance(segmentation["counts"], list):
                rle = coco_mask.frPyObjects(segmentation, *record.original_size)
            else:
                rle = segmentation
            assert (found == coco_mask.decode(rle).astype(bool)).all()


def test_results_are_those_of_the_files_own_ids_whatever_the_order_of_the_classes(make, content, tmp_path):
    for entry in content["annotations"]:
        entry["iscrowd"] = 0
    dataset = make(content, class_names=("cow", "dog", "cat"))
    assert dataset.category_ids == (90, 3, 7)
    evaluator = CocoEvaluator(dataset, tasks=("box",))
    for record in dataset:
        objects = record.objects
        found = Instances((H, W), boxes=objects.boxes, classes=objects.classes, scores=torch.full((len(objects),), 0.5))
        sample = Sample(torch.zeros(3, 1, 1, dtype=torch.uint8), (H, W), record.image_id)
        evaluator.update([sample], [Prediction(found)])
    metrics = evaluator.compute()["box"]
    assert metrics["AP"] == metrics["per_class"]["cow"] == metrics["per_class"]["cat"] == 1
    evaluator.write_results(tmp_path / "results.json")
    truth = COCO(str(tmp_path / "instances.json"))
    oracle = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "bbox")
    oracle.evaluate()
    oracle.accumulate()
    oracle.summarize()
    assert oracle.stats[0] == 1
