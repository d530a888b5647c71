import json
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from own_writer import own_writer
from PIL import Image

from detkit import command_line
from detkit.checkpoint import Checkpointer
from detkit.commands import predict
from detkit.config import to_yaml
from detkit.data import CocoResults, Shapes, open_dataset
from detkit.data.formats import LABEL_WRITERS
from detkit.experiment import load_experiment
from detkit.predictor import Predictor
from detkit.structures import Tiling


def main(argv):
    return command_line.run(lambda: predict.main(argv))


@pytest.fixture(scope="module")
def run(tmp_path_factory, pytestconfig):
    folder = tmp_path_factory.mktemp("run")
    exp = load_experiment(
        pytestconfig.rootpath / "configs/quick_start/mask_rcnn_shapes.yaml",
        [
            "model.roi_heads.box_head.detection.score_thresh=0.0",
            "model.roi_heads.box_head.detection.max_detections=5",
            "data.train_dataset.num_images=2",
        ],
    )
    torch.manual_seed(1)
    (folder / "config.yaml").write_text(to_yaml(exp.tree))
    Checkpointer(folder).save("model_final", exp.build_model(), config=exp.tree)
    return str(folder)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(rng.integers(0, 255, (80, 100, 3)).astype(np.uint8)).save(folder / name)
    return folder


def test_folder_to_pictures_and_json(run, photos, tmp_path, capsys):
    out, results = tmp_path / "out", tmp_path / "new" / "r.json"
    code = main(["--run", run, str(photos), "--output", str(out), "--json", str(results), "--score-thresh", "0"])
    assert code == 0
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.png"]
    rows = json.loads(results.read_text())
    assert len(rows) == 10
    assert {(r["image_id"], r["file_name"]) for r in rows} == {(1, str(photos / "a.png")), (2, str(photos / "b.jpg"))}
    assert rows[0]["segmentation"]["size"] == [80, 100]
    printed = capsys.readouterr().out
    assert "10 instances" in printed
    assert str(out) in printed
    assert str(results) in printed


def test_pictures_of_folders_in_a_folder_lie_in_folders_of_the_same_names(run, photos, tmp_path):
    for name in ("more", "more/deep"):
        (photos / name).mkdir()
        shutil.copy(photos / "a.png", photos / name / "a.png")
    assert main(["--run", run, str(photos), "--recursive", "--output", str(tmp_path / "out")]) == 0
    written = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png")}
    assert written == {"a.png", "b.png", "more/a.png", "more/deep/a.png"}


def test_tiles_on_the_command_line_are_those_of_the_predictor(run, photos, tmp_path):
    options = ["--run", run, str(photos), "--score-thresh", "0", "--tile", "48x64", "--tile-overlap", "0.4"]
    assert main([*options, "--json", str(tmp_path / "r.json")]) == 0
    predictor = Predictor.from_run(run, tile=Tiling(size=(48, 64), overlap=0.4))
    paths = [photos / "a.png", photos / "b.jpg"]
    rows = [
        {**row, "file_name": str(path)}
        for number, path in enumerate(paths, 1)
        for row in predictor.to_coco_results([predictor(path)], [number])
    ]
    assert json.loads((tmp_path / "r.json").read_text()) == json.loads(json.dumps(rows))
    assert len(rows) > 10  # those of more than one tile
    assert main([*options, "--results", str(tmp_path / "many"), "--num-workers", "0"]) == 0
    many = [json.loads(x) for x in (tmp_path / "many/predictions-00000.jsonl").read_text().splitlines()]
    assert [row["bbox"] for row in many] == [row["bbox"] for row in rows]


@pytest.mark.parametrize("format", LABEL_WRITERS.by_key())
def test_predictions_become_labels_that_load_again(run, photos, tmp_path, capsys, format):
    (photos / "more").mkdir()
    shutil.copy(photos / "a.png", photos / "more/a.png")
    out = tmp_path / "to_correct"
    command = ["--run", run, str(photos), "--output", str(out), "--label-format", format, "--recursive"]
    assert main([*command, "--score-thresh", "0"]) == 0
    assert f"labels ({format}): {out}/" in capsys.readouterr().out
    dataset = open_dataset(out)
    assert dataset.class_names == Shapes(num_images=1).class_names
    assert [len(dataset[i].boxes) for i in range(3)] == [5, 5, 5]
    assert "masks" in dataset[0].objects
    if format != "voc":
        assert sum(Path(dataset.image_path(i)).parent.name == "more" for i in range(3)) == 1
    assert main(command) == 2
    assert "is not empty; give a new folder" in capsys.readouterr().err


