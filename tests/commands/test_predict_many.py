"""Many images: shards of several processes, kills, and what is refused."""

import json
import multiprocessing
import os
import signal
import socket
import time
from collections import Counter

import numpy as np
import processes as _preloaded  # noqa: F401  # whose server of forks has imported torch
import pytest
import tiny_program
import torch
from PIL import Image
from tiny_detector import tiny_experiment
from tiny_program import experiment

from detkit import command_line
from detkit.checkpoint import Checkpointer
from detkit.commands import predict
from detkit.config import to_yaml
from detkit.data import CocoResults
from detkit.evaluation.result_folder import DETECTIONS, IMAGES, UNREADABLE, read_lines
from detkit.export import export
from detkit.utils.run_folder import holding

PER_IMAGE = 3


def main(argv):
    return command_line.run(lambda: predict.main(list(map(str, argv))))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    detection = "model.roi_heads.box_head.detection"
    exp = tiny_experiment(f"{detection}.score_thresh=0.0", f"{detection}.max_detections={PER_IMAGE}")
    torch.manual_seed(1)
    (folder / "config.yaml").write_text(to_yaml(exp.tree))
    Checkpointer(folder).save("model_final", exp.build_model(), config=exp.tree)
    return folder


def write_images(folder, num):
    rng = np.random.default_rng(0)
    for i in range(num):
        path = folder / f"{i % 7}" / f"{i:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(path)
    return folder


@pytest.fixture
def photos(tmp_path):
    return write_images(tmp_path / "photos", 12)


def arguments(run, photos, results, *more):
    options = ["--recursive", "--results", results, "--score-thresh", "0", "--device", "cpu", "--num-workers", "0"]
    return ["--run", run, photos, *options, *more]


def lines(folder, kind=IMAGES):
    return list(read_lines(folder, kind))


def check(folder, num):
    """Every image once, each with all its detections."""
    images, found = Counter(row["file_name"] for row in lines(folder)), Counter()
    found.update(row["file_name"] for row in lines(folder, DETECTIONS))
    assert len(images) == num
    assert set(images.values()) == {1}
    assert found == dict.fromkeys(images, PER_IMAGE)


def start(rank, world, port, argv):
    """A process of a launcher, or the only one."""
    torch.set_num_threads(1)
    if world > 1:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        os.environ.update(zip(names, map(str, (rank, world, rank, world, "127.0.0.1", port))))
    multiprocessing.set_start_method("fork", force=True)
    raise SystemExit(main(argv))


def begin(argv, world=1):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=start, args=(rank, world, port, argv)) for rank in range(world)]
    for process in processes:
        process.start()
    return processes


def done(folder):
    return sum(path.read_bytes().count(b"\n") for path in folder.glob(IMAGES))


def kill_at(processes, folder, count):
    """SIGKILL to all, one after the other, once so many images are done."""
    while done(folder) < count and any(process.is_alive() for process in processes):
        time.sleep(0.02)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.join()


def test_results_are_those_of_one_json_file_and_load_again(run, photos, tmp_path, capsys):
    folder, plain = tmp_path / "found", tmp_path / "plain.json"
    assert main(["--run", run, photos, "--recursive", "--json", plain, "--score-thresh", "0", "--device", "cpu"]) == 0
    assert main(arguments(run, photos, folder, "--format", "json")) == 0
    said = capsys.readouterr().out.split("COCO results")
    assert f"{12 * PER_IMAGE} instances with score >= 0 in 12 images" in said[1]
    assert "more of 12 images were cut off" in said[0]
    assert said[0].splitlines()[-1] == said[1].splitlines()[-1]  # as many are cut off
    check(folder, 12)
    both = [json.loads(path.read_text()) for path in (plain, folder / "predictions.json")]
    for row in both[0]:
        row["file_name"] = os.path.relpath(row["file_name"], photos)
    assert both[0] == both[1]
    dataset = CocoResults(json_file=str(folder), images_file=str(folder / "images.json"), image_root=str(photos))
    assert len(dataset) == 12
    assert len(dataset[3].score) == PER_IMAGE
    assert main(arguments(run, photos, folder)) == 0  # nothing is left
    assert "goes on: 0 of 12 images are left" in capsys.readouterr().out
    check(folder, 12)


def test_killed_at_any_moment_with_any_number_of_processes_every_image_is_there_once(run, tmp_path):
    photos, folder = write_images(tmp_path / "photos", 200), tmp_path / "found"
    argv = arguments(run, photos, folder)
    kill_at(begin(argv, world=2), folder, 20)
    before = done(folder)
    assert 20 <= before < 200
    kill_at(begin([*argv, "--num-workers", "1"]), folder, before + 30)
    assert before < done(folder) < 200
    with open(folder / "images-00000.jsonl", "ab") as file:
        file.write(b'{"id": 7, "file_na')
    for process in begin(argv, world=3):
        process.join()
        assert process.exitcode == 0
    check(folder, 200)
    assert len(json.loads((folder / "images.json").read_text())["images"]) == 200


