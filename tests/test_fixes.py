"""The fix that a message names is one that works: it is taken out of the message, followed, and the mistake is gone."""

import json
import re
import sys

import numpy as np
import pytest
from PIL import Image
from tiny_detector import CONFIG, TINY, tiny_experiment

from detkit.commands import train as train_command
from detkit.config import ConfigError
from detkit.data import CocoInstances, open_dataset
from detkit.predictor import Predictor
from detkit.registry import DataError

SIZE = (60, 80)


def message(call, *arguments, **options) -> str:
    """What a call says that ends in one of the project's errors."""
    with pytest.raises((ConfigError, DataError, ValueError)) as error:
        call(*arguments, **options)
    return str(error.value)


def named(pattern: str, words: str) -> str:
    """The fix: the group of a pattern that must be in the message."""
    found = re.search(pattern, words)
    assert found, words
    return found[1]


# Overrides: what they set is set at the place, or as the value, that the message names.


@pytest.mark.parametrize(
    ("mistake", "value"),
    [
        ("train.epochs", "3"),
        ("solver.lr", "0.01"),
        ("lr", "0.01"),
        ("model.roi_heads.mask_head.num_cov", "2"),
        ("model.roi_heads.score_thresh", "0.5"),
        ("model.neck.out_channel", "16"),
        ("data.train_dataset.num_imgs", "3"),
        ("mask_head", "null"),
    ],
)
def test_an_option_in_the_wrong_place_is_set_in_the_named_one(mistake, value):
    option = named(r"Did you mean '([\w.]+)'", message(tiny_experiment, f"{mistake}={value}"))
    place = "" if "." in option else mistake.rpartition(".")[0] + "."
    others = ["solver.max_iter=null"] if option == "solver.epochs" else []
    tiny_experiment(f"{place}{option}={value}", *others)


@pytest.mark.parametrize(
    ("mistake", "pattern"),
    [
        ("model.neck.name=FNP", r"Did you mean '(\w+)'"),
        ("solver.schedule.name=WarmupMultiStep", r"Did you mean '(\w+)'"),
        ("train.precision=bf61", r"Did you mean '(\w+)'"),
        ("data.batch_size=0", r"expected int \(>= (\d+)\)"),
        ("model.roi_heads.box_head.detection.score_thresh=50", r"expected float \(0\.\.(\d+)\)"),
        ("model.roi_heads.in_features=[p2, p9]", r"there are (p2), p3"),
        ("data.train_augmentations=[{name: ResizeAndPad, mode: square, max_size: 100}]", r"take (\d+)"),
    ],
)
def test_a_wrong_value_is_replaced_by_the_named_one(mistake, pattern):
    def build(override):
        exp = tiny_experiment(override)
        exp.build_model(class_names=("a",), pretrained=False)
        exp.data.train(0)

    fix = named(pattern, message(build, mistake))
    old = re.search(r"name=(\w+)|precision=(\w+)|size=(\d+)|thresh=(\d+)|(p9)|max_size: (\d+)", mistake)
    start, end = next(old.span(i) for i in range(1, 7) if old[i])
    build(mistake[:start] + fix + mistake[end:])


@pytest.mark.parametrize(
    "mistake", ["model.roi_heads.mask_head", "model.roi_heads.mask_head=", "model.roi_heads.mask_head=None"]
)
def test_nothing_is_written_as_the_message_says(mistake):
    assert "null" in named(r"write (.*?null)", message(tiny_experiment, mistake)) or "null" in message(
        tiny_experiment, mistake
    )
    assert tiny_experiment("model.roi_heads.mask_head=null").tree["model"]["roi_heads"]["mask_head"] is None


# Data: a COCO file and what is wrong with it.


