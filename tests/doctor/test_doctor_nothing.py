"""Training sets from which nothing can be learned are errors, in the quick form too, and their fixes work."""

import copy

import pytest

from detkit.config import ConfigError
from detkit.doctor import check_at_start, run_checks
from detkit.doctor.interfaces import CheckContext
from detkit.modeling.interfaces import KeypointHead
from detkit.structures import Losses

NO_MASKS = "model.roi_heads.mask_head=null"


class Points(KeypointHead):
    """Needs no implementation: it is only looked at."""

    def __init__(self):
        super().__init__(None, 2)

    def loss(self, features, proposals):
        return Losses({})


def annotations(files, **fields):
    for entry in files.train["annotations"]:
        entry.update(copy.deepcopy(fields))


def errors(files, *overrides, heads=(), **options):
    context = CheckContext(files.experiment(*overrides), **options).load()
    for name, head in heads:
        setattr(context.model.roi_heads, name, head)
    return [f for f in run_checks(context) if f.check == "NothingToLearn" and f.severity == "error"]


def nothing(files):
    files.train["annotations"] = []


def no_list(files):
    del files.train["annotations"]


SETS = {
    "no annotation": (nothing, "there is no object to learn from", "add annotations"),
    "no list of them": (no_list, "there is no object to learn from", "add annotations"),
    "crowds": (lambda files: annotations(files, iscrowd=True), "all 24 annotations are crowds", "set iscrowd to 0"),
    "boxes without area": (lambda files: annotations(files, bbox=[1, 1, 0, 5]), "24 boxes without area", "correct"),
    "beside the image": (lambda files: annotations(files, bbox=[900, 1, 5, 5]), "24 boxes without area", "correct"),
    "no segmentation": (lambda files: annotations(files, segmentation=[]), "no object has a mask", NO_MASKS),
    "null": (lambda files: annotations(files, segmentation=None), "no object has a mask", NO_MASKS),
    "empty run lengths": (
        lambda files: annotations(files, segmentation={"size": [64, 64], "counts": [4096]}),
        "no object has a mask",
        NO_MASKS,
    ),
}


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("what", SETS)
def test_a_set_without_anything_to_learn_is_an_error_with_a_fix_that_fits(files, what, quick):
    change, words, fix = SETS[what]
    assert not errors(files, quick=quick)
    change(files)
    (found,) = errors(files, quick=quick)
    assert words in found.what
    assert fix in found.fix
    if fix == NO_MASKS:
        assert not errors(files, NO_MASKS, quick=quick)


def test_classes_that_are_left_out_are_named(files):
    files.train["categories"].append({"id": 3, "name": "cow"})
    files.test["categories"].append({"id": 3, "name": "cow"})
    sets = [f"data.{name}_dataset.class_names=[cow]" for name in ("train", "test")]
    (found,) = errors(files, *sets)
    assert "24 are of classes that class_names leaves out" in found.what


@pytest.mark.parametrize("keypoints", [None, [0, 0, 0, 0, 0, 0], [5, 5, 0, 9, 9, 0]])
def test_a_keypoint_head_needs_a_keypoint_that_is_labelled(files, keypoints):
    if keypoints:
        for category in files.train["categories"] + files.test["categories"]:
            category["keypoints"] = ["nose", "tail"]
        annotations(files, keypoints=keypoints)
    (found,) = errors(files, heads=[("keypoint_head", Points())], quick=True)
    assert "no object has a keypoint" in found.what
    assert "model.roi_heads.keypoint_head=null" in found.fix
    if keypoints:
        files.train["annotations"][3]["keypoints"] = [5, 5, 1, 9, 9, 0]
        assert not errors(files, heads=[("keypoint_head", Points())])


def test_one_of_several_sets_without_masks_is_named(files):
    (files.folder / "boxes.json").write_text("")
    experiment = files.experiment()
    options = experiment.tree["data"]["train_dataset"]
    content = copy.deepcopy(files.train)
    annotations(files, segmentation=[])
    files.experiment()
    (files.folder / "train.json").rename(files.folder / "boxes.json")
    files.train = content
    nodes = [{**options, "json_file": str(files.folder / name)} for name in ("train.json", "boxes.json")]
    node = f"data.train_dataset={{name: ConcatDataset, datasets: {nodes}}}".replace("None", "null")
    (found,) = errors(files, node.replace("True", "true").replace("False", "false"), quick=True)
    assert found.where.endswith("boxes.json")


def test_training_does_not_begin(files):
    annotations(files, segmentation=[])
    experiment = files.experiment()
    with pytest.raises(ConfigError, match=NO_MASKS):
        check_at_start(experiment, experiment.build_model(2))
    experiment = files.experiment(NO_MASKS)
    check_at_start(experiment, experiment.build_model(2))


def test_what_reading_and_augmentations_leave_out_is_noted_with_its_number(files):
    files.train["annotations"][0]["bbox"] = [70, 1, 5, 5]
    files.train["annotations"][2]["iscrowd"] = 1
    files.train["annotations"][3]["segmentation"] = {"size": [64, 64], "counts": [64 * 64]}
    cut = "data.train_augmentations=[{name: RandomCrop, size: [0.2, 0.2], kind: relative}]"
    found = {f.what: f for f in files.findings(cut) if f.check == "LeftOut"}
    assert found["boxes without area in their image left out"].count == 1
    reasons = {what.split(", ", 1)[1].split(" (")[0]: f for what, f in found.items() if "do not reach" in what}
    assert reasons["crowds, which are no targets"].examples[0].startswith("annotation 20 ")
    assert reasons["cut away or covered by RandomCrop"].count > 5
    assert not [f for f in files.findings() if f.check == "LeftOut" and "cut away" in f.what]
    kept = files.findings(cut, "data.keep_crowd=true")
    assert not [f for f in kept if f.check == "LeftOut" and "crowds" in f.what]
    (empty,) = [f for f in files.findings("data.train_augmentations=[]") if "without a pixel" in f.what]
    assert (empty.severity, empty.examples[0].split()[1]) == ("warning", "21")


def test_a_test_set_without_objects_is_a_warning(files):
    files.test["annotations"] = []
    assert [f.severity for f in files.findings(quick=True) if "no metric can be measured" in f.what] == ["warning"]
    assert not [f for f in files.findings("evaluators=[]", quick=True) if "no metric" in f.what]


def test_an_image_that_claims_to_be_huge_is_not_laid_out(files, monkeypatch):
    files.train["images"][2].update(height=46_000, width=46_000)
    for entry in files.train["annotations"][4:6]:
        entry["segmentation"] = [[3, 3, 30, 3, 30, 30]]
    found = files.findings(model=True, quick=True) + files.findings()
    assert not [f for f in found if "the check itself failed" in f.what]
