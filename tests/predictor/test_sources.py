"""Whatever an image comes as, the model sees the same pixels; what is no image is refused with what is accepted."""

import http.server
import io
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from broadcast import Broadcast
from echo_model import Echo
from PIL import Image, ImageOps

from detkit.data.images import ImageReading
from detkit.predictor import Predictor
from detkit.registry import DataError
from detkit.visualization import VideoWriter, is_live, video_frames

av = pytest.importorskip("av")
PIXELS = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)


@pytest.fixture
def predictor():
    return Predictor(Echo(), batch_size=2)


@pytest.fixture
def folder(tmp_path):
    """Images a.png, b.png and sub/c.png, whose red is 10, 20 and 30, and a text."""
    for name, red in (("a.png", 10), ("b.png", 20), ("sub/c.png", 30)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, red)
    (tmp_path / "notes.txt").write_text("x")
    return tmp_path


def write(path, red, size=(20, 30)):
    Image.fromarray(np.full((*size, 3), (red, 0, 0), np.uint8)).save(path)


def seen(prediction):
    """``(H, W, 3)``: what the model saw."""
    return prediction.instances.pixels[0].permute(1, 2, 0).numpy()


def red(predictions):
    return [int(seen(prediction)[0, 0, 0]) for prediction in predictions]


