"""Keypoints that do not fit their boxes, the other data or the model are found; sound ones are not."""

import pytest

HEAD = (
    "model.roi_heads.mask_head=null",
    "model.roi_heads.keypoint_head={name: ConvUpsampleKeypointHead, pooler: {name: RoIAlignPooler, output_size: 7},"
    " num_conv: 1, conv_dim: 8}",
)
NAMES = ["nose", "left_ear", "right_ear"]


@pytest.fixture
def pointed(files):
    for content in (files.train, files.test):
        for category in content["categories"]:
            category |= {"keypoints": NAMES, "skeleton": []}
        for entry in content["annotations"]:
            x, y, w, h = entry["bbox"]
            entry["keypoints"] = [x + 1, y + 1, 2, x + w / 2, y + h / 2, 1, 0, 0, 0]
    return files


def found(files, *overrides, **options):
    return [f for f in files.findings(*overrides, **options) if f.check == "KeypointsFit"]


def rename(content, names):
    for category in content["categories"]:
        category["keypoints"] = names


def test_sound_keypoints_are_not_mentioned(pointed):
    assert found(pointed, *HEAD, model=True) == []


def test_other_keypoints_of_the_test_set_and_of_the_model_are_errors(pointed):
    rename(pointed.test, NAMES[::-1])
    (finding,) = found(pointed)
    assert (finding.severity, finding.where) == ("error", "data.test_dataset")
    assert "right_ear, left_ear, nose" in finding.what
    rename(pointed.test, NAMES)
    own = "model.roi_heads.keypoint_head.keypoints={names: [a, b]}"
    (finding,) = found(pointed, *HEAD, own, model=True)
    assert (finding.severity, finding.where) == ("error", "model")
    assert "keypoints=null" in finding.fix


def test_a_mirror_without_sides_is_worth_a_note(pointed):
    for content in (pointed.train, pointed.test):
        rename(content, ["a", "b", "c"])
    (finding,) = found(pointed)
    assert (finding.severity, "flip_pairs" in finding.fix) == ("note", True)
    assert found(pointed, "data.train_augmentations=[]") == []


def test_keypoints_that_the_model_does_not_learn_are_worth_a_note(pointed):
    (finding,) = found(pointed, model=True)
    assert (finding.severity, finding.where) == ("note", "model")
    assert "no keypoint head" in finding.what


def test_points_far_outside_of_their_boxes_are_counted(pointed):
    first, second = pointed.train["annotations"][:2]
    first["keypoints"][:3] = [60, 60, 2]
    second["keypoints"][6:] = [1, 1, 0]  # not labelled
    (finding,) = found(pointed)
    assert finding.severity == "warning"
    assert (finding.count, str(first["id"]) in next(iter(finding.examples))) == (1, True)
