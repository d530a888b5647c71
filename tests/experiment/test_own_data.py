"""A folder of data as an experiment: its parts, and the settings that follow from it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_folders import make_folder

from detkit.config import to_yaml
from detkit.experiment import load_experiment
from detkit.experiment.own_data import own_data
from detkit.registry import ConfigError, DataError
from detkit.utils.run_folder import begin_run

SHARED = Path(__file__).parents[3] / "shared" / "data"
SIZES = "model.proposal_generator.anchor_generator.sizes"


def coco(folder, name="train", images=10, size=(240, 320), side=40, objects=2, classes=("cat", "dog"), masks=True):
    """A part with squares of ``side`` pixels, as COCO."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    content = {"images": [], "annotations": [], "categories": [{"id": i, "name": n} for i, n in enumerate(classes, 1)]}
    for i in range(images):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(folder / name / f"{name}{i}.png")
        content["images"].append({"id": i, "file_name": f"{name}{i}.png", "height": size[0], "width": size[1]})
        for k in range(objects):
            x, y = (k * 11) % (size[1] - side), (k * 7) % (size[0] - side)
            row = {"id": i * objects + k, "image_id": i, "category_id": 1 + k % len(classes), "iscrowd": 0}
            corners = [[x, y, x + side, y, x + side, y + side, x, y + side]]
            row |= {"bbox": [x, y, side, side], "area": side * side} | ({"segmentation": corners} if masks else {})
            content["annotations"].append(row)
    (folder / name / "_annotations.coco.json").write_text(json.dumps(content))
    return folder


def loaded(folder, *args, **options):
    made = own_data(folder, *args, **options)
    exp = load_experiment(made.config, made.overrides)
    exp.notes = made.notes
    return exp


def at(exp, path):
    node = exp.tree
    for key in path.replace("[", ".").replace("]", "").split("."):
        node = node[int(key)] if key.isdecimal() else node[key]
    return node


def test_parts_are_train_and_validation_and_test_stands_in(tmp_path):
    coco(tmp_path, "train", images=6)
    coco(tmp_path, "test", images=2)
    assert [len(loaded(tmp_path).data.train_set), len(loaded(tmp_path).data.test_set)] == [6, 2]
    coco(tmp_path, "valid", images=3)
    assert [len(loaded(tmp_path).data.train_set), len(loaded(tmp_path).data.test_set)] == [6, 3]
    assert "train to train on, valid to evaluate on" in loaded(tmp_path).notes


def test_a_category_that_only_stands_above_others_is_no_class(tmp_path):
    coco(tmp_path, "train", images=30)
    file = tmp_path / "train/_annotations.coco.json"
    content = json.loads(file.read_text())
    for category in content["categories"]:
        category["supercategory"] = "animals"
    content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    file.write_text(json.dumps(content))
    exp = loaded(tmp_path)
    assert exp.data.train_set.class_names == exp.data.test_set.class_names == ("cat", "dog")
    assert "animals only groups other classes" in exp.notes
    assert loaded(tmp_path, class_names=["animals", "cat"]).data.train_set.class_names == ("animals", "cat")


@pytest.mark.parametrize("name", ["train", "images"])
def test_one_part_alone_is_split_by_the_names_of_its_images(tmp_path, name):
    coco(tmp_path, name, images=60)
    exp, third = loaded(tmp_path), loaded(tmp_path, val_fraction=0.4)
    for made, share in ((exp, 0.2), (third, 0.4)):
        train, test = ({s.image_path(i) for i in range(len(s))} for s in (made.data.train_set, made.data.test_set))
        assert not train & test
        assert len(train | test) == 60
        assert len(test) == pytest.approx(60 * share, abs=8)
    small, large = ({s.image_path(i) for i in range(len(s))} for s in (exp.data.test_set, third.data.test_set))
    assert small < large


def test_groups_of_which_none_is_to_train_or_evaluate_on_are_divided_together(tmp_path):
    source = make_folder("SuperviselyDataset", tmp_path)
    (source / "train").rename(source / "ds1")
    shutil.copytree(source / "ds1", source / "ds2")
    data = loaded(source, val_fraction=0.5).data
    assert sorted((len(data.train_set), len(data.test_set))) in ([1, 3], [2, 2])
    (source / "ds2").rename(source / "test")
    with pytest.raises(DataError, match="has no part to train on; there are ds1, test"):
        own_data(source)