def test_a_file_and_all_kinds_of_pixels_are_the_same_image(predictor, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a b.png")
    deep = PIXELS.astype(np.uint16) * 257
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    file = tmp_path / "a b.png"
    given = [
        file, str(file), file.as_uri(), Image.fromarray(PIXELS), PIXELS,
        np.dstack([PIXELS, PIXELS[..., :1]]), tensor, tensor.requires_grad_(False).numpy().transpose(1, 2, 0), deep,
        torch.from_numpy(deep).permute(2, 0, 1), np.asfortranarray(PIXELS), deep.astype(">u2"),
    ]  # fmt: skip
    for image in given:
        assert np.array_equal(seen(predictor(image)), PIXELS)
    bgr = PIXELS[..., ::-1]
    for image in (bgr, np.dstack([bgr, bgr[..., :1]]), tensor.flip(0), bgr.astype(np.uint16) * 257):
        assert np.array_equal(seen(predictor(image, channel_order="BGR")), PIXELS)
    for image in given[:4]:
        assert np.array_equal(seen(Predictor(Echo(), channel_order="BGR")(image)), PIXELS)


def test_a_frame_of_a_video_is_the_same_image_as_its_array(predictor, tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for number in range(5):
            writer.write(np.full((64, 96, 3), 50 * number, np.uint8))
    frames = list(video_frames(tmp_path / "clip.mp4"))
    bgr = Predictor(Echo(), channel_order="BGR", batch_size=2)
    for found in (predictor(tmp_path / "clip.mp4"), list(bgr.stream([str(tmp_path / "clip.mp4")]))):
        assert [prediction.frame for prediction in found] == [0, 1, 2, 3, 4]
        assert all(np.array_equal(seen(prediction), frame) for prediction, frame in zip(found, frames, strict=True))
        assert {prediction.file_name for prediction in found} == {str(tmp_path / "clip.mp4")}
        assert (np.asarray(found[1].instances.draw(frames[1], score_thresh=1)) == frames[1]).all()
    assert predictor.model.calls == [2, 2, 1]


def test_several_videos_come_one_after_the_other(predictor, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        with VideoWriter(tmp_path / name, 10) as writer:
            for _ in range(2):
                writer.write(np.zeros((64, 64, 3), np.uint8))
    found = list(predictor.predict_video([tmp_path / "a.mp4", str(tmp_path / "b.mp4")]))
    assert [(number, Path(p.file_name).name) for number, _, p in found] == [
        (number, name) for name in ("a.mp4", "b.mp4") for number in range(2)
    ]
    with pytest.raises(ValueError, match="ndarray: expected a video"):
        next(predictor.predict_video(PIXELS))


def test_numbers_that_may_mean_two_things_need_the_value_of_white(predictor):
    floats = PIXELS.astype(np.float32)
    for image in (floats, floats / 255, PIXELS.astype(np.int64), torch.from_numpy(floats).permute(2, 0, 1).bfloat16()):
        with pytest.raises(ValueError, match=r"max_value=1\.0 or max_value=255"):
            predictor(image)
    for image, white in ((floats, 255), (floats / 255, 1.0), (PIXELS.astype(np.int64), 255)):
        assert np.array_equal(seen(predictor(image, max_value=white)), PIXELS)
    with pytest.raises(ValueError, match="above 0"):
        predictor(floats, max_value=0)


def test_twelve_bits_are_scaled_as_in_files(predictor, tmp_path, caplog):
    deep = np.full((20, 30), 2048, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    like_files = Predictor(Echo(), reading=ImageReading(max_value=4095))
    for image in (deep, Image.fromarray(deep), torch.from_numpy(deep), tmp_path / "deep.png"):
        assert (seen(like_files(image)) == 128).all()
        assert (seen(predictor(image, max_value=4095)) == 128).all()
    assert not caplog.records
    assert (seen(predictor(deep)) == 8).all()
    assert "max_value=4095" in caplog.text


@pytest.mark.parametrize(
    ("top", "white", "doubtful"), [(255, 1, True), (1, 255, True), (1, 1, False), (100, 255, False)]
)
def test_a_white_that_does_not_go_with_the_values_is_said(predictor, caplog, top, white, doubtful):
    image = np.linspace(0, top, 12 * (13 + top) * 3, dtype=np.float32).reshape(12, -1, 3)
    predictor(image, max_value=white)
    assert (f"values up to {top}, and is scaled as if {white} were white" in caplog.text) is doubtful


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16"])
def test_every_mode_of_pil_is_read_as_its_file_would_be(predictor, mode, tmp_path):
    if mode in ("I", "I;16"):
        image = Image.fromarray((PIXELS[..., 0].astype(np.uint16) << 8).astype(np.int32 if mode == "I" else np.uint16))
        expected = PIXELS[..., [0, 0, 0]]
    elif mode in ("LAB", "PA"):
        from PIL import ImageCms

        lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        image = ImageCms.applyTransform(Image.fromarray(PIXELS), lab) if mode == "LAB" else Image.new("PA", (30, 20))
        expected = None
    else:
        image = Image.fromarray(PIXELS).convert("LA" if mode == "La" else mode)
        expected = np.asarray(image.convert("RGB"))
        image = image.convert(mode)
    out = seen(predictor(image))
    assert out.shape == (20, 30, 3)
    assert expected is None or np.array_equal(out, expected)


def test_a_photograph_of_pil_is_turned_as_its_file_is(predictor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    upright = np.rot90(PIXELS, 3)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(seen(predictor(image)), upright)
        assert np.array_equal(seen(predictor(ImageOps.exif_transpose(image))), upright)
        stored = Predictor(Echo(), reading=ImageReading(orientation="stored"))
        assert np.array_equal(seen(stored(image)), PIXELS)
    assert np.array_equal(seen(predictor(tmp_path / "a.png")), upright)
    assert np.array_equal(seen(stored(tmp_path / "a.png")), PIXELS)


def test_a_damaged_image_of_pil_is_named(predictor, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:800])
    with Image.open(tmp_path / "a.png") as image, pytest.raises(DataError, match=r"a\.png: cannot be decoded"):
        predictor(image)


def test_folders_patterns_and_lists_are_many_in_order(predictor, folder):
    def names(source):
        found = predictor(source)
        assert isinstance(found, list)
        assert red(found) == [{"a": 10, "b": 20, "c": 30}[Path(p.file_name).stem] for p in found]
        return [Path(p.file_name).name for p in found]

    assert names(folder) == ["a.png", "b.png"]
    assert names(f"{folder}/*.png") == names(f"{folder}/*") == names(f"{folder}/[ab].png") == ["a.png", "b.png"]
    assert names(f"{folder}/**") == names(folder / "**" / "*.png") == ["a.png", "b.png", "c.png"]
    assert names([folder / "sub" / "c.png", folder, f"{folder}/b*"]) == ["c.png", "a.png", "b.png", "b.png"]
    assert names(iter([folder / "b.png"])) == ["b.png"]
    assert names(f"{folder}/a*") == ["a.png"]
    write(folder / "[x].png", 99)
    assert not isinstance(predictor(folder / "[x].png"), list)


def test_iterators_are_read_a_batch_at_a_time(predictor):
    asked = []

    def images():
        for number in range(1000):
            asked.append(number)
            yield np.full((12, 12, 3), number % 256, np.uint8)

    stream = predictor.stream(images())
    assert asked == []
    assert [red([next(stream)]) for _ in range(3)] == [[0], [1], [2]]
    assert asked == [0, 1, 2, 3]


def test_what_came_before_an_unreadable_image_is_given_first(predictor, folder):
    (folder / "aa.png").write_text("no image")
    before = []
    with pytest.raises(DataError, match=r"aa\.png.*skip_unreadable=True"):
        before.extend(predictor.stream(folder))
    assert red(before) == [10]
    assert red(predictor.stream(folder, skip_unreadable=True)) == [10, 20]
    with pytest.raises(ValueError, match="dict"):
        predictor([folder / "a.png", {}])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("", "an empty name"),
        ("nothing.png", "no such file or folder"),
        ("nothing/*.png", "nothing matches"),
        ("*.txt", "none an image or video"),
        ("s3://bucket/a.png", "addresses of this kind"),
        (b"bytes", "bytes: expected"),
        ({"image": 1}, "dict: expected"),
        (None, "NoneType: expected"),
        (1.5, "float: expected"),
        (True, "bool: expected"),
        (-1, "int: expected"),
        (io.BytesIO(), "BytesIO: expected"),
        (0, r"no end; give it to stream\("),
        (["a.png", "rtsp://user:word@cam/1"], "rtsp://cam/1: a camera or stream has no end"),
        (np.zeros((3, 20, 30), np.uint8), r"channels first needs .transpose\(1, 2, 0\)"),
        (torch.zeros(20, 30, 3, dtype=torch.uint8), r"channels last needs .permute\(2, 0, 1\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "in a list"),
        (np.zeros((4, 4), bool), "bool.*uint8"),
        (np.zeros((4, 4, 2), np.uint8), "expected an array"),
    ],
)
def test_other_things_are_refused_with_what_is_accepted(predictor, wrong, words, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=words):
        predictor(wrong)


def test_orders_of_channels_are_rgb_and_bgr(predictor):
    for wrong in (lambda: predictor(PIXELS, channel_order="bgr"), lambda: Predictor(Echo(), channel_order="GRB")):
        with pytest.raises(ValueError, match="'RGB' or 'BGR'"):
            wrong()


def test_bgr_is_of_three_channels():
    model = Echo()
    model.preprocess = type("Preprocess", (), {"num_channels": 4})
    with pytest.raises(ValueError, match="the model takes 4"):
        Predictor(model)(np.zeros((20, 30, 4), np.uint8), channel_order="BGR")


@pytest.mark.parametrize(
    ("source", "live"),
    [
        ("rtsp://camera/1", True),
        ("RTSP://camera/1.jpg", True),
        ("https://camera/live.m3u8?key=1", True),
        ("http://camera/video?.mjpg", True),
        ("http://camera/a.jpg", False),
        ("https://camera/clip.mp4", False),
        (0, True),
        ("0", True),
        ("/dev/video12", True),
        (-1, False),
        (True, False),
        ("a0", False),
        (PIXELS, False),
    ],
)
def test_what_has_no_end(source, live):
    assert is_live(source) is live


@pytest.fixture
def address(folder, tmp_path_factory, monkeypatch):
    """The address at which a server has the folder."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path_factory.mktemp("cache")))
    handler = partial(type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_addresses_are_images_and_videos_too(predictor, address, folder):
    found = predictor(f"{address}/a.png?size=large")
    assert red([found]) == [10]
    assert found.file_name == f"{address}/a.png?size=large"
    assert red(predictor([f"{address}/b.png", folder / "a.png"])) == [20, 10]
    write(folder / "hero-0123abcd.png", 30)  # no hash of its content
    assert red([predictor(f"{address}/hero-0123abcd.png")]) == [30]
    with pytest.raises(DataError, match=r"missing\.png.*404"):
        predictor(f"{address}/missing.png")
    with pytest.raises(DataError, match=r"'https://:9/a\.png' is no address"):
        predictor("https://:9/a.png")
    with pytest.raises(DataError, match=r"a\.png could not be fetched .* give a file instead$"):
        predictor("http://127.0.0.1:9/a.png")
    with VideoWriter(folder / "clip.mp4", 10) as writer:
        for _ in range(3):
            writer.write(np.zeros((64, 64, 3), np.uint8))
    assert len(predictor(f"{address}/clip.mp4")) == 3


@pytest.fixture
def streams(tmp_path):
    """The addresses of two streams, of 40 red frames and of 20 dark ones."""
    servers = [Broadcast(tmp_path, 40, 250), Broadcast(tmp_path, 20, 0)]
    yield [server.address for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


def test_streams_are_read_until_their_end_and_several_in_turn(predictor, streams):
    predictions = list(predictor.stream(streams))
    bright = [p for p in predictions if p.file_name == streams[0]]
    dark = [p for p in predictions if p.file_name == streams[1]]
    assert len(bright) + len(dark) == len(predictions)
    for found, last, low, high in ((bright, 39, 200, 255), (dark, 19, 0, 40)):
        numbers = [p.frame for p in found]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] == last  # frames may be skipped, but not the newest
        assert all(low <= value <= high for value in red(found))
    assert max(predictor.model.calls) <= 2


def test_a_source_that_is_not_there_is_named_without_its_password(predictor):
    with pytest.raises(DataError, match=r"tcp://127\.0\.0\.1:1: cannot be read.*is it there"):
        list(predictor.stream("tcp://me:secret@127.0.0.1:1"))
    with pytest.raises(ValueError, match="no end") as error:
        predictor(["rtsp://me:secret@camera/1"])
    assert "secret" not in str(error.value)


@pytest.mark.skipif(sys.platform != "linux", reason="names of cameras are Linux's")
def test_a_camera_goes_by_number_or_device(predictor, monkeypatch):
    opened = []

    def no_camera(**arguments):
        opened.append((arguments["file"], arguments["format"]))
        raise OSError(19, "No such device")

    monkeypatch.setattr(av, "open", no_camera)
    for source in (1, "1", "/dev/video1"):
        with pytest.raises(DataError, match="No such device"):
            next(predictor.predict_video(source))
    assert opened == [("/dev/video1", "v4l2")] * 3
