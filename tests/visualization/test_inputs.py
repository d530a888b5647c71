"""The image files of a folder."""

import pytest

from detkit.registry import DataError
from detkit.utils.run_folder import begin_run
from detkit.visualization import image_files, walk_images


@pytest.fixture
def folder(tmp_path):
    for name in ("b.JPG", "a.png", "c/z.png", "c/d/y.tif", "c/notes.txt", ".hidden.png", "empty/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "dead.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "back").symlink_to(tmp_path)
    return tmp_path


def test_images_are_found_by_name_and_links_that_lead_back_are_not_followed(folder, caplog):
    assert image_files(folder) == [folder / name for name in ("a.png", "b.JPG", "dead.png")]
    assert "the images in its subfolders are left out" in caplog.text
    caplog.clear()
    found = [*walk_images(folder, recursive=True)]
    assert found == ["a.png", "b.JPG", "dead.png", "c/z.png", "c/d/y.tif"]
    assert image_files(folder, recursive=True) == sorted(folder / name for name in found)
    assert "2 files are left out, as no images by their suffixes: notes.txt, x.txt (" in caplog.text
    caplog.clear()
    assert [*walk_images(folder / "c" / "d")] == ["y.tif"]
    assert not caplog.text


def test_links_to_other_folders_are_followed(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "x").mkdir()
    (other / "x/far.png").touch()
    (folder / "link").symlink_to(other)
    assert [*walk_images(folder, recursive=True)][-1] == "link/x/far.png"
    assert folder / "link/x/far.png" not in image_files(folder)


def test_pictures_that_a_run_has_left_are_no_images(folder):
    before = image_files(folder, recursive=True)
    run = folder / "output" / "run"
    run.mkdir(parents=True)
    begin_run(run)
    for name in ("curves.png", "predictions/x.png", "predictions/step_1/x.png"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).touch()
    assert image_files(folder, recursive=True) == before
    (run / "mine.png").touch()
    assert image_files(folder, recursive=True) == sorted([*before, run / "mine.png"])


def test_a_folder_without_images_is_refused(folder):
    for wrong, words in ((folder / "none", "no such folder"), (folder / "empty", "holds no image file")):
        with pytest.raises(DataError, match=words):
            image_files(wrong)
