"""The example of docs/deploy.md, which knows neither torch nor detkit, finds what the Predictor finds."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from tiny_program import experiment, model, samples

from detkit.export import export
from detkit.predictor import Predictor

PAGE = Path(__file__).resolve().parents[2] / "docs/deploy.md"
RUN = """
import sys
sys.modules |= {"torch": None, "detkit": None, "torchvision": None}
import numpy as np
from detect import detect
for number, photo in enumerate(sys.argv[2:]):
    boxes, scores, names, masks = detect(sys.argv[1], photo)
    np.savez(f"{number}.npz", boxes=boxes, scores=scores, names=np.array(names, str), masks=masks)
"""


def check(program: Path, photos: list[Path], folder: Path) -> int:
    """That both find the same; returns how much."""
    code = re.search(r"^```python\n(# file: detect\.py\n.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)[1]
    assert len(code.splitlines()) <= 60
    (folder / "detect.py").write_text(code)
    command = [sys.executable, "-c", RUN, str(program), *map(str, photos)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    predictor, number = Predictor.from_export(program), 0
    for i, photo in enumerate(photos):
        gray = np.asarray(ImageOps.exif_transpose(Image.open(photo)).convert("L"))[:, :, None]
        given = gray if predictor.model.preprocess.num_channels == 1 else photo
        expected, found = predictor(given).instances, np.load(folder / f"{i}.npz")
        masks = np.asarray(expected.masks.tensor)
        np.testing.assert_allclose(found["boxes"], expected.boxes.tensor, atol=0.01)
        np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-4)
        assert list(found["names"]) == list(expected.labels)
        # a pixel whose probability is the threshold to the last bit may fall on either side
        assert (masks != found["masks"]).sum() <= 1e-3 * masks.sum()
        assert masks.any() or not len(expected)
        number += len(expected)
    return number


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, sample in enumerate(samples((120, 150), (200, 90), (64, 300))):
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(folder / f"{number}.jpg", quality=90)
    turned = Image.open(folder / "0.jpg")
    turned.getexif()[274] = 6  # the camera was held upright
    turned.save(folder / "turned.jpg", exif=turned.getexif())
    return sorted(folder.iterdir())


def test_the_plain_example_finds_what_the_predictor_finds(programs, photos, tmp_path):
    pytest.importorskip("onnxruntime")
    assert check(programs / "model.onnx", photos, tmp_path) > 5


def test_with_a_resize_in_the_model_bgr_and_a_scale(photos, tmp_path):
    pytest.importorskip("onnxruntime")
    resize = "model.preprocess.resize={name: BilinearInputResize, short_edge: [88], max_size: 170}"
    own = ["data.test_augmentations=[]", resize, "model.preprocess.channel_order=BGR", "model.preprocess.pixel_scale=2"]
    exp = experiment(*own)
    export(model(exp), tmp_path / "model.onnx", config=exp.tree, steps=[])
    assert check(tmp_path / "model.onnx", photos, tmp_path) > 3


def test_with_the_image_in_the_middle_of_a_square_and_one_channel(photos, tmp_path):
    pytest.importorskip("onnxruntime")
    pad = "data.test_augmentations=[{name: ResizeAndPad, mode: square, min_size: 96, max_size: 192}]"
    gray = ["model.preprocess.pixel_mean=[120]", "model.preprocess.pixel_std=[30]"]
    exp = experiment(pad, *gray, "model.roi_heads.box_head.detection.score_thresh=0.1")
    export(model(exp), tmp_path / "model.onnx", config=exp.tree, steps=exp.tree["data"]["test_augmentations"])
    assert check(tmp_path / "model.onnx", photos, tmp_path) > 3
