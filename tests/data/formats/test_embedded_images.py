"""An image or a mask inside a JSON file is read to the pixels that the same image has as a file."""

import base64
import io
import json
import zlib

import numpy as np
import pytest
from PIL import Image
from variant_folders import IMAGE, SHAPE, labelme, write

from detkit.data import open_dataset
from detkit.registry import DataError

COLOUR = Image.new("RGB", (40, 30), (200, 30, 60))
IMAGES = {
    "palette": COLOUR.convert("P", palette=Image.Palette.ADAPTIVE),
    "palette with transparency": COLOUR.convert("RGBA").quantize(),
    "bits": Image.new("1", (40, 30), 1),
    "16 bits": Image.fromarray(np.full((30, 40), 40000, np.uint16)),
    "grey": Image.new("L", (40, 30), 7),
    "grey with alpha": Image.new("LA", (40, 30), (7, 0)),
    "alpha": Image.new("RGBA", (40, 30), (200, 30, 60, 0)),
}
MASK = np.array([[0, 1, 1], [1, 1, 0]], np.uint8)


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", IMAGES)
def test_an_embedded_image_has_the_pixels_of_its_file(kind, tmp_path):
    content = encoded(IMAGES[kind])
    write(tmp_path / "in", {"a.json": {**labelme(SHAPE), "imageData": base64.b64encode(content).decode()}})
    write(tmp_path / "out", {"a.json": labelme(SHAPE)})
    (tmp_path / "out/a.png").write_bytes(content)
    inside, file = (open_dataset(tmp_path / name).read_image(0) for name in ("in", "out"))
    assert inside.dtype == np.uint8
    assert (inside == file).all()


def palette(colours, values, transparent):
    image = Image.fromarray(values, "P")
    image.putpalette(colours)
    return encoded(image, transparency=transparent)


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(MASK * 255).convert("1")),
        encoded(Image.fromarray(np.stack([MASK * 0 + 255, MASK * 255], 2), "LA")),
        palette([0, 0, 0, 255, 255, 255], MASK, 0),
        palette([255, 255, 255, 0, 0, 0], 1 - MASK, 1),
    ],
)
def test_what_is_transparent_in_a_bitmap_is_not_in_its_mask(content, tmp_path):
    bitmap = {"origin": [4, 3], "data": base64.b64encode(zlib.compress(content)).decode()}
    thing = {"classTitle": "cat", "geometryType": "bitmap", "bitmap": bitmap}
    files = {"meta.json": {"classes": [{"title": "cat"}]}, "ds/img/a.png": IMAGE}
    write(tmp_path, {**files, "ds/ann/a.png.json": {"size": {"height": 30, "width": 40}, "objects": [thing]}})
    row = open_dataset(tmp_path).coco()["annotations"][0]
    assert (row["bbox"], row["area"]) == ([4, 3, 3, 2], MASK.sum())


def test_what_is_no_image_is_said_in_words(tmp_path):
    write(tmp_path, {"a.json": {**labelme(SHAPE), "imageData": base64.b64encode(b"words").decode()}})
    with pytest.raises(DataError, match=r"a\.json: its embedded image is of no known kind; export or save it again$"):
        open_dataset(tmp_path)


def test_a_class_of_labelme_may_be_a_number(tmp_path):
    write(tmp_path, {"a.json": labelme({**SHAPE, "label": 1}), "a.png": IMAGE})
    assert open_dataset(tmp_path).class_names == ("1",)
    (tmp_path / "a.json").write_text(json.dumps(labelme({**SHAPE, "label": None})))
    with pytest.raises(DataError, match="shape 1: has no label"):
        open_dataset(tmp_path)
