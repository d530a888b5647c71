import numpy as np
import pytest
import torch
from PIL import Image

from detkit.structures import Boxes, Instances, Sample
from detkit.visualization import prediction_picture, side_by_side, write_picture, write_prediction_pictures


def test_side_by_side_keeps_every_picture_whole():
    left, right = np.full((90, 70, 3), 10, np.uint8), np.full((60, 50, 3), 200, np.uint8)
    sheet = side_by_side([left, right], ["left", "right"])
    header = sheet.shape[0] - 90
    assert header > 0
    assert (sheet[header:, :70] == left).all()
    assert (sheet[header : header + 60, -50:] == right).all()
    assert (sheet[:header] != 255).any()
    with pytest.raises(ValueError, match="titles"):
        side_by_side([left], [])


def test_prediction_picture_with_and_without_target():
    output = Instances(
        (80, 100), boxes=Boxes([[10, 10, 50, 50]]), scores=torch.tensor([0.9]), classes=torch.tensor([0])
    )
    image = torch.full((3, 40, 50), 90, dtype=torch.uint8)
    alone = prediction_picture(Sample(image, (80, 100)), output, ["x"], min_side=0)
    target = Instances((40, 50), boxes=Boxes([[5, 5, 25, 25]]), classes=torch.tensor([0]))
    both = prediction_picture(Sample(image, (80, 100), target=target), output, ["x"], min_side=0)
    assert alone.shape[1] == 50
    assert both.shape[1] > 100
    # target and output say the same box, in the pixels of the image and of the file
    header = both.shape[0] - 40
    assert (both[header + 24, 5:25] == both[header + 24, -45:-25]).all()
    assert (both[header + 24, 5:25] != 90).any()


def test_a_file_for_each_prediction(tmp_path):
    output = Instances((8, 8), boxes=Boxes([]), scores=torch.zeros(0), classes=torch.zeros(0).long())
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    pairs = [(Sample(image, (8, 8), 4, "a/b c.jpg"), output), (Sample(image, (8, 8), "x/7"), output)]
    files = write_prediction_pictures(pairs, ["x"], tmp_path / "predictions")
    assert [f.name for f in files] == ["4.png", "x_7.png"]
    assert all(f.is_file() for f in files)


def test_written_pictures_are_read_back(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    path = write_picture(picture, tmp_path / "new" / "a.png")
    assert (np.array(Image.open(path)) == picture).all()
