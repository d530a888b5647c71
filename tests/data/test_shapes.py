import json

import numpy as np
import pycocotools.mask as coco_mask
import pytest

from detkit.config import ConfigError, parse
from detkit.data import Dataset, Shapes


@pytest.fixture(scope="module")
def shapes():
    return Shapes(num_images=60, seed=3)


def test_image_depends_on_seed_and_index_alone(shapes):
    again, other = Shapes(num_images=5, seed=3), Shapes(num_images=5, seed=4)
    for i in range(5):
        a, b, c = shapes[i], again[i], other[i]
        assert (a.image == b.image).all()
        assert (a.objects.boxes == b.objects.boxes).all()
        assert (a.objects.masks.numpy() == b.objects.masks.numpy()).all()
        assert (a.image != c.image).any()


def test_masks_are_visible_parts_with_tight_boxes(shapes):
    for i in range(len(shapes)):
        record = shapes[i]
        masks = record.objects.masks.numpy()
        assert masks.shape == (len(record.objects.classes), 128, 128)
        assert masks.sum(0).max(initial=0) <= 1  # a pixel shows one object
        assert (record.objects.masks.boxes().numpy() == record.objects.boxes).all()
        assert (masks.sum((1, 2)) >= 40).all()


def test_it_is_a_task(shapes):
    records = [shapes[i] for i in range(len(shapes))]
    classes = np.concatenate([r.objects.classes for r in records])
    sides = np.concatenate([(r.objects.boxes[:, 2:] - r.objects.boxes[:, :2]).amax(1) for r in records])
    assert set(classes) == set(range(len(shapes.class_names)))
    assert np.bincount(classes).min() > 10
    assert sides.min() < 20
    assert sides.max() > 60
    assert min(len(r.objects.classes) for r in records) >= 1
    assert max(len(r.objects.classes) for r in records) >= 5
    boxes = [r.objects.boxes.numpy() for r in records]
    touching = sum(_overlaps(b) for b in boxes)
    assert touching > 10


def _overlaps(boxes):
    first, second = np.triu_indices(len(boxes), 1)
    a, b = boxes[first], boxes[second]
    return int(((np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])) > 0).all(1).sum())


def test_outlines_have_the_areas_of_their_shapes():
    """A single unhidden, uncut object a picture: its area in parts of its circumscribed circle's radius squared."""
    dataset = Shapes(num_images=150, image_size=(96, 96), min_objects=1, max_objects=1, min_scale=0.5, max_scale=0.5)
    expected = {"circle": np.pi, "square": 1.96, "triangle": 3 * np.sqrt(3) / 4, "ring": np.pi * (1 - 0.48**2)}
    expected["star"] = 10 * 0.5 * 0.45 * np.sin(np.pi / 5)
    largest = dict.fromkeys(expected, 0.0)
    for i in range(len(dataset)):
        record = dataset[i]
        for index, mask in zip(record.objects.classes.tolist(), record.objects.masks.numpy()):
            name = dataset.class_names[index]
            largest[name] = max(largest[name], mask.sum() / 24**2)
    assert largest == pytest.approx(expected, rel=0.03)


def test_sizes_and_counts_follow_the_options():
    dataset = Shapes(num_images=20, image_size=(64, 96), min_objects=2, max_objects=2, min_scale=0.3, max_scale=0.3)
    assert dataset.image_size(0) == (64, 96)
    for i in range(20):
        record = dataset[i]
        assert record.image.shape == (64, 96, 3)
        assert 1 <= len(record.objects.classes) <= 2  # one may hide the other
        assert (record.objects.boxes[:, 2:] - record.objects.boxes[:, :2]).max() <= 0.3 * 64 + 1
    assert all(len(r.objects.classes) == 0 for r in Shapes(num_images=3, min_objects=0, max_objects=0))


def test_coco_form_is_the_same_truth(shapes):
    truth = json.loads(json.dumps(shapes.coco()))
    assert [i["id"] for i in truth["images"]] == list(range(60))
    assert len({a["id"] for a in truth["annotations"]}) == len(truth["annotations"])
    record = shapes[7]
    entries = [a for a in truth["annotations"] if a["image_id"] == record.image_id]
    assert [a["category_id"] - 1 for a in entries] == record.objects.classes.tolist()
    for entry, mask, box in zip(entries, record.objects.masks.numpy(), record.objects.boxes):
        assert (coco_mask.decode(entry["segmentation"]).astype(bool) == mask).all()
        assert entry["area"] == mask.sum()
        x, y, w, h = entry["bbox"]
        assert [x, y, x + w, y + h] == box.tolist()


def test_editing_a_record_does_not_edit_the_dataset(shapes):
    before = shapes[0].image.copy()
    shapes[0].image[:] = 0
    assert (shapes[0].image == before).all()
    with pytest.raises(IndexError):
        shapes[60]


def test_summary_counts(shapes):
    total = sum(len(shapes[i].objects.classes) for i in range(60))
    assert f"60 images, {total} objects (masks)" in shapes.summary()
    assert "128 x 128" in shapes.summary()
    assert all(name in shapes.summary() for name in shapes.class_names)


@pytest.mark.parametrize(
    "options",
    [{"num_images": 0}, {"image_size": [8, 8]}, {"seed": -1}, {"min_scale": 0.0}, {"min_visible": 1.5}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="expected"):
        parse({"name": "Shapes", **options}, Dataset)


@pytest.mark.parametrize("options", [{"min_objects": 5, "max_objects": 2}, {"min_scale": 0.7}])
def test_bounds_that_cross_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        Shapes(**options)


@pytest.mark.parametrize("kind", ["extremes", "centres"])
def test_keypoints_are_of_what_is_visible_and_change_no_image(kind):
    plain, pointed = Shapes(num_images=8, seed=3), Shapes(num_images=8, seed=3, keypoints=kind)
    assert plain.keypoint_spec is None
    for i in range(8):
        record = pointed[i]
        assert (record.image == plain[i].image).all()
        points, boxes = record.keypoints.tensor, record.boxes.tensor
        assert (points[..., 2] == 2).all()
        x1, y1, x2, y2 = (side[:, None] for side in boxes.T)
        x, y = points[..., 0], points[..., 1]
        assert ((x1 < x) & (x < x2) & (y1 < y) & (y < y2)).all()
        if kind == "extremes":
            edges = [y[:, 0] - boxes[:, 1], boxes[:, 2] - x[:, 1], boxes[:, 3] - y[:, 2], x[:, 3] - boxes[:, 0]]
            assert all((edge == 0.5).all() for edge in edges), "in the box's first and last pixels"
    assert pointed.keypoint_flip_pairs == (((1, 3),) if kind == "extremes" else ())
