"""Regions of every class, and classes that nobody looked for in an image, do not count as mistakes."""

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from small_folders import make_folder

from detkit.data import TableDataset, open_dataset
from detkit.data.interfaces import EVERY_CLASS
from detkit.evaluation import CocoEvaluator
from detkit.evaluation.coco_metrics import GroundTruth, coco_metrics
from detkit.evaluation.errors import DetectionErrors
from detkit.evaluation.labelled import with_regions
from detkit.structures import Boxes, Instances, Prediction, Sample

SIZE = (100, 100)


def lvis_content(seed):
    """A ground truth by LVIS's rule, and detections around its objects and elsewhere, of all classes."""
    rng = np.random.default_rng(seed)
    categories = [{"id": 3 * k + 2, "name": f"c{k}", "frequency": "rcf"[k % 3]} for k in range(6)]
    ids = [category["id"] for category in categories]
    images, rows, found = [], [], []
    for image in range(1, 13):
        present = rng.choice(ids, 3, replace=False).tolist()
        absent = [id_ for id_ in ids if id_ not in present]
        lists = {"neg_category_ids": absent[:2], "not_exhaustive_category_ids": present[:1]}
        images.append({"id": image, "height": 100, "width": 100, "file_name": f"{image}.png", **lists})
        for id_ in present * 2:
            box = [*rng.uniform(0, 60, 2).tolist(), *rng.uniform(5, 40, 2).tolist()]
            rows.append(
                {"id": len(rows) + 1, "image_id": image, "category_id": id_, "bbox": box, "area": box[2] * box[3]}
            )
            rows[-1]["iscrowd"] = 0
            near = (np.array(box) + rng.normal(0, 2, 4)).clip(0.5, 60).tolist()
            found.append({"image_id": image, "category_id": id_, "bbox": near, "score": rng.random()})
        for id_ in ids:
            box = [*rng.uniform(0, 60, 2).tolist(), *rng.uniform(5, 40, 2).tolist()]
            found.append({"image_id": image, "category_id": id_, "bbox": box, "score": rng.random()})
    return {"images": images, "annotations": rows, "categories": categories}, found


@pytest.mark.parametrize("seed", range(3))
def test_the_rule_of_lvis_gives_the_metrics_of_another_implementation(seed):
    content, found = lvis_content(seed)
    names = [category["name"] for category in content["categories"]]
    ours = coco_metrics(GroundTruth(content, names), found, "box", 300, True)
    sides = []
    for rows in (content["annotations"], found):
        side = COCO(print_function=lambda *words: None)
        rows = [{"iscrowd": 0, "area": r["bbox"][2] * r["bbox"][3], **r, "id": n} for n, r in enumerate(rows, 1)]
        side.dataset = {**content, "annotations": rows}
        side.createIndex()
        sides.append(side)
    theirs = COCOeval_faster(*sides, "bbox", lvis_style=True, print_function=lambda *words: None)
    theirs.params.maxDets = [300]
    theirs.run()
    for name in ("AP", "AP50", "APs", "APm", "APr", "APc", "APf"):
        key = {"AP": "AP_all", "AP50": "AP_50", "APs": "AP_small", "APm": "AP_medium"}.get(name, name)
        assert ours[name] == pytest.approx(theirs.stats_as_dict[key], abs=1e-9), name
    bare = {key: [{**image, "neg_category_ids": [], "not_exhaustive_category_ids": []} for image in content["images"]]
            if key == "images" else rows for key, rows in content.items()}  # fmt: skip
    assert coco_metrics(GroundTruth(bare, names), found, "box", 300, True)["AP"] != ours["AP"]


def sample(image_id):
    return Sample(torch.zeros(3, *SIZE, dtype=torch.uint8), SIZE, image_id)


def predicted(rows):
    boxes, classes = [box for _, box in rows], [k for k, _ in rows]
    fields = {"boxes": Boxes(torch.tensor(boxes)), "classes": torch.tensor(classes)}
    return [Prediction(Instances(SIZE, **fields, scores=torch.linspace(0.9, 0.8, len(rows))))]


class Regions(TableDataset):
    """One image with an object of each class, and a region of every class to the right."""

    def __init__(self):
        boxes = ([10, 10, 20, 20], [10, 60, 20, 20], [50, 0, 50, 100])
        rows = [
            {"id": i, "image_id": 1, "category_id": 1 + i % 2, "bbox": box, "iscrowd": int(i == 2)}
            for i, box in enumerate(map(list, boxes))
        ]
        images = [{"id": 1, "file_name": "a.png", "height": 100, "width": 100}]
        super().__init__(images, rows, {1: "cat", 2: "dog"}, check_images=0)

    def coco(self):
        content = super().coco()
        content["annotations"][2][EVERY_CLASS] = 1
        return content