@pytest.mark.slow
def test_twenty_thousand_images_in_two_processes_with_kills(run, tmp_path):
    """And the memory of a process stays what it is after a quarter of them."""
    photos, folder, memory = write_images(tmp_path / "photos", 20_000), tmp_path / "found", {}
    argv = arguments(run, photos, folder, "--batch-size", "8")
    for count in (4000, 9000):
        kill_at(begin(argv, world=2), folder, count)
        assert count <= done(folder) < 20_000
    processes = begin(argv, world=2)
    for count in (12_000, 19_500):
        while done(folder) < count:
            assert all(process.is_alive() for process in processes)
            time.sleep(0.5)
        memory[count] = [_resident(process.pid) for process in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    check(folder, 20_000)
    assert all(late < early + 30 for early, late in zip(*memory.values())), memory


def _resident(pid):
    """MB of memory that are a process's own."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) // 1024


def test_an_image_that_cannot_be_read_costs_itself_and_is_tried_again(run, photos, tmp_path, capsys):
    broken, folder = photos / "3" / "00003.jpg", tmp_path / "found"
    content = broken.read_bytes()
    broken.write_bytes(content[:100])
    (photos / "dead.png").symlink_to(photos / "nowhere.png")
    argv = arguments(run, photos, folder)
    assert main(argv) == 1
    assert main([*argv, "--skip-unreadable"]) == 0
    said = capsys.readouterr()
    assert "could not be read: 2 of 13 files" in said.err
    assert [row["file_name"] for row in lines(folder, UNREADABLE)] == ["dead.png", "3/00003.jpg"]
    assert "3/00003.jpg" in lines(folder, UNREADABLE)[1]["error"]
    broken.write_bytes(content)
    (photos / "dead.png").unlink()
    assert main(argv) == 1  # the link is in the list still
    check(folder, 12)


def test_several_inputs_are_named_below_the_folder_of_all_wherever_the_command_is_started(
    run, photos, tmp_path, monkeypatch, capsys
):
    folder, inputs = tmp_path / "found", [photos / "3", photos / "5" / "00005.jpg", photos / "3" / "00003.jpg"]
    options = ["--results", folder, "--score-thresh", "0", "--device", "cpu", "--num-workers", "0"]
    for place in (tmp_path, photos / "3"):
        monkeypatch.chdir(place)
        assert main(["--run", run, *(os.path.relpath(path) for path in inputs), *options]) == 0
    assert sorted(row["file_name"] for row in lines(folder)) == ["3/00003.jpg", "3/00010.jpg", "5/00005.jpg"]
    assert "goes on: 0 of 3 images" in capsys.readouterr().out
    assert main(["--run", run, f"{photos}/[356]/*.jpg", *options]) == 0  # a pattern, which now names one more
    assert "goes on: 1 of 4 images" in capsys.readouterr().out
    assert main(["--run", run, tmp_path, "--recursive", *options]) == 2
    assert f"folder of the images was '{photos}' and is '{tmp_path}'" in capsys.readouterr().err


def test_other_settings_and_a_folder_in_use_are_refused(run, photos, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "found"
    argv = arguments(run, photos, folder)
    assert main(argv) == 0
    exp = tiny_experiment("model.roi_heads.box_head.detection.max_detections=3")
    Checkpointer(tmp_path).save("other", exp.build_model(), config=exp.tree)
    for more, words in (
        (["--score-thresh", "0.1"], "--score-thresh was 0.0 and is 0.1"),
        (["--weights", tmp_path / "other.pth"], "weights (checksum) was"),
        (["--set", "model.roi_heads.box_head.detection.nms_thresh=0.4"], "detection.nms_thresh was 0.5 and is 0.4"),
    ):
        assert main([*argv, *more]) == 2
        assert words in capsys.readouterr().err
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    context = multiprocessing.get_context("forkserver")
    ready = context.Event()
    other = context.Process(target=_hold, args=(folder, ready))
    other.start()
    assert ready.wait(60)
    assert main(argv) == 2
    assert f"is in use by process {other.pid}" in capsys.readouterr().err
    other.kill()
    other.join()
    assert main(argv) == 0
    check(folder, 12)


def _hold(folder, ready):
    with holding(folder, ".lock-1"):
        ready.set()
        time.sleep(600)


@pytest.mark.parametrize("form", [".pt2", ".onnx"])
@pytest.mark.parametrize("tile", [[], ["--tile", "64"]])
def test_another_program_is_another_model(programs, photos, tmp_path, capsys, form, tile):
    if not (programs / f"model{form}").is_file():
        pytest.skip("its library is not installed")
    folder, other = tmp_path / "found", tmp_path / f"other{form}"
    options = ["--results", folder, "--device", "cpu", "--num-workers", "0", *tile]
    given = ["--weights", programs / f"model{form}", photos / "3", *options]
    assert main(given) == 0
    assert main(given) == 0
    export(tiny_program.model(experiment(), seed=2), other, config=experiment().tree)
    assert main(["--weights", other, photos / "3", *options]) == 2
    assert "weights (checksum) was" in capsys.readouterr().err


def test_ids_are_those_of_a_coco_file_where_one_is_given(run, photos, tmp_path):
    names = [path.relative_to(photos) for path in sorted(photos.rglob("*.jpg"))][:11]
    images = [{"id": f"x{i}", "file_name": str(name), "height": 64, "width": 64} for i, name in enumerate(names)]
    classes = tiny_experiment().data.train_set.class_names
    categories = [{"id": 10 + i, "name": name} for i, name in enumerate(classes)]
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    folder = tmp_path / "found"
    assert main(arguments(run, photos, folder, "--annotations", truth)) == 0
    check(folder, 11)
    assert {(row["image_id"], row["file_name"]) for row in lines(folder, DETECTIONS)} == {
        (image["id"], image["file_name"]) for image in images
    }
    assert {row["category_id"] for row in lines(folder, DETECTIONS)} <= {c["id"] for c in categories}


@pytest.mark.parametrize(
    "more",
    [
        ["--json", "r.json", "--results", "d"],
        ["--output", "o", "--results", "d"],
        ["--json", "r.json", "--num-processes", "2"],
        ["--json", "r.json", "--format", "json"],
        ["--results", "d", "--num-processes", "0"],
        ["--results", "d", "--num-workers", "-1"],
    ],
)
def test_options_that_do_not_fit_are_refused(more, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--run", "r", "photos", *more])
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err
