import os

import numpy as np
import PIL.EpsImagePlugin
import pytest
from PIL import Image

from detkit.data import read_image
from detkit.data.images import check_image
from detkit.registry import DataError

H, W = 8, 12


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 255, (H, W, 3), np.uint8)


def save(path, image, **options):
    image.save(path, **options)
    return str(path)


def test_rgb_and_alpha(tmp_path, rgb):
    assert (read_image(save(tmp_path / "a.png", Image.fromarray(rgb))) == rgb).all()
    rgba = np.concatenate([rgb, np.full((H, W, 1), 9, np.uint8)], 2)
    assert (read_image(save(tmp_path / "b.png", Image.fromarray(rgba))) == rgb).all()


def test_gray_palette_and_bits(tmp_path, rgb):
    gray = rgb[:, :, 0]
    expected = np.repeat(gray[:, :, None], 3, 2)
    assert (read_image(save(tmp_path / "g.png", Image.fromarray(gray))) == expected).all()
    assert (read_image(save(tmp_path / "p.png", Image.fromarray(gray).convert("P"))) == expected).all()
    one = read_image(save(tmp_path / "1.png", Image.fromarray(gray > 99)))
    assert (one == np.where(gray > 99, 255, 0)[:, :, None]).all()
    alpha = Image.fromarray(np.stack([gray, gray], 2))
    assert (read_image(save(tmp_path / "la.png", alpha)) == expected).all()


def test_sixteen_bits_are_scaled_not_cut(tmp_path, rgb):
    deep = rgb[:, :, 0].astype(np.uint16) * 257
    for name in ("a.png", "a.tif"):
        found = read_image(save(tmp_path / name, Image.fromarray(deep)))
        assert (found == rgb[:, :, :1]).all()
        assert found.shape == (H, W, 3)


def test_floats_are_refused(tmp_path):
    path = save(tmp_path / "f.tif", Image.fromarray(np.zeros((H, W), np.float32)))
    with pytest.raises(DataError, match=r"f\.tif: pixels are floating-point"):
        read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_where_the_annotated_size_asks_for_it(tmp_path, rgb, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "o.png", Image.fromarray(rgb), exif=exif)
    turned = orientation >= 5
    seen = (W, H) if turned else (H, W)
    as_seen = read_image(path, seen)
    assert as_seen.shape == (*seen, 3)
    assert (as_seen == read_image(path)).all()
    check_image(path, seen)
    if turned:  # annotated on the pixels as they are stored
        assert (read_image(path, (H, W)) == rgb).all()
        check_image(path, (H, W))
    assert (as_seen == rgb).all() if orientation == 1 else as_seen.shape != rgb.shape or (as_seen != rgb).any()


def test_size_that_fits_neither_way(tmp_path, rgb):
    path = save(tmp_path / "a.png", Image.fromarray(rgb))
    for size in ((W, H), (H + 1, W)):
        for look in (read_image, check_image):
            with pytest.raises(DataError, match=r"a\.png: is 12 x 8 pixels"):
                look(path, size)


def test_bytes_behind_the_end_of_a_jpeg_do_no_harm(tmp_path, rgb):
    path = tmp_path / "a.jpg"
    save(path, Image.fromarray(rgb))
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    check_image(str(path), (H, W))


def by_pillow(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (37, 61), (240, 319)])
@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 30}]
)
def test_jpeg_has_pillows_pixels(tmp_path, size, options):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (5, 7, 3), np.uint8)).resize(size[::-1], Image.Resampling.BICUBIC)
    for name, image in (("c.jpg", coarse), ("g.jpg", coarse.convert("L")), ("k.jpg", coarse.convert("CMYK"))):
        path = save(tmp_path / name, image, **options)
        found = read_image(path, size)
        assert (found == by_pillow(path)).all()
        assert found.flags.c_contiguous
        assert found.flags.writeable


def test_photographs_have_pillows_pixels(shared_data):
    paths = sorted((shared_data / "coco_mini/val2017").glob("*.jpg"))[:12]
    assert len(paths) == 12
    for path in paths:
        assert (read_image(str(path)) == by_pillow(path)).all()


def test_a_jpeg_without_its_decoder_in_torchvision(tmp_path, rgb, monkeypatch):
    path = save(tmp_path / "a.jpg", Image.fromarray(rgb))
    before = read_image(path)
    monkeypatch.delattr("torchvision.io.decode_jpeg")
    assert (read_image(path) == before).all()


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_orientation_of_a_jpeg(tmp_path, rgb, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "o.jpg", Image.fromarray(rgb), exif=exif)
    turns = {1: 0, 3: 2, 6: 3}[orientation]
    assert (read_image(path) == np.rot90(by_pillow(path), turns)).all()


@pytest.mark.parametrize("end", [0.1, 0.5, 0.9])
def test_a_jpeg_cut_in_half_is_named(tmp_path, rgb, end):
    path = tmp_path / "half.jpg"
    save(path, Image.fromarray(np.tile(rgb, (20, 20, 1))))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * end)])
    with pytest.raises(DataError, match=r"half\.jpg: cannot be decoded"):
        read_image(str(path))


@pytest.mark.parametrize("name", ["photo.jpg", "photo.eps"])
def test_a_file_that_would_start_a_program_is_no_image(tmp_path, name, monkeypatch):
    calls = []
    monkeypatch.setattr(PIL.EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: calls.append(args))
    path = tmp_path / name
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n%%EOF\n")
    for read in (lambda: read_image(str(path)), lambda: check_image(str(path), (48, 64))):
        with pytest.raises(DataError, match="cannot be decoded as an image"):
            read()
    assert not calls


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match="no regular file"):
        read_image(str(tmp_path / "a.png"))
