"""Keypoints of a COCO file arrive in the record and the target, with names, skeleton and pairs of left and right."""

import json

import numpy as np
import pytest
from PIL import Image

from detkit.config import Recipe
from detkit.data import AnnotationTable, CocoInstances, ConcatDataset, KeypointSpec, Mapper, RandomFlip, Shapes
from detkit.registry import DataError

H, W = 40, 60
NAMES = ["nose", "left_eye", "right_eye"]
PERSON = {"id": 7, "name": "person", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}
DOG = {"id": 2, "name": "dog"}
POINTS = [10, 12, 2, 8, 9, 1, 0, 0, 0]


def annotation(id_, category=7, **other):
    return {"id": id_, "image_id": 1, "category_id": category, "bbox": [5, 5, 20, 20], "area": 400, **other}


@pytest.fixture
def make(tmp_path):
    Image.new("RGB", (W, H)).save(tmp_path / "1.png")

    def write(annotations, categories=(PERSON, DOG), **options):
        images = [{"id": 1, "file_name": "1.png", "height": H, "width": W}]
        content = {"images": images, "annotations": annotations, "categories": list(categories)}
        (tmp_path / "a.json").write_text(json.dumps(content))
        return CocoInstances(json_file=str(tmp_path / "a.json"), image_root=str(tmp_path), **options)

    return write


def test_keypoints_arrive_in_pixels_with_their_pairs(make):
    dataset = make([annotation(1, keypoints=POINTS, num_keypoints=2), annotation(2, 2), annotation(3)])
    assert dataset.keypoint_names == tuple(NAMES)
    assert dataset.keypoint_flip_pairs == ((1, 2),)
    assert dataset.skeleton == ((0, 1), (0, 2))
    keypoints = dataset[0].objects.keypoints
    assert keypoints.tolist() == [
        [[10.5, 12.5, 2], [8.5, 9.5, 1], [0, 0, 0]],  # the middle of the pixel that the file counts from 0
        [[0, 0, 0]] * 3,
        [[0, 0, 0]] * 3,
    ]
    assert keypoints.flip_pairs == ((1, 2),)
    assert "3 objects (boxes only, 3 keypoints)" in dataset.summary()
    assert "nose, left_eye, right_eye; 1 left and right) of 1 objects" in dataset.summary()


def test_a_mirror_takes_the_left_eye_for_the_right_one_in_the_target(make):
    dataset = make([annotation(1, keypoints=POINTS)])
    target = Mapper(dataset, [RandomFlip(prob=1.0)])(0, 0).target
    assert target.keypoints.tolist() == [[[W - 10.5, 12.5, 2], [0, 0, 0], [W - 8.5, 9.5, 1]]]


def test_coco_form_reads_back_to_the_same_keypoints(make):
    dataset = make([annotation(1, keypoints=POINTS), annotation(2, 2)])
    truth = json.loads(json.dumps(dataset.coco()))
    assert truth["annotations"][0]["keypoints"] == POINTS
    assert truth["annotations"][0]["num_keypoints"] == 2
    assert "keypoints" not in truth["annotations"][1]
    again = make(truth["annotations"], truth["categories"])
    assert (again.keypoint_names, again.skeleton) == (dataset.keypoint_names, dataset.skeleton)
    assert again[0].objects.keypoints.tolist() == dataset[0].objects.keypoints.tolist()


def test_categories_with_different_keypoints_are_refused_unless_one_is_chosen(make):
    hand = {"id": 3, "name": "hand", "keypoints": ["thumb"]}
    rows = [annotation(1, keypoints=POINTS), annotation(2, 3, keypoints=[1, 2, 2])]
    words = r"a\.json: the categories 'hand' and 'person' have different keypoints.*class_names"
    with pytest.raises(DataError, match=words):
        make(rows, [PERSON, hand])
    assert make(rows, [PERSON, hand], class_names=("hand",)).keypoint_names == ("thumb",)


def test_keypoints_without_names_are_taken_as_they_come(make):
    dataset = make([annotation(1, keypoints=POINTS)], [{"id": 7, "name": "person"}])
    assert dataset.keypoint_names == ("0", "1", "2")
    assert dataset.keypoint_flip_pairs == ()
    assert "0 left and right" in dataset.summary()


