"""Where a command writes is looked at before it works: an empty path, a folder for a file, a file for a folder."""

import pytest

from detkit.commands import main

WRITES_FILE = [
    ["doctor", "run", "--json"],
    ["doctor", "run", "--histogram"],
    ["evaluate", "run", "--report"],
    ["plot", "run", "--output"],
    ["predict", "--run", "run", "a.png", "--json"],
    ["compare", "random", "a.png", "--reference", "torchvision:x", "--json"],
    ["weights", "convert", "a.pth"],
    ["export", "run"],
]
WRITES_FOLDER = [
    ["predict", "--run", "run", "a.png", "--output"],
    ["predict", "--run", "run", "a.png", "--results"],
    ["visualize", "data", "run", "--output"],
    ["visualize", "model", "run", "--output"],
    ["convert", "--to", "yolo", "data"],
    ["weights", "pack"],
]


def said(argv, capsys):
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("argv", WRITES_FILE, ids=" ".join)
def test_a_folder_in_the_place_of_a_file_is_refused_before_any_work(argv, tmp_path, capsys):
    assert said([*argv, str(tmp_path)], capsys).endswith("is a folder; give the name of a file")


@pytest.mark.parametrize("argv", WRITES_FOLDER, ids=" ".join)
def test_a_file_in_the_place_of_a_folder_is_refused_before_any_work(argv, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    assert said([*argv, str(file)], capsys).endswith("is a file; give the name of a folder")


@pytest.mark.parametrize(
    "argv", [*WRITES_FILE, *WRITES_FOLDER, ["train", "--data"], ["doctor", "--data"]], ids=" ".join
)
def test_an_empty_path_is_not_the_current_folder(argv, capsys):
    assert said([*argv, ""], capsys).endswith("it is empty")
