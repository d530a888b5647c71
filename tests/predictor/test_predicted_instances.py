import copy
import json
import pickle
import sys

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from echo_model import Echo
from PIL import Image

from detkit.data import Shapes
from detkit.evaluation import CocoEvaluator
from detkit.predictor import PredictedInstances, Predictor
from detkit.structures import Boxes, CroppedMasks, Instances, Prediction

IMAGE = np.full((20, 30, 3), (200, 100, 0), np.uint8)


@pytest.fixture
def found():
    return Predictor(Echo())(IMAGE).instances


def classes_of(instances):
    return instances.class_names, instances.labels


def test_rows_copies_and_joined_rows_know_the_names(found):
    assert classes_of(found) == (("cat", "dog"), ["dog", "cat"])
    for same in (found.to("cpu"), pickle.loads(pickle.dumps(found)), copy.deepcopy(found), found.with_fields(x=[1, 2])):
        assert classes_of(same) == classes_of(found)
        assert type(same) is PredictedInstances
    for rows in (found[1], found[1:], found[torch.tensor([1])], found[found.scores < 0.5], found.without("masks")[1]):
        assert classes_of(rows) == (("cat", "dog"), ["cat"])
    joined = Instances.cat([found[1], found])
    assert classes_of(joined) == (("cat", "dog"), ["cat", "dog", "cat"])
    assert Prediction(found).above(0.5).instances.labels == ["dog"]
    assert found[0:0].labels == []
    other = Predictor(Echo(), class_names=("dog", "cat"))(IMAGE).instances
    with pytest.raises(ValueError, match="different class names"):
        Instances.cat([found, other])


def test_a_class_without_a_name_has_its_number():
    names = PredictedInstances((4, 4), class_names=("cat",), classes=torch.tensor([0, 3, -1]))
    assert names.labels == ["cat", "3", "-1"]


def test_the_repr_counts_the_classes(found):
    assert repr(found).startswith("PredictedInstances(2: 1 dog, 1 cat; image 30 x 20; boxes, scores, classes, masks")
    assert repr(found[0:0]).startswith("PredictedInstances(0; image 30 x 20;")


def test_to_dict_is_json(found):
    content = json.loads(json.dumps(found.without("pixels").to_dict()))
    assert content["boxes"] == [[3, 2, 9, 8], [1.25, 2, 10, 12]]
    assert content["labels"] == ["dog", "cat"]
    assert content["classes"] == [1, 0]
    assert content["scores"] == pytest.approx([0.9, 0.25])
    assert content["keypoints"] == [[[3.5, 4.5, 0.75]], [[5.5, 6.5, 0.5]]]
    assert (content["height"], content["width"]) == (20, 30)
    decoded = [coco_mask.decode({"size": m["size"], "counts": m["counts"].encode()}) for m in content["masks"]]
    assert (np.array(decoded) == found.masks.numpy()).all()


def test_polygons_cover_the_pixels_of_the_masks_with_their_holes(found):
    first, empty = json.loads(json.dumps(found.to_dict(masks="polygon")))["masks"]
    assert empty == []
    assert (coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(first, 20, 30))) == found.masks.numpy()[0]).all()
    assert "masks" not in found.to_dict(masks=None)
    with pytest.raises(ValueError, match="polygon"):
        found.to_dict(masks="polygons")


def test_no_outline_is_followed_that_is_not_asked_for(found, monkeypatch):
    monkeypatch.setattr("detkit.predictor.instances.one_polygon", None)
    assert len(found.to_dict()["masks"]) == len(found)
    with pytest.raises(TypeError):
        found.to_dict(masks="polygon")


def test_nothing_found_and_no_masks(found):
    for nothing in (found[0:0], found[0:0].without("masks", "keypoints")):
        assert nothing.to_dict()["boxes"] == nothing.to_dict()["labels"] == []
        assert nothing.to_coco(1) == []
        assert nothing.draw(IMAGE).size == (30, 20)
    assert "segmentation" not in found.without("masks").to_coco(1)[0]


def test_coco_results_are_those_that_the_evaluator_writes():
    data = Shapes(num_images=2, seed=3)
    predictor = Predictor(Echo(), class_names=data.class_names)
    predictor.category_ids = data.category_ids
    predictions = predictor([data[0].image, data[1].image])
    evaluator = CocoEvaluator(data)
    samples = [predictor.sample(data[i].image) for i in range(2)]
    for i, sample in enumerate(samples):
        object.__setattr__(sample, "image_id", data.image_id(i))
    evaluator.update(samples, predictions)
    rows = [row for i, p in enumerate(predictions) for row in p.instances.to_coco(data.image_id(i))]
    assert rows == evaluator.results()
    assert len(rows) == 4
    assert json.loads(json.dumps(rows)) == rows


