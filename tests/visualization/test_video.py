import sys
from fractions import Fraction

import numpy as np
import pytest

from detkit.registry import DataError
from detkit.visualization import VideoWriter, video_frames, video_info


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