@pytest.fixture
def coco(tmp_path):
    """Writes a file of two images with two objects, changed by a function; returns what opens it."""

    def write(change=lambda content: None):
        (tmp_path / "images").mkdir(exist_ok=True)
        content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
        for i in (1, 2):
            pixels = np.random.default_rng(i).integers(0, 255, (*SIZE, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"images/{i}.png")
            content["images"].append({"id": i, "file_name": f"{i}.png", "height": 60, "width": 80})
            row = {"id": i, "image_id": i, "category_id": i, "bbox": [5, 5, 30, 30], "area": 900, "iscrowd": 0}
            content["annotations"].append({**row, "segmentation": [[5, 5, 35, 5, 35, 35, 5, 35]]})
        change(content)
        (tmp_path / "coco.json").write_text(json.dumps(content))
        paths = {"json_file": str(tmp_path / "coco.json"), "image_root": str(tmp_path / "images")}
        return lambda **options: CocoInstances(**{**paths, **options})

    return write


def test_a_path_that_does_not_exist_is_the_named_one(coco, tmp_path):
    opened = coco()
    near = named(r"Did you mean '(.+?)'\?", message(opened, image_root=str(tmp_path / "image")))
    assert len(opened(image_root=near)) == 2


def test_a_class_that_does_not_exist_is_the_named_one(coco):
    opened = coco()
    assert opened(class_names=(named(r"Did you mean '(\w+)'", message(opened, class_names=("dgo",))),)).class_names == (
        "dog",
    )


@pytest.mark.parametrize("choice", ["drop", "box"])
def test_annotations_without_a_mask_are_dropped_or_take_their_box(coco, choice):
    opened = coco(lambda content: content["annotations"][0].update(segmentation=[]))
    assert named(rf"set invalid_masks: .*?({choice})", message(opened))
    assert len(opened(invalid_masks=choice).objects().classes) == {"drop": 1, "box": 2}[choice]


def test_boxes_without_area_are_dropped(coco):
    opened = coco(lambda content: content["annotations"][0].update(bbox=[5, 5, 0, 30]))
    choice = named(r"invalid_boxes: (\w+) leaves it out", message(opened, invalid_boxes="error"))
    assert len(opened(invalid_boxes=choice).objects().classes) == 1


def test_images_elsewhere_are_read_where_the_file_is_trusted(coco, tmp_path):
    opened = coco(lambda content: content["images"][0].update(file_name="../elsewhere.png"))
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "elsewhere.png")
    option = named(r"set the dataset's reading\.(\w+) to true", message(opened))
    paths = f"json_file: {tmp_path}/coco.json, image_root: {tmp_path}/images"
    node = f"{{name: CocoInstances, {paths}, reading: {{{option}: true}}}}"
    assert len(tiny_experiment(f"data.train_dataset={node}").data.train_set) == 2


def test_larger_images_are_read_with_a_higher_limit(coco, monkeypatch):
    opened = coco()
    monkeypatch.setenv("DETKIT_MAX_PIXELS", "1000")
    variable = named(r"set the environment variable (\w+) to a larger", message(opened))
    monkeypatch.setenv(variable, "1000000")
    assert opened()[0].image.shape == (*SIZE, 3)


def test_deep_images_are_scaled_by_the_named_option(tmp_path, caplog):
    values = np.random.default_rng(0).integers(0, 4096, SIZE).astype(np.uint16)
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    Image.fromarray(values).save(tmp_path / "images/a.png")
    (tmp_path / "labels/a.txt").write_text("0 .5 .5 .5 .5\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cell]\n")
    assert open_dataset(tmp_path)[0].image.max() < 16
    option, value = re.search(r"the dataset's reading\.(\w+) \((\d+) for 12 bits\)", caplog.text).groups()
    reading = f"{{name: AutoDataset, path: {tmp_path}, reading: {{{option}: {value}}}}}"
    assert tiny_experiment(f"data.train_dataset={reading}").data.train_set[0].image.max() == 255


# Runs and their folders.