def test_ids_of_categories_may_be_given_and_must_be_enough(found):
    assert [row["category_id"] for row in found.to_coco(7)] == [2, 1]
    assert [row["category_id"] for row in found.to_coco("a", [10, 20])] == [20, 10]
    with pytest.raises(ValueError, match="class 1"):
        found.to_coco(7, [10])


@pytest.mark.parametrize("given", [np.int64(7), np.uint8(7), torch.tensor(7)])
def test_ids_of_images_are_numbers_of_any_kind(found, given):
    assert json.loads(json.dumps(found.to_coco(given))) == found.to_coco(7)
    with pytest.raises(ValueError, match="image_id: expected a whole number or a text, got None"):
        found.to_coco(None)


def test_supervision_has_all_of_it(found):
    supervision = pytest.importorskip("supervision")
    for instances in (found, found.without("masks", "keypoints"), found[0:0]):
        there = instances.to_supervision()
        assert isinstance(there, supervision.Detections)
        assert np.array_equal(there.xyxy, instances.boxes.tensor.numpy())
        assert np.array_equal(there.class_id, instances.classes.numpy())
        assert np.array_equal(there.confidence, instances.scores.numpy())
        assert there.data["class_name"].tolist() == instances.labels
        assert "masks" not in instances or np.array_equal(there.mask, instances.masks.numpy())
    assert found.to_supervision()[1:].data["keypoints"].tolist() == [[[5.5, 6.5, 0.5]]]


def test_a_missing_supervision_is_said_with_its_command(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'detkit\[supervision\]'"):
        found.to_supervision()


def test_drawing_keeps_the_size_and_shows_what_scores_enough(found):
    large = np.repeat(np.repeat(IMAGE, 100, 0), 100, 1)
    for image in (IMAGE, large, Image.fromarray(large), torch.from_numpy(IMAGE).permute(2, 0, 1)):
        picture = found.draw(image)
        size = image.size if isinstance(image, Image.Image) else (max(image.shape[1:]), max(image.shape[1:]) * 2 // 3)
        assert picture.size == size
        assert (np.asarray(picture) != (200, 100, 0)).any()
        assert (np.asarray(found.draw(image, score_thresh=0.95)) == (200, 100, 0)).all()


def test_drawing_takes_a_file_and_not_several(found, tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    for image in (tmp_path / "a.png", (tmp_path / "a.png").as_uri()):
        assert found.draw(image) == found.draw(IMAGE)
    for several in (tmp_path, [IMAGE]):
        with pytest.raises(ValueError, match="expected one image"):
            found.draw(several)


def test_colours_of_the_drawing_are_right_whatever_order_was_predicted():
    bgr = IMAGE[..., ::-1]
    for found in (Predictor(Echo(), channel_order="BGR")(bgr), Predictor(Echo())(bgr, channel_order="BGR")):
        assert (np.asarray(found.instances.draw(bgr, score_thresh=1)) == (200, 100, 0)).all()
    assert (np.asarray(found.instances.draw(IMAGE, score_thresh=1, channel_order="RGB")) == (200, 100, 0)).all()


def test_a_predictor_draws_an_image_as_it_was_predicted():
    predictor, options = Predictor(Echo()), {"score_thresh": 2, "show_best": 0}
    bgr, deep = IMAGE[..., ::-1], IMAGE / 255
    for image, reading in ((bgr, {"channel_order": "BGR"}), (deep, {"max_value": 1.0})):
        picture = predictor.draw(image, predictor(image, **reading), **options)
        assert (picture == predictor.draw(IMAGE, predictor(IMAGE), **options)).all()


def test_masks_of_large_images_are_not_laid_out(monkeypatch):
    monkeypatch.setattr(CroppedMasks, "bitmaps", None)
    monkeypatch.setattr(CroppedMasks, "tensor", None)
    bits = torch.ones(36, dtype=torch.bool)
    masks = CroppedMasks(bits, torch.tensor([[20_000, 7, 20_006, 13]]), (30_000, 30_000))  # 900 MB as a bitmap
    found = PredictedInstances(
        (30_000, 30_000),
        class_names=("cat",),
        boxes=Boxes([[20_000, 7, 20_006, 13]]),
        scores=torch.ones(1),
        classes=torch.zeros(1).long(),
        masks=masks,
    )
    assert found.to_dict(masks="polygon")["masks"] == [[[20_000, 7, 20_006, 7, 20_006, 13, 20_000, 13]]]
    assert found.to_coco(1)[0]["segmentation"]["size"] == [30_000, 30_000]
    assert found[[0]].labels == ["cat"]