def test_labels_in_a_format_of_ones_own(run, photos, tmp_path, capsys):
    command = ["--run", run, str(photos / "a.png"), "--output", str(tmp_path / "out"), "--score-thresh", "0"]
    with own_writer(tmp_path, "Predicted") as file:
        assert main([*command, "--set", f"imports=[{file}]", "--label-format", "predicted"]) == 0
    assert (tmp_path / "out/names.txt").read_text().split()[0] == "a.png"
    assert main([*command, "--label-format", "lableme"]) == 2
    assert "--label-format: there is no 'lableme'. Did you mean 'labelme'?" in capsys.readouterr().err


@pytest.fixture
def annotations(run, tmp_path):
    """Lists the photos in another order, with ids of its own; the run's classes are its categories, reversed."""
    names = Shapes(num_images=1).class_names[::-1]
    images = [
        {"id": id_, "file_name": f"photos/{n}", "height": 80, "width": 100} for id_, n in ((70, "b.jpg"), (5, "a.png"))
    ]
    content = {"images": images, "categories": [{"id": 100 - i, "name": name} for i, name in enumerate(names)]}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({**content, "annotations": []}))
    return path


def test_results_take_the_ids_of_a_coco_file_and_load_again(run, photos, annotations, tmp_path, caplog):
    plain, results = tmp_path / "plain.json", tmp_path / "r.json"
    command = ["--run", run, str(photos), "--score-thresh", "0", "--json"]
    assert main([*command, str(plain)]) == 0
    assert "carry no ids" not in caplog.text  # they are the training data's
    shutil.copy(photos / "a.png", photos / "c.png")
    assert main([*command, str(results), "--annotations", str(annotations)]) == 0
    assert f"1 of 3 images are not in {annotations} ({photos / 'c.png'})" in caplog.text
    before, after = (json.loads(path.read_text()) for path in (plain, results))
    names = Shapes(num_images=1).class_names
    ids = {number: 100 - names[::-1].index(name) for number, name in enumerate(names, 1)}
    key = ("bbox", "score", "file_name")
    assert [[row[k] for k in key] for row in after] == [[row[k] for k in key] for row in before]
    assert [row["image_id"] for row in after] == [5 if "a.png" in row["file_name"] else 70 for row in before]
    assert [row["category_id"] for row in after] == [ids[row["category_id"]] for row in before]
    dataset = CocoResults(json_file=str(results), images_file=str(annotations), image_root=str(tmp_path))
    assert len(dataset[0].score) == len(dataset[1].score) == 5


def test_classes_without_ids_are_numbered_with_a_warning(run, photos, tmp_path, caplog):
    exp = load_experiment(Path(run) / "config.yaml")
    Checkpointer(tmp_path).save("bare", exp.build_model(class_names=("cat", "dog")), config=exp.tree)
    command = ["--weights", str(tmp_path / "bare.pth"), str(photos), "--score-thresh", "0"]
    assert main([*command, "--json", str(tmp_path / "r.json")]) == 0
    assert caplog.text.count("carry no ids of categories") == 1
    assert {row["category_id"] for row in json.loads((tmp_path / "r.json").read_text())} <= {1, 2}


