import numpy as np
import torch
from PIL import Image

from detkit.data.interfaces import Dataset
from detkit.structures import BitMasks, Boxes, Instances, Prediction, Sample
from detkit.visualization import (
    prediction_picture,
    write_picture,
    write_prediction_pictures,
)
from detkit.visualization.pictures import without_padding


def test_prediction_picture_with_and_without_target():
    output = Instances(
        (80, 100), boxes=Boxes([[10, 10, 50, 50]]), scores=torch.tensor([0.9]), classes=torch.tensor([0])
    )
    image = torch.full((3, 40, 50), 90, dtype=torch.uint8)
    prediction = Prediction(output)
    alone = prediction_picture(Sample(image, (80, 100)), prediction, ["x"], min_side=0)
    target = Instances((40, 50), boxes=Boxes([[5, 5, 25, 25]]), classes=torch.tensor([0]))
    both = prediction_picture(Sample(image, (80, 100), target=target), prediction, ["x"], min_side=0)
    assert alone.shape[1] == 50
    assert both.shape[1] > 100
    # target and output say the same box, in the pixels of the image and of the file
    header = both.shape[0] - 40
    assert (both[header + 24, 5:25] == both[header + 24, -45:-25]).all()
    assert (both[header + 24, 5:25] != 90).any()


def named(*names):
    dataset = Dataset()
    dataset.class_names = names
    return dataset


def test_a_file_for_each_prediction(tmp_path):
    output = Instances((8, 8), boxes=Boxes([]), scores=torch.zeros(0), classes=torch.zeros(0).long())
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    pairs = [
        (Sample(image, (8, 8), 4, "a/b c.jpg"), Prediction(output)),
        (Sample(image, (8, 8), "x/7"), Prediction(output)),
        (Sample(image, (8, 8), "x?7"), Prediction(output)),
    ]
    files = write_prediction_pictures(pairs, named("x"), tmp_path / "predictions")
    assert [f.name for f in files] == ["4.png", "x_7.png", "x_7_2.png"]
    assert all(f.is_file() for f in files)


def test_written_pictures_are_read_back(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    path = write_picture(picture, tmp_path / "new" / "a.png")
    assert (np.array(Image.open(path)) == picture).all()


def test_padding_is_left_out_of_predictions():
    """An image in the middle of its padding, and boxes of the file on it."""
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    image[:, 20:80, 10:90] = 90
    masks = torch.zeros(1, 100, 100, dtype=torch.bool)
    masks[0, 30:50, 20:40] = True
    target = Instances((100, 100), boxes=Boxes([[20, 30, 40, 50]]), classes=torch.tensor([0]), masks=BitMasks(masks))
    sample = Sample(image, (30, 40), target=target, valid_region=(10, 20, 90, 80))
    part, truth = without_padding(sample)
    shifted = truth.instances
    assert part.shape == (3, 60, 80)
    assert (part == 90).all()
    assert shifted.image_size == (60, 80)
    assert shifted.boxes.tolist() == [[10, 10, 30, 30]]
    assert shifted.masks.numpy()[0, 10:30, 10:30].all()
    assert shifted.masks.numpy().sum() == 400
    output = Instances((30, 40), boxes=Boxes([[5, 5, 15, 15]]), scores=torch.tensor([0.9]), classes=torch.tensor([0]))
    plain = Sample(image, (30, 40), target=target.without("masks"), valid_region=(10, 20, 90, 80))
    both = prediction_picture(plain, Prediction(output), ["x"], min_side=0)
    header = both.shape[0] - 60
    left, right = both[header:, :80], both[header:, -80:]
    assert both.shape[1] < 170
    assert (left[24:30] == right[24:30]).all()  # the same box; the score is above
    assert (left[29, 10:30] != 90).any()
    target = Instances((60, 80), boxes=target.boxes)
    whole = Sample(part, (30, 40), target=target)
    assert torch.equal(without_padding(whole)[0], part)
    assert without_padding(whole)[1].instances is target


def test_the_ground_truth_has_the_semantic_map_of_the_sample():
    image = torch.full((3, 40, 50), 90, dtype=torch.uint8)
    semantic = torch.zeros(40, 50, dtype=torch.int64)
    semantic[:, 25:] = 1
    target = Instances((40, 50), boxes=Boxes([[5, 5, 15, 15]]), classes=torch.tensor([0]))
    sample = Sample(image, (40, 50), target=target, maps={"semantic": semantic}, valid_region=(10, 0, 50, 40))
    part, truth = without_padding(sample)
    assert part.shape == (3, 40, 40)
    assert torch.equal(truth.semantic, semantic[:, 10:])
    picture = prediction_picture(sample, Prediction(semantic=semantic[:, 10:]), ["x", "y"], min_side=0)
    header = picture.shape[0] - 40
    assert (picture[header + 38, 2:12] == picture[header + 38, -38:-28]).all()
    assert (picture[header + 38, 2:12] != 90).any()


def test_pictures_of_training_show_the_best_where_nothing_reaches_the_threshold():
    image = torch.full((3, 40, 50), 90, dtype=torch.uint8)
    target = Instances((40, 50), boxes=Boxes([[5, 5, 25, 25]]), classes=torch.tensor([0]))
    low = Instances((40, 50), boxes=Boxes([[30, 20, 45, 39]]), scores=torch.tensor([0.1]), classes=torch.tensor([0]))
    for sample in (Sample(image, (40, 50)), Sample(image, (40, 50), target=target)):
        shown, hidden = (
            prediction_picture(sample, Prediction(low), ["x"], show_best=num, min_side=0)[-40:, -50:] for num in (3, 0)
        )
        assert (shown != 90).any(2)[38, 30:45].all()
        assert (hidden == 90).all()