def test_classes_may_be_one_text(tmp_path):
    assert loaded(coco(tmp_path), class_names="dog, cat").data.train_set.class_names == ("dog", "cat")


def test_a_class_that_no_label_has_is_not_trained_on(tmp_path):
    make_folder("LabelMeDataset", tmp_path)
    for names, words in ((["cat", "cta"], "no object is of the class 'cta'. Did you mean 'cat'"), (["cta"], "'cta'")):
        with pytest.raises(DataError, match=re.escape(words)):
            own_data(tmp_path, class_names=names)


@pytest.mark.parametrize("images", [2, 3, 4, 5])
def test_of_few_images_at_least_one_is_in_each_part(tmp_path, images):
    for share in (0.05, 0.5, 0.95):
        data = loaded(coco(tmp_path, images=images), val_fraction=share).data
        assert min(len(data.train_set), len(data.test_set)) >= 1
        assert len(data.train_set) + len(data.test_set) == images


def test_a_class_that_the_validation_part_has_no_object_of_is_one_of_its_classes(tmp_path):
    for part, names in (("train", ("cat", "dog", "cow")), ("val", ("dog",))):
        for i, name in enumerate(names):
            file = tmp_path / "JPEGImages" / f"{part}{i}.jpg"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(file)
            box = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
            words = f"<filename>{file.name}</filename><object><name>{name}x</name>{box}</object>"
            (tmp_path / "Annotations").mkdir(exist_ok=True)
            (tmp_path / "Annotations" / f"{file.stem}.xml").write_text(f"<annotation>{words}</annotation>")
        lists = tmp_path / "ImageSets" / "Main" / f"{part}.txt"
        lists.parent.mkdir(parents=True, exist_ok=True)
        lists.write_text("".join(f"{part}{i}\n" for i in range(len(names))))
    exp = loaded(tmp_path)
    exp.data.check_classes(exp.data.train_set.class_names)
    assert set(exp.data.test_set.class_names) == {"catx", "dogx", "cowx"}
    assert exp.tree["model"]["roi_heads"]["mask_head"] is None


@pytest.mark.parametrize("masks", [True, False])
def test_without_a_config_masks_decide(tmp_path, masks):
    exp = loaded(coco(tmp_path, masks=masks, images=30))
    assert (exp.tree["model"]["roi_heads"]["mask_head"] is not None) == masks
    assert at(exp, "train.hooks[1].metric") == ("ema/mask/AP" if masks else "ema/box/AP")


def test_a_template_with_masks_learns_boxes_where_there_are_only_boxes(tmp_path):
    folder = coco(tmp_path, masks=False, images=30)
    exp = loaded(folder, "own_data/mask_rcnn_large")
    assert exp.tree["model"]["roi_heads"]["mask_head"] is None
    assert at(exp, "train.hooks[1].metric") == "ema/box/AP"
    mine = loaded(coco(tmp_path / "masks", images=30), None, ["model.roi_heads.mask_head=null"])
    assert at(mine, "train.hooks[1].metric") == "ema/box/AP"


def test_another_config_gets_the_datasets_and_nothing_else(tmp_path):
    exp, plain = (
        loaded(coco(tmp_path, images=30), "coco/mask_rcnn_R_50_FPN_1x"),
        load_experiment("coco/mask_rcnn_R_50_FPN_1x"),
    )
    for name in ("model", "solver", "train", "evaluators"):
        assert exp.tree[name] == plain.tree[name]
    assert exp.data.train_set.class_names == ("cat", "dog")