@pytest.mark.parametrize("points", [[1, 2, 2], [*POINTS[:8], 3], [float("inf"), *POINTS[1:]], "nose", ["a"] * 9])
def test_malformed_keypoints_are_named(make, points):
    with pytest.raises(
        DataError, match=r"a\.json: annotation 4: keypoints is .*expected 9 numbers: x, y and visibility"
    ):
        make([annotation(1, keypoints=POINTS), annotation(4, keypoints=points)])


@pytest.mark.parametrize(
    ("change", "words"),
    [({"keypoints": ["a", "a"]}, "list of different names"), ({"skeleton": [[0, 1]]}, "the first of which is 1")],
)
def test_malformed_categories_are_named(make, change, words):
    with pytest.raises(DataError, match=f"category 'person'.*{words}"):
        make([annotation(1)], [{**PERSON, **change}])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_eye", "right_eye"),
        ("eye_l", "eye_r"),
        ("L-Ear", "R-Ear"),
        ("ankleLeft", "ankleRight"),
        ("LAnkle", "RAnkle"),
        ("lefteye", "righteye"),
        ("front left paw", "front right paw"),
        ("hip.L", "hip.R"),
        ("LEFT_HIP", "RIGHT_HIP"),
    ],
)
def test_left_and_right_are_told_by_their_names(left, right):
    assert KeypointSpec(("nose", right, "tail", left)).flip_pairs == ((1, 3),)


def test_names_that_only_look_like_sides_have_no_pair():
    names = ("bright", "cleft", "l", "left_eye", "wheel", "wheer", "left_hand", "nose")
    assert KeypointSpec(names).flip_pairs == ()


def test_the_17_of_coco():
    parts = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    sides = [f"{side}_{part}" for part in parts for side in ("left", "right")]
    assert KeypointSpec(("nose", *sides)).flip_pairs == tuple((i, i + 1) for i in range(1, 17, 2))


def test_datasets_with_and_without_keypoints_together(make, tmp_path):
    make([annotation(1, keypoints=POINTS)])
    coco = Recipe(CocoInstances, {"json_file": str(tmp_path / "a.json"), "image_root": str(tmp_path)})
    both = ConcatDataset(datasets=(Recipe(Shapes, {"num_images": 2}), coco))
    assert both.keypoint_names == tuple(NAMES)
    none, some = both[0].objects, both[2].objects
    assert none.keypoints.shape == (len(none), 3, 3)
    assert not none.keypoints.visible().any()
    assert some.keypoints.visible().tolist() == [[True, True, False]]
    assert both.coco()["categories"][-2]["keypoints"] == NAMES
    table = AnnotationTable.from_rows(both.datasets[1].coco()["images"], [], {1: "hand"})
    assert table.keypoint_spec is None


def test_a_file_with_many_keypoints_keeps_them_apart(make):
    rng = np.random.default_rng(0)
    points = rng.integers(1, 30, (20, 3, 3))
    points[..., 2] = rng.integers(1, 3, (20, 3))
    rows = [annotation(i, keypoints=points[i].reshape(-1).tolist()) if i % 3 else annotation(i) for i in range(20)]
    found = make(rows)[0].objects.keypoints.numpy()
    expected = points + np.array([0.5, 0.5, 0])
    expected[::3] = 0
    np.testing.assert_array_equal(found, expected)


def test_images_with_too_few_keypoints_are_left_out_of_the_training(tmp_path):
    for i in (1, 2, 3):
        Image.new("RGB", (W, H)).save(tmp_path / f"{i}.png")
    images = [{"id": i, "file_name": f"{i}.png", "height": H, "width": W} for i in (1, 2, 3)]
    rows = [annotation(1, keypoints=POINTS), annotation(2, keypoints=[0] * 9), annotation(3)]
    rows += [{**annotation(4, keypoints=[10, 12, 2, *[0] * 6]), "image_id": 2}, {**annotation(5), "image_id": 3}]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": [PERSON]}))

    def kept(least):
        dataset = CocoInstances(
            json_file=str(tmp_path / "a.json"), image_root=str(tmp_path), min_keypoints=least, keep_empty=False
        )
        return [dataset.image_id(i) for i in range(len(dataset))], dataset

    assert [kept(least)[0] for least in (0, 1, 2)] == [[1, 2, 3], [1, 2], [1]]
    assert len(kept(2)[1][0].objects) == 3, "objects without keypoints stay where others have some"
    assert "2 images with fewer than 2 keypoints left out" in kept(2)[1].summary()
    with pytest.raises(DataError, match="none is left: 3 images with fewer than 3 keypoints"):
        kept(3)
