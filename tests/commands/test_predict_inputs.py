"""The command takes what Predictor takes: patterns, addresses, cameras and streams."""

import functools
import http.server
import json
import threading

import numpy as np
import pytest
from broadcast import Broadcast
from echo_model import Echo
from PIL import Image

from detkit import command_line
from detkit.commands import predict
from detkit.predictor import Predictor
from detkit.visualization import Frame, video_frames


@pytest.fixture
def main(monkeypatch):
    """The command, with a model that finds a dog in every image, at 0.9."""
    monkeypatch.setattr(predict, "load", lambda _: Predictor(Echo()))

    def run(*arguments):
        return command_line.run(lambda: predict.main(["--weights", "any.pth", *map(str, arguments)]))

    return run


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png", "sub/c.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("x")
    return tmp_path / "photos"


@pytest.fixture
def stream(tmp_path):
    server = Broadcast(tmp_path, 20, 250)
    yield server.address
    server.shutdown()
    server.server_close()


def rows(path):
    return json.loads(path.read_text())


def test_patterns_are_the_files_that_they_name(main, folder, tmp_path, capsys):
    assert main(f"{folder}/**", "--json", tmp_path / "r.json", "--output", tmp_path / "out") == 0
    found = [str(folder / name) for name in ("a.png", "b.png", "sub/c.png")]
    assert [row["file_name"] for row in rows(tmp_path / "r.json")] == found
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png", "c.png"]
    assert main(f"{folder}/*.jpg", "--output", tmp_path / "out") == 2
    assert "nothing matches" in capsys.readouterr().err


def test_an_address_gives_its_name_to_picture_results_and_labels(main, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/sub/c.png?size=2"
        assert main(address, "--json", tmp_path / "r.json", "--output", tmp_path / "out") == 0
        assert main(address, "--output", tmp_path / "labels", "--label-format", "yolo") == 0
        server.shutdown()
    assert [row["file_name"] for row in rows(tmp_path / "r.json")] == [address]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["c.png"]
    assert sorted(path.name for path in (tmp_path / "labels").rglob("c.*")) == ["c.png", "c.txt"]


def test_a_stream_becomes_a_video(main, stream, tmp_path):
    with_password = stream.replace("//", "//me:secret@")
    assert main(with_password, "--json", tmp_path / "r.json", "--output", tmp_path / "out") == 0
    found = rows(tmp_path / "r.json")
    assert {row["file_name"] for row in found} == {stream}
    assert found[-1]["frame"] == 19
    (video,) = (tmp_path / "out").iterdir()
    assert video.name == f"{stream.replace('://', '_').replace(':', '_')}.mp4"
    assert len(list(video_frames(video))) == len({row["frame"] for row in found})


def test_a_camera_ends_with_ctrl_c_and_leaves_a_whole_video(main, tmp_path, monkeypatch, capsys):
    def frames(self, source):
        assert source == "7"
        for number in range(3):
            image = np.full((64, 64, 3), 50 * number, np.uint8).view(Frame)
            yield number, image, self(image)
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Predictor, "predict_video", frames)
    assert main("7", "--output", tmp_path / "out") == 0
    assert len(list(video_frames(tmp_path / "out" / "7.mp4"))) == 3
    assert "3 instances" in capsys.readouterr().out


def test_what_has_no_end_is_alone_and_no_image(main, folder, tmp_path, capsys, monkeypatch):
    assert main("rtsp://a/1", "rtsp://me:secret@b/2", "--output", tmp_path / "out") == 2
    assert "rtsp://a/1, rtsp://b/2: have no end" in capsys.readouterr().err
    assert main("rtsp://a/1", "--results", tmp_path / "found") == 2
    assert "rtsp://a/1: has no end, and --results takes images" in capsys.readouterr().err
