"""Pictures on one sheet: each whole, under its title, and a legend over all."""

import numpy as np
import pytest

from detkit.visualization import side_by_side


def test_side_by_side_keeps_every_picture_whole():
    left, right = np.full((90, 70, 3), 10, np.uint8), np.full((60, 50, 3), 200, np.uint8)
    sheet = side_by_side([left, right], ["left", "right"])
    header = sheet.shape[0] - 90
    assert header > 0
    assert (sheet[header:, :70] == left).all()
    assert (sheet[header : header + 60, -50:] == right).all()
    assert (sheet[:header] != 255).any()
    with pytest.raises(ValueError, match="titles"):
        side_by_side([left], [])


def test_titles_stay_over_their_pictures():
    pictures = [np.full((600, width, 3), 90, np.uint8) for width in (150, 150, 400)]
    words = "prediction: 12 with score ≥ 0.5"
    header = {}
    for titles in (["", "", ""], [words, "", ""], ["", words, ""], [words, words, words], ["W" * 60, "", ""]):
        sheet = side_by_side(pictures, titles)
        top = sheet[: sheet.shape[0] - 600]
        header[tuple(titles)] = top
        inked = (top < 128).any((0, 2))
        starts = np.cumsum([0, *(p.shape[1] + 7 for p in pictures)])
        for start, picture, title in zip(starts, pictures, titles):
            assert inked[start : start + picture.shape[1]].any() == bool(title)
            assert not inked[start + picture.shape[1] : start + picture.shape[1] + 7].any()
    assert header[words, words, words].shape == header[words, "", ""].shape
    assert header["", "", ""].shape[0] < header[words, "", ""].shape[0]  # it ran over several lines


def test_a_legend_stands_over_the_titles_in_as_many_lines_as_it_needs():
    picture = np.full((100, 120, 3), 90, np.uint8)
    legend = [("correct 3", np.array([1, 200, 3], np.uint8)), ("missed 20 of them", np.array([200, 1, 3], np.uint8))]
    sheet, wide = side_by_side([picture], ["a"], legend), side_by_side([picture.repeat(4, 1)], ["a"], legend)
    for drawn in (sheet, wide):
        rows = [np.flatnonzero((drawn == color).all(2).any(1)) for _, color in legend]
        assert len(rows[0])
        assert len(rows[1])
        assert rows[1].max() < len(drawn) - 100
        assert (rows[0].max() < rows[1].min()) == (drawn is sheet)
    assert (sheet[-100:, :120] == picture).all()
    assert len(side_by_side([picture], ["a"])) < len(wide) < len(sheet)
    strip = side_by_side([picture[:, :9]], ["a"], legend)
    assert strip.shape[1] > 100  # an entry is whole
    assert (strip[-100:, :9] == picture[:, :9]).all()
