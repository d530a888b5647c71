import contextlib
import os
import struct
import warnings
import zlib

import numpy as np
import PIL.EpsImagePlugin
import pytest
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin

from detkit.data import open_dataset, read_image
from detkit.data.image_files import FORMATS, IMAGE_SUFFIXES, decoder_warnings
from detkit.data.images import TURNED_IN_DOUBT, ImageReading, check_image
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


def reported(path, size=None, **reading):
    issues = []
    pixels = read_image(str(path), size, ImageReading(**reading), issues.append)
    return pixels, [issue.kind for issue in issues]


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(path, values, significant=None):
    """A PNG of 16 bits, gray or RGB; Pillow writes no RGB of 16 bits, and no sBIT."""
    h, w, c = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [png_chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, {1: 0, 3: 2}[c], 0, 0, 0))]
    chunks += [png_chunk(b"sBIT", bytes([significant] * c))] if significant else []
    chunks += [png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [9, 12, 15])
def test_bits_of_a_16_bit_png_are_scaled_by_what_is_declared_or_given(tmp_path, rgb, bits, channels):
    eight = rgb[:, :, :channels]
    values = eight.astype(np.uint16) << (bits - 8)
    pixels, kinds = reported(deep_png(tmp_path / "given.png", values), max_value=2**bits - 1)
    assert (pixels == eight).all()
    assert kinds == []
    pixels, kinds = reported(deep_png(tmp_path / "declared.png", values, significant=bits))
    assert (pixels == eight).all()
    assert kinds == []
    scaled_already = values << (16 - bits)  # as the format asks for
    assert (reported(deep_png(tmp_path / "scaled.png", scaled_already, significant=bits))[0] == eight).all()
    assert reported(deep_png(tmp_path / "neither.png", values))[1] == (["unused bits"] if bits < 15 else [])


def test_numbers_of_a_tiff_are_scaled_by_what_is_declared_or_given(tmp_path, rgb):
    gray = rgb[:, :, 0]
    expected = np.repeat(gray[:, :, None], 3, 2)
    twelve, unit = Image.fromarray(gray.astype(np.uint16) << 4), Image.fromarray(gray.astype(np.float32) / 255)
    for name, image, tag in (("u.tif", twelve, (341, 4000)), ("f.tif", unit, (341, 1.0))):
        declared = TiffImagePlugin.ImageFileDirectory_v2()
        declared.tagtype[341] = 3 if name == "u.tif" else 11
        declared[tag[0]] = tag[1]
        image.save(tmp_path / name, tiffinfo=declared)
        pixels, kinds = reported(tmp_path / name)
        assert (pixels == expected).all()
        assert kinds == []
    unit.save(tmp_path / "plain.tif")
    assert (reported(tmp_path / "plain.tif", max_value=1.0)[0] == expected).all()
    wide = Image.fromarray(gray.astype(np.int32) * 1000)
    wide.save(tmp_path / "wide.tif")
    with pytest.raises(DataError, match=r"unknown range; give the value of white .*'s reading\.max_value"):
        read_image(str(tmp_path / "wide.tif"))
    assert (reported(tmp_path / "wide.tif", max_value=255_999)[0] == expected).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["tif", "jpg", "webp", "png"])
