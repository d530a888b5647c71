import json
import pickle

import numpy as np
import pytest
from PIL import Image

from detkit.config import Recipe
from detkit.data import CocoInstances, ConcatDataset, RandomCrop, Shapes


def shapes(num, seed):
    return Recipe(Shapes, {"num_images": num, "image_size": (48, 64), "seed": seed})


@pytest.fixture
def animals(tmp_path):
    """Two images with the ids 0 and 1, as those of Shapes; its classes are star and cat."""
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 30, "width": 50} for i in (1, 0)],
        "categories": [{"id": 4, "name": "star"}, {"id": 9, "name": "cat"}],
        "annotations": [
            {"id": i, "image_id": 0, "category_id": c, "bbox": [5, 5, 10, 10], "iscrowd": 0, "area": 100}
            | {"segmentation": [[5, 5, 15, 5, 15, 15, 5, 15]]}
            for i, c in ((1, 9), (2, 4))
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    for i in range(2):
        Image.new("RGB", (50, 30), (i, i, i)).save(tmp_path / f"{i}.png")
    return Recipe(CocoInstances, {"json_file": str(tmp_path / "a.json"), "image_root": str(tmp_path)})


@pytest.fixture
def both(animals):
    return ConcatDataset(datasets=(shapes(3, 0), animals))


def test_images_follow_one_another_and_classes_are_joined_by_name(both):
    first, second = both.datasets
    assert len(both) == 5
    assert both.class_names == ("circle", "square", "triangle", "star", "ring", "cat")
    for index, (dataset, inner) in enumerate([(first, 0), (first, 1), (first, 2), (second, 0), (second, 1)]):
        record, own = both[index], dataset[inner]
        assert (record.image == own.image).all()
        assert (record.objects.boxes == own.objects.boxes).all()
        assert both.image_size(index) == record.original_size == own.original_size
        names = [both.class_names[c] for c in record.objects.classes]
        assert names == [dataset.class_names[c] for c in own.objects.classes]
    assert both[4].objects.classes.tolist() == [5, 3]
    with pytest.raises(IndexError):
        both[5]
    with pytest.raises(IndexError):
        both.image_size(-1)


def test_active_classes_are_those_that_the_images_dataset_labels(both):
    assert both[0].active_classes.tolist() == [True] * 5 + [False]
    assert both[3].active_classes.tolist() == [False, False, False, True, False, True]
    assert both[0].active_classes.dtype == bool
    cut = RandomCrop(size=(0.5, 0.5))(both[3], np.random.default_rng(0))
    assert cut.active_classes.tolist() == both[3].active_classes.tolist()
    assert both.datasets[1][0].active_classes is None


def test_datasets_in_datasets(animals):
    inner = Recipe(ConcatDataset, {"datasets": (animals, shapes(1, 0))})
    outer = ConcatDataset(datasets=(shapes(2, 1), inner))
    assert outer.class_names == ("circle", "square", "triangle", "star", "ring", "cat")
    assert outer[2].active_classes.tolist() == [False, False, False, True, False, True]
    assert outer[4].active_classes.tolist() == [True] * 5 + [False]
    assert outer[4].image_id == "1-1-0"


def test_ids_are_unique_and_the_coco_form_is_the_same_truth(both, animals):
    twice = ConcatDataset(datasets=(shapes(3, 0), animals, shapes(3, 0)))
    for dataset in (both, twice):
        coco = dataset.coco()
        assert [c["name"] for c in coco["categories"]] == list(dataset.class_names)
        assert len({image["id"] for image in coco["images"]}) == len(coco["images"]) == len(dataset)
        assert len({a["id"] for a in coco["annotations"]}) == len(coco["annotations"])
        sizes = {image["id"]: (image["height"], image["width"]) for image in coco["images"]}
        for record in map(dataset.__getitem__, range(len(dataset))):
            assert sizes[record.image_id] == record.original_size
            own = [a for a in coco["annotations"] if a["image_id"] == record.image_id]
            assert [a["category_id"] for a in own] == [dataset.category_ids[c] for c in record.objects.classes]
            assert [a["id"] for a in own] == record.objects.annotation_ids.tolist()
            boxes = np.array([a["bbox"] for a in own]).reshape(-1, 4)
            assert np.allclose(boxes[:, :2] + boxes[:, 2:], record.objects.boxes[:, 2:])
        json.dumps(coco)
    assert both[3].image_id == "1-1"
    assert both.datasets[1].coco()["images"][0]["id"] == 1, "the datasets themselves are left as they are"


def test_category_ids_are_kept_where_the_datasets_agree_on_them(both, animals):
    assert both.category_ids == (1, 2, 3, 4, 5, 9)  # star has the id 4 in both
    other = Recipe(animals.cls, {**animals.kwargs, "class_names": ("cat",)})
    assert ConcatDataset(datasets=(other, animals)).category_ids == (9, 4)
    fish = Recipe(Shapes, {"num_images": 1})
    dataset = ConcatDataset(datasets=(animals, fish))
    assert dict(zip(dataset.class_names, dataset.category_ids))["cat"] == 9


def test_summary_pickle_and_nothing(both):
    words = both.summary()
    assert "2 datasets with 5 images and 6 classes" in words
    assert all(dataset.summary() in words for dataset in both.datasets)
    again = pickle.loads(pickle.dumps(both))
    for name in ("boxes", "classes", "crowd", "annotation_ids"):
        a, b = again[4].objects.fields[name], both[4].objects.fields[name]
        assert a.tolist() == b.tolist()
    with pytest.raises(ValueError, match="at least one"):
        ConcatDataset(datasets=())