def test_annotations_that_do_not_fit_are_refused_and_never_written_over(run, photos, annotations, tmp_path, capsys):
    command = ["--run", run, str(photos), "--annotations"]
    before = annotations.read_text()
    assert main([*command, str(annotations), "--json", str(annotations)]) == 2
    assert "would overwrite an input" in capsys.readouterr().err
    assert annotations.read_text() == before
    other = tmp_path / "other.json"
    for change, words in (
        ({"categories": [{"id": 1, "name": "circle"}]}, "has no category 'square', which the model predicts"),
        ({"images": [{"id": 1, "file_name": "z.png", "height": 1, "width": 1}]}, "2 of 2 images are not in"),
    ):
        other.write_text(json.dumps({**json.loads(before), **change}))
        assert main([*command, str(other), "--json", str(tmp_path / "r.json")]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_score_threshold_holds_for_json(run, photos, tmp_path, capsys):
    results = tmp_path / "r.json"
    assert main(["--run", run, str(photos / "a.png"), "--json", str(results), "--score-thresh", "1"]) == 0
    assert json.loads(results.read_text()) == []
    assert "0 instances with score >= 1 in 1 image; a lower --score-thresh" in capsys.readouterr().out


def test_what_the_limit_cuts_off_is_told_with_an_option_that_lifts_it(run, photos, capsys):
    arguments = ["--run", run, str(photos), "--json", str(photos / "r.json"), "--score-thresh"]
    assert main([*arguments, "0"]) == 0
    said = capsys.readouterr().out
    assert "more of 2 images were cut off by the model's limit" in said
    option = said.split("raise ")[1].split(" ")[0]
    for more in (["0", "--set", f"{option}=100000"], ["1"]):
        assert main([*arguments, *more]) == 0
        assert "cut off" not in capsys.readouterr().out


def test_config_with_weights_and_changes(run, photos, tmp_path):
    results = tmp_path / "r.json"
    arguments = ["--config-file", f"{run}/config.yaml", "--weights", f"{run}/model_final.pth", str(photos / "a.png")]
    change = "model.roi_heads.box_head.detection.max_detections=2"
    assert main([*arguments, "--json", str(results), "--score-thresh", "0", "--set", change]) == 0
    assert len(json.loads(results.read_text())) == 2


def test_video_to_video_and_to_frames(run, tmp_path):
    pytest.importorskip("av")
    from detkit.visualization import VideoWriter, video_info

    with VideoWriter(tmp_path / "clip.mp4", 12) as writer:
        for value in (20, 90, 160):
            writer.write(np.full((64, 96, 3), value, np.uint8))
    clip, out, results = str(tmp_path / "clip.mp4"), tmp_path / "out", tmp_path / "r.json"
    assert main(["--run", run, clip, "--output", str(out), "--json", str(results), "--score-thresh", "0"]) == 0
    assert video_info(out / "clip.mp4") == (3, 12)
    assert {r["frame"] for r in json.loads(results.read_text())} <= {0, 1, 2}
    assert main(["--run", run, clip, "--output", str(out), "--frames"]) == 0
    assert sorted(p.name for p in (out / "clip").iterdir()) == ["000000.png", "000001.png", "000002.png"]
    assert main(["--run", run, clip, "--output", str(tmp_path)]) == 2  # it would overwrite its input
    (tmp_path / "new").mkdir()
    copy = str(shutil.copy(clip, tmp_path / "new" / "clip.mp4"))
    assert main(["--run", run, clip, copy, "--output", str(out), "--frames"]) == 0
    assert len(list((out / "clip_2").iterdir())) == 3


def test_a_file_that_cannot_be_read_costs_itself_alone(run, photos, tmp_path, capsys, caplog):
    """It is named and counted, and the exit code says so; rows are in the file before the next image is read."""
    (photos / "aa.jpg").write_bytes((photos / "b.jpg").read_bytes()[:300])
    (photos / "notes.txt").write_text("x")
    Image.new("L", (12000, 12000)).save(photos / "large.png")
    (photos / "zz.jpg").symlink_to(photos / "nowhere.jpg")
    clip = tmp_path / "broken.mp4"
    clip.write_bytes(b"no video")
    results, out = tmp_path / "r.json", tmp_path / "out"
    arguments = ["--run", run, str(photos), str(clip), "--json", str(results), "--output", str(out)]
    assert main([*arguments, "--score-thresh", "0"]) == 1
    assert {row["file_name"][-5:] for row in json.loads(results.read_text())} == {"a.png", "b.jpg"}
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.png"]
    printed = capsys.readouterr()
    assert (
        f"could not be read: 4 of 6 files ({photos / 'aa.jpg'}, {photos / 'large.png'}, {photos / 'zz.jpg'}, {clip})"
        in printed.err
    )
    assert "1 files are left out, as no images by their suffixes: notes.txt" in caplog.text
    for name in (
        "aa.jpg: cannot be decoded",
        "large.png: is 12000 x 12000 pixels",
        "broken.mp4: cannot be read",
        "zz.jpg: there is no",
    ):
        assert f"{name}" in caplog.text
    assert main([*arguments, "--skip-unreadable"]) == 0
    assert main(["--run", run, str(clip), "--json", str(results)]) == 2


def test_rows_are_written_as_they_come_and_a_full_disk_is_named(tmp_path):
    rows = predict.RowFile(tmp_path / "new" / "r.json")
    for number in range(3):
        assert len(json.loads(rows.path.read_text())) == number
        rows.add([{"image_id": number}])
    rows.add([])
    assert [row["image_id"] for row in json.loads(rows.path.read_text())] == [0, 1, 2]
    before, size = resource.getrlimit(resource.RLIMIT_FSIZE), rows.path.stat().st_size
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, before[1]))
    try:
        with pytest.raises(OSError, match=r"r\.json"):
            rows.add([{"image_id": 3}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(json.loads(rows.path.read_text())) == 3


def test_an_image_of_several_frames_is_predicted_frame_by_frame(run, tmp_path):
    frames = [Image.new("RGB", (100, 80), (k, 90, 90)) for k in (0, 100, 200)]
    frames[0].save(tmp_path / "stack.tif", save_all=True, append_images=frames[1:])
    results, out = tmp_path / "r.json", tmp_path / "out"
    arguments = [str(tmp_path / "stack.tif"), "--json", str(results), "--output", str(out), "--score-thresh", "0"]
    assert main(["--run", run, *arguments]) == 0
    assert {row["frame"] for row in json.loads(results.read_text())} == {0, 1, 2}
    assert sorted(p.name for p in (out / "stack").iterdir()) == ["000000.png", "000001.png", "000002.png"]


def test_an_input_is_never_written_over(run, photos, capsys):
    before = (photos / "a.png").read_bytes()
    assert main(["--run", run, str(photos), "--output", f"{photos}/../photos"]) == 2
    assert "a.png; take another folder" in capsys.readouterr().err
    assert (photos / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--run", "{run}", "missing.jpg", "--output", "o"], "missing.jpg"),
        (["--run", "nowhere", "{photo}", "--output", "o"], "nowhere"),
        (["--run", "{run}", "--weights", "x.pth", "{photo}", "--output", "o"], "x.pth"),
        (["--run", "{run}", "{photo}", "--output", "o", "--device", "nowhere"], "nowhere"),
        (["--run", "{run}", "{photo}", "--output", "o", "--set", "model.nek=1"], "nek"),
        (["--run", "{run}", "{config}", "--output", "o"], "config.yaml"),
        (
            ["--run", "{run}", "{photo}", "--output", "o", "--tile", "64", "--tile-overlap", "1"],
            "data.test_tiles.overlap",
        ),
    ],
)
def test_mistakes_end_with_their_message_alone(run, photos, capsys, arguments, words):
    names = {"run": run, "photo": photos / "a.png", "config": f"{run}/config.yaml"}
    assert main([a.format(**names) for a in arguments]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.jpg", "--run", "r"],
        ["a.jpg", "--output", "o"],
        ["a.jpg", "--output", "o", "--run", "r", "--config-file", "c"],
        ["a.jpg", "--output", "o", "--config-file", "c"],
        ["a.jpg", "--output", "o", "--run", "r", "--batch-size", "0"],
        ["--run", "r", "--output", "o"],
        ["a.mp4", "--run", "r", "--json", "j", "--frames"],
        ["a.mp4", "--run", "r", "--output", "o", "--frames", "--label-format", "coco"],
        ["a.jpg", "--run", "r", "--output", "o", "--tta", "flip", "--batch-size", "4"],
        ["a.jpg", "--run", "r", "--json", "j", "--tile-overlap", "0.5"],
        ["a.jpg", "--run", "r", "--json", "j", "--tile", "0"],
        ["a.jpg", "--run", "r", "--json", "j", "--tile", "1x2x3"],
    ],
)
def test_incomplete_and_contradictory_command_lines_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "examples:" in capsys.readouterr().out
