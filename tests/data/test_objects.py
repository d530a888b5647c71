"""A dataset's annotations in flat arrays are those that its records and its COCO form give."""

import copy
import json
import pickle
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from detkit.config import Recipe
from detkit.data import AnnotationTable, CocoInstances, ConcatDataset, Mapper, RandomFlip, Shapes, TableDataset
from detkit.registry import DataError


@pytest.fixture
def coco_recipe(tmp_path):
    """Polygons, an RLE, a crowd, an image without an object, and one that is left out; annotations in no order."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 30, "width": 40} for i in (3, 1, 2)]
    for image in images:
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / image["file_name"])
    run = {"size": [30, 40], "counts": [30 * 10 + 5, 10, 20, 10, 30 * 40 - 345]}
    shapes = [
        (7, 2, [[5, 5, 20, 5, 20, 25]], 0),
        (4, 3, run, 0),
        (5, 2, [[1, 1, 9, 1, 9, 9], [12, 3, 14, 3, 14, 11]], 0),
        (9, 3, run, 1),
    ]
    annotations = [
        {"id": i, "image_id": image, "category_id": 1 + i % 2, "bbox": [4, 4, 12, 12], "segmentation": s, "iscrowd": c}
        for i, image, s, c in shapes
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    options = {"json_file": str(tmp_path / "instances.json"), "image_root": str(tmp_path), "keep_empty": False}
    return Recipe(CocoInstances, options)


@pytest.mark.parametrize("kind", ["coco", "shapes", "concat"])
def test_flat_annotations_are_those_of_the_records(kind, coco_recipe):
    shapes = Recipe(Shapes, {"num_images": 3, "image_size": (48, 64)})
    recipes = {
        "coco": coco_recipe,
        "shapes": shapes,
        "concat": Recipe(ConcatDataset, {"datasets": (coco_recipe, shapes)}),
    }
    dataset = recipes[kind]()
    table, content = dataset.objects(), dataset.coco()
    number = {image["id"]: i for i, image in enumerate(content["images"])}
    assert [number[entry["image_id"]] for entry in content["annotations"]] == table.images.tolist()
    assert [entry["id"] for entry in content["annotations"]] == table.ids.tolist()
    assert [entry["category_id"] for entry in content["annotations"]] == np.array(dataset.category_ids)[
        table.classes
    ].tolist()
    assert [bool(entry["iscrowd"]) for entry in content["annotations"]] == table.crowd.tolist()
    for index in range(len(dataset)):
        record, rows = dataset[index], table.images == index
        np.testing.assert_array_equal(record.objects.annotation_ids, table.ids[rows])
        np.testing.assert_array_equal(record.objects.boxes, table.boxes[rows])
        assert dataset.image_path(index) in (None, record.file_name)
        assert dataset.image_id(index) == record.image_id == content["images"][index]["id"]
        objects = ~record.objects.crowd  # a crowd's mask in the record is its box
        own = record.objects.masks.boxes().tensor[objects]
        np.testing.assert_allclose(table.extents[rows][objects.numpy()], own, atol=1e-4)


class Degrees:
    """A field of one's own, which remembers that a transform was applied to it."""

    def __init__(self, tensor, turned=False):
        self.tensor, self.turned = tensor, turned

    def __len__(self):
        return len(self.tensor)

    def __getitem__(self, rows):
        return Degrees(self.tensor[rows], self.turned)

    def transform(self, transform):
        return Degrees(-self.tensor if transform.reverses else self.tensor, True)


class WithAngles(TableDataset):
    field_types: ClassVar = {"angle": Degrees, "pair": None, "hidden": None}


IMAGES = [{"id": name, "file_name": f"{name}.png", "height": 30, "width": 40} for name in ("b", "a")]


def row(number, image="a", **fields):
    return {"id": number, "image_id": image, "category_id": 5, "bbox": [4, 4, 12, 12], **fields}


def test_fields_of_ones_own_are_in_the_record_and_in_the_target(tmp_path):
    for image in IMAGES:
        Image.new("RGB", (40, 30)).save(tmp_path / image["file_name"])
    rows = [
        row(8, angle=30, pair=[1, 2], hidden=True),
        row(3, "b", angle=0.5, pair=[5, 6], hidden=False),
        row(2, angle=-7, pair=[3, 4], hidden=False),
    ]
    dataset = WithAngles(IMAGES, rows, {5: "bar"}, image_root=str(tmp_path))
    objects = dataset[1].objects
    assert objects.angle.tensor.tolist() == [30, -7]
    assert objects.pair.tolist() == [[1, 2], [3, 4]]
    assert (objects.pair.dtype, objects.hidden.tolist()) == (torch.int64, [True, False])
    assert (dataset[1].image_id, dataset.category_ids, dataset.class_names) == ("a", (5,), ("bar",))
    target = Mapper(dataset, [RandomFlip(prob=1.0)])(0, 1).target
    assert target.angle.tensor.tolist() == [-30, 7]
    assert target.angle.turned
    assert target.pair.tolist() == [[1, 2], [3, 4]]
    assert pickle.loads(pickle.dumps(dataset)).coco() == dataset.coco()


def test_a_row_without_the_field_and_values_of_another_shape_are_named():
    fields = {"pair": None}
    with pytest.raises(DataError, match="my data: annotation 2 has no 'pair'"):
        AnnotationTable.from_rows(IMAGES, [row(1, pair=[1, 2]), row(2)], {5: "bar"}, fields=fields, place="my data")
    for other in ([1, 2, 3], "x"):
        rows = [row(1, pair=[1, 2]), row(2, pair=other)]
        with pytest.raises(DataError, match="my data: the field 'pair': expected numbers of one shape"):
            AnnotationTable.from_rows(IMAGES, rows, {5: "bar"}, fields=fields, place="my data")


def test_further_keys_of_a_coco_file_are_fields_of_a_subclass(coco_recipe):
    class WithHeat(CocoInstances):
        field_types: ClassVar = {"heat": None}

    path = coco_recipe.kwargs["json_file"]
    with open(path) as file:
        content = json.load(file)
    with pytest.raises(DataError, match="annotation 7 has no 'heat'"):
        WithHeat(**coco_recipe.kwargs)
    for entry in content["annotations"]:
        entry["heat"] = entry["id"] / 2
    with open(path, "w") as file:
        json.dump(content, file)
    for record in WithHeat(**coco_recipe.kwargs):
        assert record.objects.heat.tolist() == [id_ / 2 for id_ in record.objects.annotation_ids.tolist()]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({"id": 1.5}, r"images\[2\] has the id '1.5'; expected a string"),
        ({"id": 4}, "some image ids are numbers and some are strings"),
        ({"id": "a"}, "two images have the id 'a'"),
        ({"height": 0}, "image 'c' has file_name.*whole numbers above 0"),
        ({"file_name": ""}, "image 'c' has file_name ''"),
    ],
)
def test_images_that_are_none_are_named(image, words):
    images = [*IMAGES, {**IMAGES[0], "id": "c", **image}]
    with pytest.raises(DataError, match=f"my data: {words}"):
        AnnotationTable.from_rows(images, [], {5: "bar"}, place="my data")


def test_a_records_fields_are_read_as_its_attributes_also_in_a_copy():
    record = Shapes(num_images=1)[0]
    for one in (record, copy.deepcopy(record), pickle.loads(pickle.dumps(record))):
        assert one.boxes.tensor.equal(record.objects.boxes.tensor)
        assert one.crowd is one.objects.crowd
    with pytest.raises(AttributeError, match=r"'keypoint'.*boxes, classes"):
        record.keypoint  # noqa: B018
