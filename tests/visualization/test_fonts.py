"""Names in any script are drawn, or it is said that they cannot be."""

import warnings

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from detkit.structures import Boxes, Instances, Prediction
from detkit.visualization import compare_runs, draw_prediction, fonts, side_by_side
from detkit.visualization.curves import plot_curves

SCRIPTS = {"Thai": "แมว", "Hindi": "बिल्ली", "Korean": "고양이", "emoji": "🐈\ufe0f🐕 cat", "Chinese": "猫狗 a"}


def make_font(path, characters, blank=""):
    """A font whose glyphs are bars, each of a height of its own; those of ``blank`` have no outline."""
    builder = FontBuilder(1000, isTTF=True)
    names = {ord(c): f"c{ord(c):x}" for c in [*characters, *blank]}
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap(names)
    glyphs = {".notdef": TTGlyphPen(None).glyph()}
    for code, name in names.items():
        pen = TTGlyphPen(None)
        if chr(code) not in blank:
            pen.moveTo((0, 0))
            for corner in ((400, 0), (400, 200 + code % 500), (0, 200 + code % 500)):
                pen.lineTo(corner)
            pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (500, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes the fonts of the system those of the test."""

    def forget():
        for cached in (fonts._system_fonts, fonts._font_of, fonts.font_runs, fonts._has):
            cached.cache_clear()
        fonts._warned.clear()

    def make(*paths):
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(paths))
        forget()

    make()
    yield make
    forget()


def label(*names):
    instances = Instances((200, 300), boxes=Boxes([[50.0, 60, 200, 150]]), classes=torch.tensor([0]))
    return draw_prediction(np.full((200, 300, 3), 90, np.uint8), Prediction(instances), names)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_font_of_the_system_writes_what_dejavu_cannot(tmp_path, install, caplog, script):
    name = SCRIPTS[script]
    number = label(name, "x")
    assert "no font" in caplog.text
    half = make_font(tmp_path / "Half-Regular.ttf", name[:1])
    blank = make_font(tmp_path / "Noto-Blank-Regular.ttf", "", blank=set(name) - {"\ufe0f", " "})
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    install(str(tmp_path / "damaged.ttf"), blank, half)
    assert fonts.class_label(0, [name]) == "0"
    whole = make_font(tmp_path / "Whole-Regular.ttf", sorted(set(name) - {*"\ufe0f cat"}))  # no Latin, no digits
    install(str(tmp_path / "damaged.ttf"), blank, half, whole)
    caplog.clear()
    assert fonts.font_runs(f"{name} 0.93")[0][0] == whole
    assert (label(name, "x") != number).any()
    assert not caplog.text


def test_without_such_a_font_class_numbers_are_drawn_and_it_is_said_once(install, caplog):
    assert (label("고양이", "x") == label("แมว", "x")).all()
    assert (label("고양이", "x") == label("0", "x")).all()
    assert caplog.text.count("no font of this system can write '고양이'; class numbers are drawn") == 1
    assert "apt install" in caplog.text


def test_latin_cyrillic_greek_and_arabic_need_no_other_font(install, caplog):
    for name in ("Äpfel", "кошка", "γάτα", "قطة", "mèo", "a\tb"):
        assert fonts.class_label(0, [name]) == name
    assert not caplog.text


def test_a_name_of_two_lines_is_written_in_one(install):
    assert (label("two\nlines", "x") == label("two lines", "x")).all()


def test_titles_are_escaped_where_no_font_writes_them(install, caplog):
    picture = np.zeros((400, 600, 3), np.uint8)
    one, other = (side_by_side([picture], [f"{name}: 3 objects"]) for name in ("猫", "犬"))
    assert (one != other).any()
    assert caplog.text.count("escapes") == 1


@pytest.mark.parametrize("installed", [False, True])
def test_plots_write_the_names_of_runs_and_metrics(tmp_path, install, caplog, installed):
    if installed:
        install(make_font(tmp_path / "Cats.ttf", "고양이"))
    series = {"loss_고양이": ([0, 1], [1.0, 0.5]), "total_loss": ([0, 1], [2.0, 1.0])}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's, of missing glyphs
        runs = {"고양이": series, "$broken_{": series, "_hidden": series}
        out = compare_runs.plot_runs(runs, ["total_loss", "loss_고양이"], tmp_path / "a.png")
        (tmp_path / "m.jsonl").write_text('{"iteration": 1, "loss_고양이": 2.5}\n', encoding="utf-8")
        plot_curves(tmp_path / "m.jsonl", tmp_path / "b.png")
    assert out.is_file()
    assert ("no font" in caplog.text) == (not installed)
