"""A dataset's annotations in flat arrays are those that its records and its COCO form give."""

import json

import numpy as np
import pytest
from PIL import Image

from detkit.config import Recipe
from detkit.data import CocoInstances, ConcatDataset, Shapes


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