def train(folder, *overrides, arguments=()):
    base = ["--config-file", str(CONFIG), *arguments, *TINY, "solver.max_iter=1", f"train.output_dir={folder}"]
    return train_command.main([*base, *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    assert train(folder, "train.checkpoint_period=1") == 0
    return folder


def test_another_model_begins_with_the_weights_that_fit(finished, tmp_path):
    other = ["model.neck.out_channels=32", "solver.max_iter=2"]
    option = named(r"start a new run from it with ([\w.]+\w)", message(train, finished, *other, arguments=["--resume"]))
    weights = f"{option}={finished / 'model_final.pth'}"
    words = message(train, tmp_path / "new", *other, "model.backbone.width=16", weights)
    allowed = named(r"allow it with ([\w.]+=true)", words)
    assert train(tmp_path / "newer", *other, "model.backbone.width=16", weights, allowed) == 0


def test_classes_in_another_order_are_put_right_by_the_option(finished, coco, tmp_path):
    names = ["circle", "square", "triangle", "star", "ring"]
    coco(lambda c: c.update(categories=[{"id": i, "name": name} for i, name in enumerate(reversed(names), 1)]))
    node = f"name: CocoInstances, json_file: {tmp_path}/coco.json, image_root: {tmp_path}/images"
    wrong = [f"data.test_dataset={{{node}}}"]
    option = named(
        r"Set the dataset's '(\w+)' to the model's", message(train, finished, *wrong, arguments=["--eval-only"])
    )
    right = [f"data.test_dataset={{{node}, {option}: [{', '.join(names)}]}}"]
    assert train(finished, *right, arguments=["--eval-only"]) == 0


def test_a_set_to_look_at_is_trained_on_without_the_doctor(coco, tmp_path):
    coco(lambda content: content.update(annotations=[]))
    node = f"{{name: CocoInstances, json_file: {tmp_path}/coco.json, image_root: {tmp_path}/images}}"
    sets = [f"data.train_dataset={node}", f"data.test_dataset={node}"]
    option = named(r"(train\.doctor=false) trains all the same", message(train, tmp_path / "run", *sets))
    assert train(tmp_path / "run", *sets, option) == 0


def test_a_metric_that_is_not_there_is_one_of_those_named(tmp_path):
    def hook(metric):
        return f"train.hooks=[{{name: BestCheckpoint, metric: {metric}}}]"

    there = named(r"there are .*?(mask/AP)\b", message(train, tmp_path / "a", hook("mask/APP")))
    assert train(tmp_path / "b", hook(there)) == 0


def test_wandb_can_be_switched_off(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    hook = "train.hooks=[{{name: WandbWriter{}}}]"
    option = named(r"set its (mode: disabled)", message(train, tmp_path / "a", hook.format("")))
    assert train(tmp_path / "b", hook.format(f", {option}")) == 0


def test_a_run_has_the_weights_that_are_named(finished):
    file = named(r"weights there: .*?(checkpoint_\d+\.pth)", message(Predictor.from_run, finished, weights="best.pth"))
    assert Predictor.from_run(finished, weights=file).class_names


def test_code_of_a_strangers_run_is_trusted_by_option(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from detkit.modeling.necks import FPN\nfrom detkit.modeling.interfaces import NECKS\n\n\n"
        '@NECKS.register()\nclass TrustedNeck(FPN):\n    """A neck."""\n'
    )
    (tmp_path / "mine.yaml").write_text(
        f"_base_: {CONFIG}\nimports: [mine.py]\nmodel: {{neck: {{name: TrustedNeck}}}}\n"
    )
    overrides = [*TINY, "model.neck={name: TrustedNeck, out_channels: 16}", "solver.max_iter=1"]
    overrides = [o for o in overrides if not o.startswith("model.neck.out")]
    run = tmp_path / "run"
    assert train_command.main([str(tmp_path / "mine.yaml"), *overrides, f"train.output_dir={run}"]) == 0
    option, value = re.search(r"(trust_imports)=(True)", message(Predictor.from_run, run)).groups()
    assert Predictor.from_run(run, **{option: value == "True"}).class_names
