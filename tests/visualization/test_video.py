import os
import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from detkit.registry import DataError
from detkit.visualization import VideoWriter, is_video, video_frames, video_info


def frames(num=6, height=48, width=64):
    """A bright square that moves to the right on a gradient."""
    out = []
    for i in range(num):
        frame = np.repeat(np.linspace(20, 90, width).astype(np.uint8)[None, :, None], height, 0).repeat(3, 2)
        frame[16:32, 8 * i : 8 * i + 16] = (250, 40, 40)
        out.append(frame)
    return out


def write(path, pictures, rate=10):
    pytest.importorskip("av")
    with VideoWriter(path, rate) as writer:
        for picture in pictures:
            writer.write(picture)
    return path


def test_frames_come_back_in_order(tmp_path):
    path = write(tmp_path / "new" / "clip.mp4", frames())
    back = list(video_frames(path))
    assert len(back) == 6
    assert all(f.shape == (48, 64, 3) and f.dtype == np.uint8 for f in back)
    for i, frame in enumerate(back):
        bright = np.flatnonzero(frame[20:28, :, 0].mean(0) > 170)
        assert abs(bright.mean() - (8 * i + 7.5)) < 2
    assert video_info(path) == (6, Fraction(10))


def test_odd_sizes_are_cut_to_even_ones(tmp_path):
    path = write(tmp_path / "odd.mp4", [f[:47, :63] for f in frames(2)])
    assert next(iter(video_frames(path))).shape == (46, 62, 3)


def test_other_sizes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="width, height"):
        write(tmp_path / "a.mp4", [frames(1)[0], frames(1, 32, 32)[0]])


def test_a_file_that_is_no_video_is_named(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "fake.mp4").write_text("not a video")
    with pytest.raises(DataError, match=r"fake\.mp4"):
        list(video_frames(tmp_path / "fake.mp4"))
    with pytest.raises(DataError, match=r"missing\.mp4"):
        video_info(tmp_path / "missing.mp4")


def test_without_pyav_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"detkit\[video\]"):
        next(video_frames(tmp_path / "a.mp4"))


def encode(path, codec="ffv1", times=range(0, 1000, 100), pix_fmt="yuv420p", **metadata):
    """A video whose frames are shown at these milliseconds; each is brighter than the one before."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata)
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number % 256, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", ["a.ts", "a.MTS", "a.flv", "a.3gp", "a.m2ts", "a.asf", "a.mov"])
def test_containers_are_known_by_their_suffix(tmp_path, name):
    path = encode(tmp_path / name.lower(), "flv1" if name == "a.flv" else "mpeg4").rename(tmp_path / name)
    assert is_video(path)
    assert len(list(video_frames(path))) == 10


def test_times_of_frames_survive(tmp_path):
    """Also where they differ from a constant rate by less than a frame, and where a clip begins late."""
    for times in ([0, 40, 500, 2000, 7000], [300, 340, 700, 705, 3000]):
        varying = encode(tmp_path / "a.mkv", times=times)
        found = list(video_frames(varying))
        assert [frame.time for frame in found] == [Fraction(t, 1000) for t in times]
        with VideoWriter(tmp_path / "b.mp4", video_info(varying)[1]) as writer:
            for frame in found:
                writer.write(np.array(frame), frame.time)
        back = [float(frame.time) for frame in video_frames(tmp_path / "b.mp4")]
        assert back == pytest.approx([(t - times[0]) / 1000 for t in times], abs=2e-3)


def test_times_that_begin_again_or_are_damaged_go_on_at_the_rate(tmp_path):
    pytest.importorskip("av")
    with VideoWriter(tmp_path / "a.mp4", 10) as writer:
        for time in (5, 6, 0, Fraction(1, 2), 2**60, 2**60 + 1, None):
            writer.write(np.zeros((48, 64, 3), np.uint8), None if time is None else Fraction(time))
    times = [float(frame.time) for frame in video_frames(tmp_path / "a.mp4")]
    assert times == pytest.approx([0, 1, 1.1, 1.6, 1.7, 2.7, 2.8], abs=1e-3)


@pytest.mark.parametrize(("codec", "suffix"), [("mjpeg", ".avi"), ("png", ".mov")])
def test_a_damaged_packet_costs_its_own_frames(tmp_path, caplog, codec, suffix):
    av = pytest.importorskip("av")
    path = encode(tmp_path / f"a{suffix}", codec, pix_fmt="yuvj420p" if codec == "mjpeg" else "rgb24")
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes().replace(packets[4], bytes(len(packets[4]))))
    assert len(list(video_frames(path))) == 9
    assert f"{path}: 1 packets are damaged; 9 frames were read" in caplog.text


def test_what_is_wrong_with_a_file_is_said(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    cut = encode(tmp_path / "cut.mov", "mpeg4")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    encode(tmp_path / "inner.ts", "mpeg4")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile inner.ts\n")  # it would read another file
    os.mkfifo(tmp_path / "pipe.mp4")
    words = {"sound": "only sound", "cut": "damaged, or cut off", "list": "of no known kind", "pipe": "no regular file"}
    for path in tmp_path.iterdir():
        if path.stem in words:
            with pytest.raises(DataError, match=f"{path.name}: .*{words[path.stem]}"):
                list(video_frames(path))


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mpeg4"), ("b.mkv", "ffv1")])
def test_a_video_that_is_cut_off_gives_its_frames_and_says_so(tmp_path, caplog, name, codec):
    av = pytest.importorskip("av")
    path = encode(tmp_path / "whole.mkv", codec, times=range(0, 9000, 300))
    with av.open(str(path)) as source, av.open(str(tmp_path / name), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    path = tmp_path / name
    caplog.clear()
    assert len(list(video_frames(path))) == 30
    assert caplog.text == ""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 2 < len(list(video_frames(path))) < 29
    assert f"{path}: is cut off" in caplog.text


def test_tags_in_another_encoding_do_no_harm(tmp_path):
    path = encode(tmp_path / "a.mkv", title="Caf-- Zurich")
    path.write_bytes(path.read_bytes().replace(b"Caf-- Zurich", b"Caf\xe9\xe9 Z\xfcrich"))
    assert len(list(video_frames(path))) == 10
    assert video_info(path)[1] == 10


def test_an_image_file_of_several_frames_is_a_video(tmp_path, caplog):
    pictures = [Image.fromarray(frame) for frame in frames(4)]
    for name in ("a.gif", "b.webp", "c.tif", "d.png"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=250, lossless=True)
        assert is_video(tmp_path / name)
        found = list(video_frames(tmp_path / name))
        assert [frame.time for frame in found] == [None if name == "c.tif" else Fraction(k, 4) for k in range(4)]
        for frame, picture in zip(found, pictures):
            assert np.abs(frame.astype(int) - np.asarray(picture)).mean() < 3
    data = bytearray((tmp_path / "c.tif").read_bytes())
    (tmp_path / "c.tif").write_bytes(data[: int(len(data) * 0.7)])
    assert len(list(video_frames(tmp_path / "c.tif"))) < 4
    pictures[0].save(tmp_path / "still.gif")
    assert not is_video(tmp_path / "still.gif")


def test_a_writer_without_a_picture_leaves_no_file(tmp_path):
    assert not write(tmp_path / "a.mp4", []).exists()