@pytest.mark.parametrize("kind", [CocoEvaluator, DetectionErrors])
def test_what_lies_in_a_region_of_every_class_is_no_mistake(kind):
    right = [(0, [10.0, 10, 30, 30]), (1, [10.0, 60, 30, 80])]
    inside = [(0, [60.0, 10, 90, 40]), (1, [60.0, 10, 90, 40])]
    outside = [(1, [10.0, 10, 30, 30])]
    results = []
    for rows in (right, inside + right, outside + right):
        evaluator = kind(Regions())
        evaluator.update([sample(1)], predicted(rows))
        results.append(evaluator.compute())
    if kind is CocoEvaluator:
        assert results[0]["box"]["AP"] == results[1]["box"]["AP"] == pytest.approx(1)
        assert results[2]["box"]["AP"] < 0.9
    else:
        assert not any(results[1]["errors"]["counts"].values())
        assert results[2]["errors"]["counts"]["classification"] == 1


def test_mistakes_by_kind_leave_out_classes_that_nobody_looked_for():
    content, found = lvis_content(0)

    class Some(TableDataset):
        def coco(self):
            return {**super().coco(), "images": content["images"], "categories": content["categories"]}

    names = {category["id"]: category["name"] for category in content["categories"]}
    dataset = Some(content["images"], content["annotations"], names, check_images=0)
    evaluator, number = DetectionErrors(dataset, score_thresh=0.0), {id_: k for k, id_ in enumerate(names)}
    counted = 0
    for image in content["images"]:
        known = {*image["neg_category_ids"]}
        known |= {row["category_id"] for row in content["annotations"] if row["image_id"] == image["id"]}
        rows = [row for row in found if row["image_id"] == image["id"]]
        counted += sum(row["category_id"] in known for row in rows)
        boxes = [(number[r["category_id"]], [*r["bbox"][:2], r["bbox"][0] + r["bbox"][2], r["bbox"][1] + r["bbox"][3]])
                 for r in rows]  # fmt: skip
        evaluator.update([sample(image["id"])], predicted(boxes))
    assert evaluator.compute()["errors"]["num_detections"] <= counted < len(found)


def test_kitti_says_which_regions_are_of_every_class(tmp_path):
    root = make_folder("KittiDataset", tmp_path)
    with open(root / "label_2/a.txt", "a") as file:
        file.write(f"DontCare -1 -1 -10 20 2 39 9{' -1' * 7}\n")
    dataset = open_dataset(root)
    assert dataset.class_names == ("Car",)
    assert [row.get(EVERY_CLASS, 0) for row in dataset.coco()["annotations"]] == [0, 1]
    assert [row["iscrowd"] for row in dataset.coco()["annotations"]] == [0, 1]


@pytest.mark.parametrize("class_names", [("Van",), ("Van", "Car"), ("Car",)])
def test_regions_of_every_class_are_kept_whatever_classes_are_chosen(class_names, tmp_path):
    root = make_folder("KittiDataset", tmp_path)
    with open(root / "label_2/a.txt", "a") as file:
        file.write(f"DontCare -1 -1 -10 20 2 39 9{' -1' * 7}\nVan 0 0 0 1 12 9 19{' 0' * 7}\n")
    dataset = open_dataset(root, class_names=class_names)
    assert dataset.class_names == class_names
    assert [row.get(EVERY_CLASS, 0) for row in dataset.coco()["annotations"]].count(1) == 1
    assert [row["bbox"] for row in dataset.coco()["annotations"] if row["iscrowd"]] == [[20, 2, 19, 7]]
    regions = with_regions(dataset.coco())
    assert {row["category_id"] for row in regions if row["iscrowd"]} == {*dataset.category_ids}


def test_lvis_says_what_was_looked_for(tmp_path):
    root = make_folder("LvisFolder", tmp_path)
    text = (root / "lvis_val.json").read_text().replace('"neg_category_ids": []', '"neg_category_ids": [3]', 1)
    (root / "lvis_val.json").write_text(text.replace('"name": "cat"', '"name": "cat", "frequency": "r"'))
    content = open_dataset(root).coco()
    assert [image["neg_category_ids"] for image in content["images"]] == [[3], []]
    assert content["categories"][0]["frequency"] == "r"
