"""detkit doctor: its table, its exit codes, its JSON; on real data; and its quick form at the start of a training."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from detkit import command_line
from detkit.commands import doctor as doctor_command
from detkit.commands import train as train_command
from detkit.config import ConfigError
from detkit.doctor import check_at_start
from detkit.experiment import load_experiment

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/quick_start/mask_rcnn_shapes.yaml"

SMALL = [
    "data.train_dataset.num_images=40",
    "data.test_dataset.num_images=20",
    "model.backbone.width=8",
    "model.neck.out_channels=16",
    "model.roi_heads.box_head.fc_dims=[16]",
]


def doctor(arguments: list[str]) -> int:
    return command_line.run(lambda: doctor_command.main(arguments))


def run(folder: Path, *arguments: str) -> int:
    return doctor(["--config-file", str(CONFIG), *arguments, *SMALL, f"train.output_dir={folder}"])


@pytest.fixture
def half(tmp_path) -> str:
    """A dataset of two images, one of them cut in half, as an override."""
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 60, "width": 80} for i in (1, 2)]
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    for image in images:
        Image.fromarray(pixels).save(tmp_path / image["file_name"])
    path = tmp_path / "2.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "half.json").write_text(json.dumps(content))
    return f"data.train_dataset={{name: CocoInstances, json_file: {tmp_path}/half.json, image_root: {tmp_path}}}"


def test_a_sound_experiment_ends_with_0(tmp_path, capsys):
    assert run(tmp_path, "--json", str(tmp_path / "found.json")) == 0
    said = capsys.readouterr().out
    assert "nothing is wrong" in said
    assert re.search(r"training data\n.*\n\d+ images, \d+ objects.*\nclass +objects", said)
    assert json.loads((tmp_path / "found.json").read_text()) == []


def test_a_histogram_that_cannot_be_drawn_is_said(tmp_path, capsys):
    picture = tmp_path / "anchors.png"
    none = ["data.train_dataset.min_objects=0", "data.train_dataset.max_objects=0"]
    run(tmp_path, *none, "--quick", "--histogram", str(picture))
    assert f"{picture}: not written" in capsys.readouterr().err
    assert not picture.exists()
    run(tmp_path, "--quick", "--histogram", str(picture))
    assert "not written" not in capsys.readouterr().err
    assert picture.exists()


def test_warnings_end_with_1_and_errors_with_2(tmp_path, capsys):
    assert run(tmp_path, "--quick", "solver.max_iter=60") == 1
    out = capsys.readouterr().out
    assert "warning" in out
    assert "warmup_iters" in out
    assert run(tmp_path, "--quick", "--num-processes", "3") == 2
    assert "take a multiple of 3" in capsys.readouterr().out
    assert doctor(["--config-file", str(CONFIG), "model.neck.out_chanels=3"]) == 2
    assert "Did you mean 'out_channels'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(tmp_path, "--num-processes", "0")


def test_an_image_cut_in_half_is_found_and_named(tmp_path, half, capsys):
    arguments = ["--config-file", str(CONFIG), half, *SMALL[1:], "--json", str(tmp_path / "found.json")]
    assert doctor(arguments) == 2
    assert "unreadable image" in capsys.readouterr().out
    found = {f["what"]: f for f in json.loads((tmp_path / "found.json").read_text())}
    assert found["unreadable image"]["examples"] == [f"{tmp_path}/2.jpg"]
    assert found["unreadable image"]["severity"] == "error"


CLEAN = {
    "balloon/mask_rcnn_mobilenet_v2_FPN": "1.jpg): 4 x 15, IoU 0.24",
    "nuclei/mask_rcnn_R_18_FPN": "annotation 3896",
}


@pytest.mark.parametrize("config", CLEAN)
def test_real_data_have_nothing_but_objects_that_are_too_thin(config, shared_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETKIT_DATASETS", str(shared_data))
    arguments = ["--config-file", str(ROOT / f"configs/{config}.yaml"), f"train.output_dir={tmp_path}/run"]
    code = doctor([*arguments, "--json", str(tmp_path / "found.json"), "data.num_workers=0"])
    found = json.loads((tmp_path / "found.json").read_text())
    assert code == 0, capsys.readouterr().out
    assert [(f["severity"], f["check"]) for f in found] == [("note", "AnchorsReachObjects")]
    assert CLEAN[config].split("): ")[-1] in found[0]["examples"][0]


def test_a_training_begins_with_the_quick_form(tmp_path, caplog):
    short = ["solver.max_iter=1", "data.batch_size=2", "train.num_pictures=0", f"train.output_dir={tmp_path}/run"]
    arguments = ["--config-file", str(CONFIG), *SMALL, *short, "data.test_dataset.num_images=1", "evaluators=[]"]
    assert train_command.main(arguments) == 0
    assert "solver.schedule.warmup_iters: the warm-up of 50 steps is cut" in caplog.text
    caplog.clear()
    assert train_command.main([*arguments, "train.doctor=false"]) == 0
    assert "the warm-up of" not in caplog.text


def test_errors_of_the_quick_form_stop_a_training_with_the_fix(tmp_path, half):
    exp = load_experiment(CONFIG, [half.replace("}", ", check_images: 0}"), *SMALL[1:]])
    (tmp_path / "1.jpg").unlink()
    with pytest.raises(ConfigError, match=r"(?s)1\.jpg.*image_root.*train\.doctor=false") as error:
        check_at_start(exp, exp.build_model())
    assert "its classes are not those" in str(error.value)


@pytest.fixture
def coco_mini(shared_data, tmp_path) -> list[str]:
    """A command line for 80 photographs of COCO."""

    def dataset(name):
        folder = shared_data / "coco_mini"
        path = f"{folder}/annotations/instances_{name}2017.json"
        return f"{{name: CocoInstances, json_file: {path}, image_root: {folder}/{name}2017}}"

    sets = [f"data.{side}_dataset={dataset(name)}" for side, name in (("train", "train"), ("test", "val"))]
    config = str(ROOT / "configs/coco/mask_rcnn_mobilenet_v2_FPN_overfit.yaml")
    return ["--config-file", config, *sets, "model.backbone.weights=null", f"train.output_dir={tmp_path}/run"]


@pytest.mark.slow
def test_coco_minis_rows_are_right(shared_data, coco_mini, tmp_path):
    assert doctor([*coco_mini, "--json", str(tmp_path / "found.json")]) == 1
    found = {f["what"].split(":")[0]: f for f in json.loads((tmp_path / "found.json").read_text())}
    assert {f["severity"] for f in found.values()} == {"warning", "note"}
    content = json.loads((shared_data / "coco_mini/annotations/instances_train2017.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    counts = dict.fromkeys(names.values(), 0)
    for entry in content["annotations"]:
        counts[names[entry["category_id"]]] += not entry["iscrowd"]
    few = {f"{name}: {count}" for name, count in counts.items() if 0 < count < 10}
    assert set(found["classes of fewer than 10 training objects"]["examples"]) == few
    lost = next(f for f in found.values() if f["check"] == "AnchorsReachObjects")
    said = {int(text.split()[1]) for text in lost["examples"]}
    assert said == out_of_reach(load_experiment(coco_mini[1], coco_mini[2:]))


def out_of_reach(exp) -> set[int]:
    """The annotations whose best anchor, of all that training would make, overlaps them by less than 0.3."""
    model, lost = exp.build_model(), set()
    generator, strides = model.proposal_generator.anchor_generator, (4, 8, 16, 32, 64)
    steps = [recipe() for recipe in exp.data.train_augmentations]
    for index in range(len(exp.data.train_set)):
        record = exp.data.train_set[index]
        record = record.select(~record.objects.crowd)
        for step in steps:
            record = step(record, np.random.default_rng((exp.train.seed, 0, index)))
        padded = [-(-side // 32) * 32 for side in record.image.shape[:2]]
        maps = [torch.zeros(1, 1, *(-(-side // stride) for side in padded)) for stride in strides]
        anchors = torch.cat([boxes.tensor for boxes in generator(maps, tuple(padded))])
        boxes = record.objects.boxes.tensor
        best = box_iou(boxes, anchors).amax(1) if len(boxes) else torch.zeros(0)
        lost |= set(record.objects.annotation_ids[best < 0.3].tolist())
    return lost


def test_without_weights_none_are_looked_for(tmp_path, capsys):
    given = ["--quick", "--weights", "none", "train.init_weights=nowhere.pth"]
    assert run(tmp_path, *given) == 0
    assert "nowhere" not in capsys.readouterr().out