def test_what_the_user_says_stays(tmp_path):
    folder = coco(tmp_path / "data", images=30)
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "_base_: own_data/mask_rcnn_small\n"
        "model: {proposal_generator: {anchor_generator: {sizes: [[9], [18], [36], [72], [144]]}}}\n"
    )
    exp = loaded(folder, mine, ["solver.max_iter=7", "data.train_augmentations=[{name: RandomFlip}]"])
    assert at(exp, SIZES) == [[9], [18], [36], [72], [144]]
    assert at(exp, "solver.max_iter") == 7
    assert [a["name"] for a in at(exp, "data.train_augmentations")] == ["RandomFlip"]
    assert at(exp, "train.eval_period") <= 7
    assert at(exp, "solver.schedule.warmup_iters") < 7
    assert exp.tree == load_experiment(exp.tree).tree  # plain numbers, from which nothing is derived again


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.test_augmentations=[{name: Resize, size: [640, 640]}]"],
        ["data.test_augmentations=[{name: ResizeShortestEdge, short_edge: [640]}]"],
        ["data.test_augmentations=[{name: ResizeShortestEdge, max_size: 700}]"],
        ["data.test_augmentations=[{name: ResizeAndPad}]", "data.train_augmentations=[{name: ResizeAndPad}]"],
        ["data.test_augmentations[0].short_edge=[2]"],
        ["data.test_augmentations[0].max_size=1"],
        ["data.test_augmentations=[]"],
        ["data.train_augmentations=[]"],
        ["train.hooks=[]"],
        ["train.hooks=[{name: EarlyStopping, metric: box/AP, patience: 3}]"],
        ["evaluators=[]"],
        ["evaluators=[{name: DetectionErrors}]"],
        ["solver.optimizer={name: SGD, lr: 0.1}", "train.init_weights=null"],
        ["solver.schedule={name: WarmupMultiStepLR}"],
        ["solver.max_iter=null", "solver.epochs=0.5"],
        ["train.init_weights=null", "model.backbone={name: ResNet, depth: 18}"],
        ["train.init_weights=null", "model.backbone={name: Swin}"],
        ["model.roi_heads.name=CascadeRoIHeads"],
        ["model.roi_heads.name=RefinedBoxRoIHeads"],
        ["model.roi_heads.mask_head=null"],
        ["model.proposal_generator.name=MatterportRPN"],
        ["model.proposal_generator.anchor_generator={name: CellAnchorGenerator}"],
        ["model.proposal_generator.anchor_generator={name: GridAnchorGenerator}"],
        ["model.proposal_generator.selection={pre_nms_topk_train: 5}"],
    ],
)
def test_what_follows_spares_each_part_that_the_user_has_put_there(tmp_path, overrides):
    exp = loaded(coco(tmp_path, images=4), None, overrides)
    assert exp.tree == load_experiment(exp.tree, overrides).tree
    assert at(exp, "train.checkpoint_period") < 300  # the rest follows from the data all the same


@pytest.mark.parametrize("model", ["retinanet_R_50_FPN", "fcos_R_50_FPN", "semantic_fpn_R_50", "panoptic_fpn_R_50"])
def test_a_model_of_another_kind_over_a_template_gets_what_fits_it(tmp_path, model):
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"_base_: [own_data/mask_rcnn_small, _base_/models/{model}]\n")
    exp, plain = loaded(coco(tmp_path / "data", images=4), mine), load_experiment(mine)
    assert exp.tree["model"]["name"] == plain.tree["model"]["name"] != "GeneralizedRCNN"
    assert at(exp, "train.eval_period") == 30
    if "roi_heads" not in exp.tree["model"]:
        assert at(exp, "train.hooks[1].metric") == "ema/box/AP"


def test_training_images_are_as_large_as_the_test_images_of_which_the_user_says_it(tmp_path):
    exp = loaded(coco(tmp_path, images=4), None, ["data.test_augmentations[0].short_edge=[640]"])
    assert at(exp, "data.train_augmentations[0].short_edge") == [448, 512, 576, 640, 704]


def test_a_value_of_the_environment_is_followed(tmp_path, monkeypatch):
    monkeypatch.setenv("OWN_BATCH", "2")
    folder = coco(tmp_path, images=400, size=(60, 80), side=20)
    assert at(loaded(folder, None, ["data.batch_size=${oc.decode:${oc.env:OWN_BATCH}}"]), "solver.max_iter") > 900


def test_settings_follow_the_data(tmp_path):
    few, many, small, full = (
        loaded(coco(tmp_path / name, **options))
        for name, options in {
            "few": {"images": 20},
            "many": {"images": 400, "size": (60, 80), "side": 20},
            "small": {"images": 20, "side": 10},
            "full": {"images": 20, "objects": 130},
        }.items()
    )
    assert at(few, "solver.max_iter") == load_experiment("own_data/mask_rcnn_small").solver.max_iter
    assert at(many, "solver.max_iter") > at(few, "solver.max_iter")
    assert at(small, SIZES)[0] < at(few, SIZES)[0]
    assert at(few, "data.test_augmentations[0].short_edge") == [240]  # images are not enlarged
    limits = [at(exp, "model.roi_heads.box_head.detection.max_detections") for exp in (few, full)]
    assert limits == [100, 200]
    assert limits == [at(exp, "evaluators[0].max_detections") for exp in (few, full)]
    assert at(full, "model.proposal_generator.selection.post_nms_topk_test") >= 200