def test_one_rule_of_orientation_for_all_formats(tmp_path, kind, orientation):
    corner = np.zeros((16, 24, 3), np.uint8)
    corner[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"o.{kind}"
    options = {"tiffinfo": {0x0112: orientation}} if kind == "tif" else {"exif": exif, "quality": 100}
    Image.fromarray(corner).save(path, **options)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    for size in (None, upright.shape[:2]):
        assert np.abs(reported(path, size)[0].astype(int) - upright).max() < 30
    stored = [reported(path, (16, 24), orientation="stored")]
    stored += [reported(path, (16, 24))] if orientation >= 5 else []
    for pixels, _ in stored:
        assert np.abs(pixels.astype(int) - corner).max() < 30
    issues = []
    check_image(str(path), (16, 24), report=issues.append)
    assert [i.kind for i in issues] == ([TURNED_IN_DOUBT] if orientation in (2, 3, 4) else [])


def test_a_limit_of_size_says_how_it_is_lifted(tmp_path, monkeypatch):
    for name, size in (("a.png", (12000, 11999)), ("b.gif", (13000, 14500))):
        Image.new("P", size).save(tmp_path / name)
        for look in (read_image, lambda path: check_image(path, (1, 1))):
            with pytest.raises(
                DataError, match=rf"{name}: .* more than the 134,217,728 that are read; set .*MAX_PIXELS"
            ):
                look(str(tmp_path / name))
    Image.new("L", (300, 20)).save(tmp_path / "c.png")
    monkeypatch.setenv("DETKIT_MAX_PIXELS", "5000")
    with pytest.raises(DataError, match=r"300 x 20 pixels .* more than the 5,000"):
        read_image(str(tmp_path / "c.png"))
    monkeypatch.setenv("DETKIT_MAX_PIXELS", "6000")
    assert read_image(str(tmp_path / "c.png")).shape == (20, 300, 3)
    monkeypatch.setenv("DETKIT_MAX_PIXELS", "many")
    with pytest.raises(DataError, match="DETKIT_MAX_PIXELS is 'many'; expected a number"):
        read_image(str(tmp_path / "c.png"))


def test_a_limit_of_pillow_is_lifted_by_the_variable(tmp_path, monkeypatch):
    Image.new("1", (190, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    with pytest.raises(DataError, match=r"a\.png: has 1,900 pixels, more than .* DETKIT_MAX_PIXELS"):
        read_image(str(tmp_path / "a.png"))
    monkeypatch.setenv("DETKIT_MAX_PIXELS", "2000")
    assert read_image(str(tmp_path / "a.png")).shape == (10, 190, 3)


def test_texts_beyond_all_limits_are_named_as_what_they_are(tmp_path, rgb, monkeypatch):
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 2 * PngImagePlugin.MAX_TEXT_CHUNK)
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "x" * 3_000_000, zip=True)
    save(tmp_path / "a.png", Image.fromarray(rgb), pnginfo=info)
    with pytest.raises(DataError, match=r"a\.png: carries texts of more than 2 MiB .*save it without its texts"):
        read_image(str(tmp_path / "a.png"))


@pytest.mark.parametrize("compress", [True, False])
def test_a_png_with_long_texts_is_read(tmp_path, rgb, compress):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("prompt", "x" * 2_000_000, zip=compress)
    save(tmp_path / "a.png", Image.fromarray(rgb), pnginfo=info)
    assert (read_image(str(tmp_path / "a.png")) == rgb).all()
    assert PngImagePlugin.MAX_TEXT_CHUNK < 2_000_000
    content = save(tmp_path / "b.png", Image.fromarray(rgb)) and (tmp_path / "b.png").read_bytes()
    text = png_chunk(b"zTXt", b"prompt\0\0" + zlib.compress(b"x" * 3_000_000))
    (tmp_path / "b.png").write_bytes(content[:-12] + text + content[-12:])
    assert (read_image(str(tmp_path / "b.png"), (H, W)) == rgb).all()
    check_image(str(tmp_path / "b.png"), (H, W))


def test_warnings_of_decoders_name_the_file(tmp_path, rgb, capfd):
    """Nothing else that is written meanwhile is lost."""
    large = np.tile(rgb, (20, 20, 1))
    progressive, summed = tmp_path / "p.jpg", tmp_path / "s.png"
    save(progressive, Image.fromarray(large), progressive=True)
    data = bytearray(progressive.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    progressive.write_bytes(data)
    save(summed, Image.fromarray(rgb))
    data = bytearray(summed.read_bytes())
    data[-13] ^= 1  # in the checksum of the last IDAT
    summed.write_bytes(data)
    assert reported(summed)[1] == ["wrong checksum"]
    assert reported(progressive)[1] == ["decoder's warning"]
    assert "Corrupt" not in capfd.readouterr().err
    with warnings.catch_warnings(record=True) as others, decoder_warnings() as found:
        os.write(2, b"Corrupt JPEG data: bad Huffman code\nLZWDecode: Not enough data.\nsomething else\n")
        warnings.warn_explicit("Truncated File Read", UserWarning, "/lib/PIL/TiffImagePlugin.py", 1)
        warnings.warn("of others", stacklevel=1)
    assert found == ["Truncated File Read", "Corrupt JPEG data: bad Huffman code", "LZWDecode: Not enough data."]
    assert [str(warning.message) for warning in others] == ["of others"]
    assert capfd.readouterr().err == "something else\n"
    with contextlib.suppress(ZeroDivisionError), decoder_warnings():  # also where reading fails
        os.write(2, b"more words\n")
        raise ZeroDivisionError
    assert capfd.readouterr().err == "more words\n"


def test_an_oddity_is_logged_once_with_the_files_name(tmp_path, rgb, caplog):
    frames = [Image.fromarray(rgb + k) for k in range(3)]
    for name in ("a.webp", "b.png", "c.gif", "d.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        for _ in range(2):
            read_image(str(tmp_path / name))
        assert [r.message for r in caplog.records if name in r.message] == [
            f"{tmp_path / name}: has 3 frames; only the first is read; name the file itself to detkit predict to have"
            " all, or save the frames as images"
        ]
    previews = [frames[0], frames[1].resize((6, 4))]
    previews[1].encoderinfo = {"tiffinfo": {254: 1}}
    previews[0].save(tmp_path / "pyramid.tif", save_all=True, append_images=previews[1:])
    assert reported(tmp_path / "pyramid.tif")[1] == []


def test_every_suffix_of_the_formats_that_are_read_is_known():
    Image.init()
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    assert suffixes | {".mpo"} == set(IMAGE_SUFFIXES)


@pytest.mark.parametrize("orientation", ["auto", "stored"])
def test_sizes_that_labels_do_not_give_are_those_of_the_images_as_they_are_read(tmp_path, rgb, orientation):
    exif = Image.Exif()
    exif[0x0112] = 8
    save(tmp_path / "a.jpg", Image.fromarray(rgb), exif=exif)
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("names: [cat]\n")
    dataset = open_dataset(tmp_path, "yolo", reading=ImageReading(orientation=orientation))
    size = (H, W) if orientation == "stored" else (W, H)
    assert dataset.image_size(0) == dataset[0].image.shape[:2] == size
    assert dataset[0].boxes.tensor[0].tolist() == [size[1] / 4, size[0] / 4, size[1] * 0.75, size[0] * 0.75]


def tiff(path, values, photometric=1, sample_format=1):
    """Writes numbers of any kind, which Pillow cannot, as an uncompressed TIFF of one channel."""
    height, width = values.shape
    content = values.astype(values.dtype.newbyteorder("<")).tobytes()
    tags = {256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags |= {279: len(content), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    end = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(content)) + content + end)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_white_may_be_zero_in_a_tiff(tmp_path, kind):
    tiff(tmp_path / "a.tif", np.array([[0, np.iinfo(kind).max]], kind), photometric=0)
    assert read_image(str(tmp_path / "a.tif"))[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize("kind", [np.int8, np.int16])
def test_values_below_zero_are_black_and_reported(tmp_path, kind):
    most = np.iinfo(kind).max
    tiff(tmp_path / "a.tif", np.array([[-most, 0, most]], kind), sample_format=2)
    pixels, issues = reported(tmp_path / "a.tif")
    assert pixels[0, :2, 0].tolist() == [0, 0]
    assert pixels[0, 2, 0] >= 254
    assert "values below 0" in issues


def test_files_that_are_not_read_are_called_what_they_are(tmp_path):
    tiff(tmp_path / "a", np.zeros((2, 3)), sample_format=3)
    for content, words in (
        (None, "TIFF of pixels that are not read.*8 or 16 bits"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is HEIC.*convert it to JPEG"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "HTML.*download"),
    ):
        if content:
            (tmp_path / "a").write_bytes(content)
        with pytest.raises(DataError, match=words):
            read_image(str(tmp_path / "a"))
