"""Damaged files of labels are read or refused with the project's error, never with another."""

import copy
import json
import os
import random

import pytest
from PIL import Image
from small_folders import FOLDERS, make_folder

from detkit.data import open_dataset
from detkit.registry import DataError

TOKENS = (
    "null",
    "-1",
    "1e999",
    "[]",
    "{}",
    '""',
    '"x"',
    "true",
    "99999999999999999999",
    "\x00",
    "NaN",
    "[[[1]]]",
    "é",
    "<a>",
)

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="
OUTLINE = [[1, 1], [20, 1], [20, 20]]
VALUES = (None, -1, 0, 1.5, 1e9, 1e30, 10**25, "", "x", True, [], {}, [1], ["x"], {"a": 1}, [[1, 2]], [[None]])


def _studio(*values):
    kinds = ("polygonlabels", "ellipselabels", "rectanglelabels", "bitmasklabels")
    results = [
        {"type": kind, "to_name": "i", "original_width": 40, "original_height": 30, "value": {**value, kind: ["cat"]}}
        for kind, value in zip(kinds, values, strict=True)
    ]
    return [{"id": 1, "data": {"image": "1.png"}, "annotations": [{"id": 1, "result": results}]}]


SHAPES = {
    "labelme": (
        "1.json",
        {
            "imagePath": "1.png",
            "imageHeight": 30,
            "imageWidth": 40,
            "shapes": [
                {"label": "cat", "shape_type": "circle", "points": [[9, 9], [12, 9]], "group_id": 1},
                {"label": "cat", "shape_type": "mask", "points": [[3, 3], [3, 3]], "mask": PNG, "group_id": 1},
                {"label": "cat", "shape_type": "rectangle", "points": [[3, 3], [9, 9]], "group_id": None},
            ],
        },
    ),
    "label_studio": (
        "tasks.json",
        _studio(
            {"points": [[1, 1], [50, 1], [50, 50]]},
            {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "rotation": 30},
            {"x": 10, "y": 10, "width": 30, "height": 20, "rotation": 10},
            {"imageDataURL": f"data:image/png;base64,{PNG}"},
        ),
    ),
    "supervisely": (
        "d/ann/1.png.json",
        {
            "size": {"height": 30, "width": 40},
            "objects": [
                {
                    "classTitle": "cat",
                    "geometryType": "polygon",
                    "points": {"exterior": OUTLINE, "interior": [[[9, 3], [12, 3], [12, 6]]]},
                },
                {"classTitle": "cat", "geometryType": "bitmap", "bitmap": {"origin": [3, 4], "data": "eJw="}},
                {"classTitle": "cat", "geometryType": "oriented_bbox", "angle": 1, "points": {"exterior": OUTLINE[1:]}},
            ],
        },
    ),
    "via": (
        "via.json",
        {
            "1": {
                "filename": "1.png",
                "regions": [
                    {"shape_attributes": {"name": "polygon", "all_points_x": [1, 9, 9], "all_points_y": [1, 1, 9]}},
                    {"shape_attributes": {"name": "ellipse", "cx": 9, "cy": 9, "rx": 4, "ry": 3, "theta": 0.5}},
                ],
            }
        },
    ),
}


def places(value, path=()):
    """The paths of all values within a value."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


def replaced(content, path, value):
    """The content with another value at a path."""
    content = copy.deepcopy(content)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return content


@pytest.mark.parametrize("key", SHAPES)
def test_a_value_of_another_kind_gives_a_dataset_or_the_projects_error(key, tmp_path):
    rng, (name, content) = random.Random(key), SHAPES[key]
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "meta.json").write_text('{"classes": [{"title": "cat"}]}')
    image = tmp_path / ("d/img/1.png" if key == "supervisely" else "1.png")
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(image)
    for path in places(content):
        for value in rng.sample(VALUES, 6):
            (tmp_path / name).write_text(json.dumps(replaced(content, path, value)))
            try:
                open_dataset(tmp_path, format=key).coco()
            except DataError as error:
                assert str(error)  # noqa: PT017  # any other exception fails
            except Exception as error:
                pytest.fail(f"{type(error).__name__}: {error}\n{path} = {value!r}")


def damaged(text: str, rng: random.Random) -> str:
    """The text with a piece cut out, twice there, or replaced."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        start = rng.randrange(len(text) + 1)
        end = min(start + rng.choice((1, 2, 5, 20)), len(text))
        piece = rng.choice(("", text[start:end] * 2, rng.choice(TOKENS), chr(rng.randrange(32, 127))))
        text = text[:start] + piece + text[end:]
    return text


@pytest.mark.parametrize("format", [name for name, (texts, *_) in FOLDERS.items() if texts and name != "AutoDataset"])
def test_damage_gives_a_dataset_or_the_projects_error(format, tmp_path):
    rng = random.Random(format)
    root = make_folder(format, tmp_path)
    files = [root / name for name in FOLDERS[format][0]]
    sound = {file: file.read_text() for file in files}
    key = open_dataset(root).key if format == "AutoDataset" else None
    for _ in range(60):
        file = rng.choice(files)
        text = damaged(sound[file], rng)
        file.write_text(text)
        try:
            dataset = open_dataset(root, format=key)
            [dataset[index] for index in range(len(dataset))]
        except DataError as error:
            assert str(error)  # noqa: PT017  # any other exception fails
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}\n{file.name}:\n{text}")
        file.write_text(sound[file])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "labels.json")
    with pytest.raises(DataError, match="no regular file"):
        open_dataset(tmp_path)
