from pathlib import Path

import numpy as np
import pytest

from detkit.utils.file_names import FreeNames, file_stem
from detkit.visualization import write_picture


@pytest.mark.parametrize(
    ("given", "stem"), [(17, "17"), ("1-17", "1-17"), ("a/b: c.jpg", "a_b_c.jpg"), ("Äpfel", "Äpfel")]
)
def test_an_image_id_becomes_part_of_a_files_name(given, stem):
    assert file_stem(given) == stem


@pytest.mark.parametrize(
    "given",
    ["x" * 300, "气" * 200, "", ".", "..", "../../etc/passwd", ".hidden", "NUL", "com1.jpg", "\udcff\ud800", "a\0b"],
)
def test_whatever_an_image_id_is_a_file_of_its_name_can_be_written(tmp_path, given):
    path = tmp_path / f"{file_stem(given)}.png"
    assert path.parent == tmp_path
    write_picture(np.zeros((4, 4, 3), np.uint8), path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.name[0] not in ".~"
    assert path.stem.lower().partition(".")[0] not in ("nul", "com1")
    assert len(path.name.encode()) < 143


def test_long_image_ids_that_begin_alike_have_files_of_their_own():
    assert file_stem("x" * 300 + "a") != file_stem("x" * 300 + "b")


def test_a_free_name_is_one_that_no_file_system_takes_for_another():
    free = FreeNames([Path("f/a.png"), Path("f/A_2.png")])
    assert [str(free(Path("f/A.png"))) for _ in range(3)] == ["f/A_3.png", "f/A_4.png", "f/A_5.png"]
    assert free(Path("f/a.jpg")) == Path("f/a.jpg")
    long = [free(Path("f") / ("x" * 252 + ".mp4")).name for _ in range(3)]
    assert len({*long}) == 3
    assert all(len(name) < 255 and name.endswith(".mp4") for name in long)


def test_names_may_have_to_differ_before_their_suffix():
    free = FreeNames(by_stem=True)
    given = [free(Path(name)).name for name in ("1.jpg", "1.png", "2.png", "1_2.gif")]
    assert given == ["1.jpg", "1_2.png", "2.png", "1_2_2.gif"]