@pytest.mark.parametrize("size", ["small", "large"])
def test_without_weights_everything_learns_and_for_longer(tmp_path, size):
    folder = coco(tmp_path, images=30)
    exp, tuned = (loaded(folder, f"own_data/mask_rcnn_{size}", more) for more in (["train.init_weights=null"], []))
    assert all(p.requires_grad for p in exp.build_model().parameters())
    assert at(exp, "solver.max_iter") > at(tuned, "solver.max_iter")
    assert at(tuned, "train.init_weights").startswith("torchvision://")
    assert "without weights" in exp.notes
    layers = [at(e, f"model.roi_heads.{head}.init") for e in (exp, tuned) for head in ("box_head", "mask_head")]
    detectron2 = [{"cls_score": 0.01, "bbox_pred": 0.001}, {"predictor": 0.001}]
    assert layers == [*detectron2, {"cls_score": None, "bbox_pred": None}, {"predictor": None}]
    given = ["train.init_weights=null", "model.roi_heads.mask_head.init.predictor=0.5"]
    assert at(loaded(folder, f"own_data/mask_rcnn_{size}", given), "model.roi_heads.mask_head.init.predictor") == 0.5
    boxes = coco(tmp_path / "boxes", masks=False, images=30)
    assert at(loaded(boxes, f"own_data/mask_rcnn_{size}", given[:1]), "model.roi_heads.mask_head") is None


def test_names_and_paths_are_taken_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("OWN_DATA_SECRET", "secret")
    names = (
        "${oc.env:OWN_DATA_SECRET}",
        "${x}",
        "a\\\\${b}",
        "no",
        "~",
        "1",
        "a, b=c: #",
        "\U0001f600",
        "\u202e\x7f\xa0x",
    )
    exp = loaded(coco(tmp_path / "photos ${x}, é", images=10, classes=names, objects=len(names)))
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(exp.tree), encoding="utf-8")
    for experiment in (exp, load_experiment(file)):
        assert experiment.data.train_set.class_names == experiment.data.test_set.class_names == names


@pytest.mark.parametrize("below", ["output/run", "."])
def test_what_a_run_has_left_in_the_folder_is_no_data(tmp_path, below):
    (tmp_path / "data.yaml").write_text("names: [cat]")
    for i in range(5):
        Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("0 0.5 0.5 0.4 0.4")
    before = own_data(tmp_path).notes
    run = tmp_path / below
    run.mkdir(parents=True, exist_ok=True)
    begin_run(run)
    for name in ("predictions/0.png", "predictions/step_1/0.png", "earlier_run_1/predictions/0.png", "curves.png"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "0.png", run / name)
    assert own_data(tmp_path).notes == before
    assert "5 images" in before


def test_a_mistake_in_the_config_is_said_before_anything_follows_from_it(tmp_path):
    coco(tmp_path, images=4)
    for override, words in (("solver.max_iter=x", "solver.max_iter: expected int"), ("solver=null", "solver: ")):
        with pytest.raises(ConfigError, match=words):
            own_data(tmp_path, overrides=[override])
    for share in (0, 1, -1, float("nan"), "0.3"):
        with pytest.raises(DataError, match="val_fraction: expected a number between 0 and 1"):
            own_data(tmp_path, val_fraction=share)
    with pytest.raises(DataError, match="is empty; give a folder"):
        own_data("")


def test_what_cannot_be_measured_is_no_reason_to_stop_or_said_at_once(tmp_path):
    coco(tmp_path, "train")
    coco(tmp_path, "val", masks=False)
    exp = loaded(tmp_path)
    assert at(exp, "train.hooks[1].metric") == "ema/box/AP"
    assert at(exp, "model.roi_heads.mask_head") is not None
    coco(tmp_path, "val", objects=0)
    with pytest.raises(DataError, match="the part to evaluate on has no object"):
        own_data(tmp_path)


def test_a_folder_without_objects_is_no_data_to_learn_from(tmp_path):
    with pytest.raises(DataError, match="the part to train on has no object"):
        own_data(coco(tmp_path, objects=0))


@pytest.mark.parametrize("name", ["balloon", "nuclei", "bccd"])
def test_real_folders_need_no_config(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"no {SHARED / name}")
    exp = loaded(SHARED / name)
    assert len(exp.data.train_set) > 2 * len(exp.data.test_set)
    exp.data.check_classes(exp.data.train_set.class_names)
