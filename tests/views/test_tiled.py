"""Tiled prediction by a detector that finds what is drawn, so that the right answer is known to the pixel."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from detkit.data import ResizeShortestEdge
from detkit.layers.box_ops import pairwise_iou
from detkit.predictor import Predictor
from detkit.structures import BitMasks, Boxes, CroppedMasks, Instances, Keypoints, Panoptic, Prediction, Sample, Tiling
from detkit.views import TiledModel

SEAMS = (96, 112, 128, 192, 224, 256)
"""Coordinates at which tiles of 128 of a 512 image begin, end or are the nearest."""


class FindsDrawings(nn.Module):
    """Every number above 0 in the red channel is an object; green is its class, and blue its score in percent.

    Of an object that its image cuts it is a little less sure. Boxes are off by up to ``noise`` pixels.
    """

    class_names = ("a", "b", "c")

    def __init__(self, fields=("masks", "keypoints"), noise=0.0):
        super().__init__()
        self.fields, self.noise, self.sizes = fields, noise, []

    def forward(self, samples):
        self.sizes.append(len(samples))
        return [self.found(sample) for sample in samples]

    def found(self, sample):
        assert tuple(sample.image.shape[1:]) == tuple(sample.original_size) or not self.fields
        red, green, blue = sample.image
        numbers = [number for number in red.unique().tolist() if number]
        masks = torch.stack([red == number for number in numbers]) if numbers else torch.zeros(0, *red.shape) > 0
        boxes, size = BitMasks(masks).boxes().tensor, tuple(red.shape)
        height, width = size
        scores, classes = ([int(values[mask][0]) for mask in masks] for values in (blue, green))
        at_rim = (boxes[:, :2] == 0).any(1) | (boxes[:, 2] == width) | (boxes[:, 3] == height)
        points = torch.stack([boxes.reshape(-1, 2, 2).mean(1), boxes[:, :2] + 0.5], 1)
        points = torch.cat([points, (0.9 - 0.5 * at_rim.float())[:, None, None].expand(-1, 2, 1)], 2)
        boxes = boxes + (torch.rand(boxes.shape, generator=torch.manual_seed(len(numbers))) - 0.5) * 2 * self.noise
        extra = {"masks": BitMasks(masks), "keypoints": Keypoints(points, skeleton=[(0, 1)])}
        scale = torch.tensor(sample.original_size) / torch.tensor(size)
        instances = Instances(
            sample.original_size,
            boxes=Boxes(boxes * scale[[1, 0, 1, 0]]).clip(sample.original_size),
            scores=torch.tensor(scores) / 100 * torch.where(at_rim, 0.9, 1.0),
            classes=torch.tensor(classes, dtype=torch.int64),
            **{name: extra[name] for name in self.fields},
        )
        instances = instances[instances.scores.argsort(descending=True, stable=True)]
        panoptic = self.merge(instances, green.long()) if "masks" in self.fields else None
        return Prediction(instances, green.long(), panoptic, num_cut=1)

    def merge(self, instances, semantic):
        return Panoptic(semantic + instances.masks.bitmaps().tensor.any(0))


def drawn(size, objects):
    """An image; each object is ``(mask or box, class, score)``, which later ones lie in front of."""
    image = np.zeros((*size, 3), np.uint8)
    for number, (shape, class_index, score) in enumerate(objects, 1):
        if isinstance(shape, tuple):
            x1, y1, x2, y2 = shape
            image[y1:y2, x1:x2] = (number, class_index, score)
        else:
            image[shape] = (number, class_index, score)
    return image


def predictions(image, tile=128, overlap=0.25, batch_size=4, **options):
    """The image as a whole, and in tiles."""
    tiling = Tiling(size=tile, overlap=overlap)
    predictors = [Predictor(FindsDrawings(**options), tile=t, batch_size=batch_size) for t in (None, tiling)]
    return [predictor(image) for predictor in predictors]


def assert_same(image, scores=True, tolerance=0.0, **options):
    """Tiles give the objects of the whole image, each once."""
    whole, tiled = (prediction.instances for prediction in predictions(image, **options))
    assert len(whole) == len(tiled)
    assert (tiled.scores.diff() <= 0).all()
    same = pairwise_iou(whole.boxes.tensor, tiled.boxes.tensor) * (whole.classes[:, None] == tiled.classes)
    tiled = tiled[same.argmax(1)]
    assert sorted(same.argmax(1).tolist()) == list(range(len(whole)))
    assert whole.classes.tolist() == tiled.classes.tolist()
    assert (whole.boxes.tensor - tiled.boxes.tensor).abs().amax() <= tolerance
    if scores:
        assert whole.scores.tolist() == tiled.scores.tolist()
    if "masks" in whole:
        assert isinstance(tiled.masks, CroppedMasks)
        assert torch.equal(whole.masks.bitmaps().tensor, tiled.masks.bitmaps().tensor)
    return whole, tiled


def isolated(seed, scale=1, number=50, gap=8):
    """Boxes on a square image with some pixels between them, wherever the seams are."""
    side = 512 * scale
    rng, taken, found = np.random.default_rng(seed), np.zeros((side, side), bool), []

    def start(length):  # half of them near to a border of a tile
        return scale * rng.choice(SEAMS) - rng.integers(length) if rng.random() < 0.5 else rng.integers(side - length)

    while len(found) < number:
        height, width = rng.integers(8, 25 * scale, 2)
        y, x = start(height), start(width)
        if not taken[max(0, y - gap) : y + height + gap, max(0, x - gap) : x + width + gap].any():
            taken[y : y + height, x : x + width] = True
            found.append(((x, y, x + width, y + height), int(rng.integers(3)), int(rng.integers(10, 100))))
    return drawn((side, side), found)


def test_tiles_of_512_of_a_large_image_give_what_is_on_the_whole_image():
    assert_same(isolated(7, scale=4), tile=512, fields=("masks",))


@pytest.mark.parametrize("fields", [("masks", "keypoints"), ("masks",), ()])
@pytest.mark.parametrize("seed", [0, 1])
def test_isolated_objects_are_those_of_the_whole_image(seed, fields):
    whole, tiled = assert_same(isolated(seed), fields=fields)
    if "keypoints" in fields:
        assert torch.equal(whole.keypoints.tensor, tiled.keypoints.tensor)
        assert whole.keypoints.skeleton == tiled.keypoints.skeleton == ((0, 1),)


@pytest.mark.parametrize("x", SEAMS)
@pytest.mark.parametrize("y", [0, SEAMS[0], SEAMS[2]])
@pytest.mark.parametrize("side", [8, 30])
def test_an_object_on_a_seam_comes_out_once_and_whole(x, y, side):
    for shift in (0, side // 2, side - 1):
        left, top = x - shift, max(0, y - shift)
        assert_same(drawn((300, 300), [((left, top, left + side, top + side), 1, 80)]))


@pytest.mark.parametrize("fields", [("masks",), ()])
@pytest.mark.parametrize(
    "box", [(25, 25, 175, 37), (75, 5, 85, 275), (3, 3, 297, 297), (50, 75, 250, 175), (125, 0, 300, 130)]
)
def test_an_object_larger_than_overlap_or_tile_is_joined(box, fields):
    image = drawn((300, 300), [(box, 2, 90)])
    _, tiled = assert_same(image, fields=fields, scores=False)
    assert tiled.scores.tolist() == [pytest.approx(0.81)]  # that of a piece


def test_a_joined_object_keeps_the_lines_between_its_keypoints():
    image = drawn((300, 300), [((25, 25, 175, 37), 2, 90)])
    assert predictions(image, fields=("keypoints",))[1].instances.keypoints.skeleton == ((0, 1),)


def test_an_object_that_a_seam_cuts_into_several_pieces_is_one():
    rows, columns = np.mgrid[:150, :300]
    fork = (columns > 50) & (columns < 250) & (((rows > 25) & (rows < 37)) | ((rows > 75) & (rows < 85)))
    fork |= (columns > 245) & (columns < 250) & (rows > 25) & (rows < 85)
    _, tiled = assert_same(drawn((150, 300), [(fork, 0, 50)]), scores=False, fields=("masks",))
    assert len(tiled) == 1


def test_a_long_diagonal_object_is_joined_by_its_mask():
    rows, columns = np.mgrid[:300, :300]
    stripe = (abs(rows - columns) < 5) & (rows > 15) & (rows < 285)
    assert_same(drawn((300, 300), [(stripe, 0, 50)]), scores=False, fields=("masks",))


@pytest.mark.parametrize("fields", [("masks",), ()])
def test_neighbours_on_a_seam_stay_apart(fields):
    small = [((100 + 9 * i, 90 + 9 * j, 108 + 9 * i, 98 + 9 * j), 0, 50 + i) for i in range(4) for j in range(5)]
    large = [((25, 150 + 13 * i, 225, 162 + 13 * i), 1, 60 + i) for i in range(5)]  # larger than the overlap
    assert_same(drawn((300, 300), [*small, *large]), scores=False, fields=fields)


def test_objects_of_two_classes_in_one_place_are_two():
    over, under = np.zeros((2, 200, 200), bool)
    under[25:100, 75:150] = True
    over[25:100:2, 75:150] = True  # every other row
    assert_same(drawn((200, 200), [(under, 0, 60), (over, 1, 70)]), scores=False, fields=("masks",))
    assert_same(drawn((200, 200), [(under, 0, 60), (over, 1, 70)]), scores=False, fields=())


class NearRimUnsure(FindsDrawings):
    """Takes what lies near to the rim of its image for something else, and is sure of it."""

    def found(self, sample):
        prediction = super().found(sample)
        height, width = sample.original_size
        sides = prediction.instances.boxes.tensor
        near = ((sides < 15) | (sides > torch.tensor([width, height, width, height]) - 15)).any(1)
        found = prediction.instances
        changed = found.with_fields(classes=found.classes + near, scores=torch.where(near, 0.99, found.scores))
        return dataclasses.replace(prediction, instances=changed)


def test_the_tile_that_shows_most_around_an_object_says_what_it_is():
    places = [(x, y) for x in range(20, 280, 40) for y in range(20, 280, 40)]
    image = drawn((300, 300), [((x, y, x + 12, y + 14), 1, 50) for x, y in places])
    found = Predictor(NearRimUnsure(fields=()), tile=Tiling(size=128, overlap=0.5))(image).instances
    assert len(found) == len(places)
    assert set(found.classes.tolist()) == {1}


class LeftAndRight(FindsDrawings):
    """In the left half of its image an object is of class 0, in the right half of class 1 and surer."""

    def found(self, sample):
        found = super().found(sample).instances
        right = (found.boxes.tensor[:, 0] > sample.original_size[1] / 2).long()
        return Prediction(found.with_fields(classes=right, scores=0.6 + 0.2 * right))


def test_tiles_that_show_an_object_equally_well_do_not_give_it_two_classes():
    image = drawn((128, 224), [((108, 50, 116, 60), 2, 50)])  # in the middle of what two tiles show
    found = Predictor(LeftAndRight(), tile=128)(image).instances
    assert found.classes.tolist() == [1]
    assert found.boxes.tolist() == [[108, 50, 116, 60]]


@pytest.mark.parametrize("seed", [2, 3])
def test_boxes_that_are_not_exact_do_not_come_out_twice(seed):
    assert_same(isolated(seed, scale=2), tile=256, noise=1.5, fields=(), tolerance=4.0, scores=False)


@pytest.mark.parametrize("overlap", [0.1, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("tile", [(100, 64), 128, 500])
def test_any_tiles_give_the_same(tile, overlap):
    objects = [((20, 20, 380, 60), 0, 50), ((100, 90, 130, 310), 1, 60), ((200, 100, 215, 112), 2, 70)]
    assert_same(drawn((333, 411), objects), tile=tile, overlap=overlap, scores=False, fields=("masks",))


def test_an_image_without_objects_or_smaller_than_a_tile():
    _, tiled = predictions(drawn((700, 700), []), tile=256)
    assert len(tiled.instances) == 0
    assert tiled.instances.image_size == (700, 700)
    assert_same(drawn((90, 40), [((0, 0, 40, 30), 1, 50)]))
    assert_same(drawn((90, 800), [((395, 0, 440, 90), 1, 50)]))


def test_semantic_and_panoptic_maps_are_those_of_the_whole_image_and_what_was_cut_off_is_added_up():
    whole, tiled = predictions(isolated(4), tile=150)
    assert torch.equal(whole.semantic, tiled.semantic)
    assert torch.equal(whole.panoptic.ids, tiled.panoptic.ids)
    assert tiled.num_cut == len(Tiling(size=150).tiles((512, 512)))


def test_no_more_tiles_than_a_batch_are_predicted_at_a_time():
    model = FindsDrawings()
    predictor = Predictor(model, tile=64, batch_size=5)
    predictor([isolated(5), isolated(6)])
    assert max(model.sizes) == 5
    assert sum(model.sizes) == 2 * len(Tiling(size=64).tiles((512, 512)))


def test_augmentations_are_applied_to_each_tile():
    model, seen = FindsDrawings(fields=()), []
    model.register_forward_pre_hook(lambda _, inputs: seen.extend(s.image.shape[1:] for s in inputs[0]))
    enlarged = ResizeShortestEdge(short_edge=(512,), max_size=2000)
    predictor = Predictor(model, tile=256, augmentations=[enlarged])
    found = predictor(drawn((600, 600), [((230, 230, 270, 270), 1, 50)])).instances
    assert set(map(tuple, seen)) == {(512, 512)}
    assert found.boxes.tensor.numpy() == pytest.approx(np.array([[230, 230, 270, 270]]), abs=1)


def test_an_image_that_was_resized_before_is_refused():
    sample = Sample(image=torch.zeros(3, 50, 50, dtype=torch.uint8), original_size=(100, 100), file_name="a.png")
    with pytest.raises(ValueError, match=r"a.png: tiles are cut from images as they are in their files"):
        TiledModel(FindsDrawings(), 32)([sample])
