"""The image of a task is found among the other texts of its data."""

import pytest
from variant_folders import IMAGE, STUDIO_BOX, write

from detkit.data import open_dataset
from detkit.registry import DataError


def task(**data):
    return {"p.json": [{"id": 1, "data": data, "annotations": [{"result": [STUDIO_BOX]}]}]}


@pytest.mark.parametrize(
    "data",
    [
        {"caption": "A dog. Big.", "image": "/data/upload/1/a.png"},
        {"link": "https://a.org/b", "caption": "b", "image": "/data/local-files/?d=images/a.png"},
        {"caption": "Big.", "image": "s3://bucket/a.png?X-Amz-Signature=1.2/3"},
        {"thumbnail": "/data/upload/1/small.png", "image": "/data/upload/1/a.png"},
        {"caption": "A dog.", "image": "https://a.org/a"},
    ],
)
def test_the_image_is_the_text_that_names_one(data, tmp_path):
    write(tmp_path, {**task(**data), "images/a.png": IMAGE, "images/b.png": IMAGE})
    dataset = open_dataset(tmp_path)
    assert dataset.image_path(0) == str(tmp_path / "images/a.png")


def test_an_image_that_is_not_there_is_named(tmp_path):
    write(tmp_path, {**task(caption="a", image="/data/upload/1/c.png"), "a.png": IMAGE})
    with pytest.raises(DataError, match=r"task 0 \(id 1\) names the image '/data/upload/1/c\.png', but there is no"):
        open_dataset(tmp_path)
