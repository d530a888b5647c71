"""convert_data: a folder of one format becomes a folder of another."""

import shutil

import pytest
from own_writer import own_writer
from small_folders import make_folder

from detkit.commands import convert as convert_command
from detkit.data import open_dataset
from detkit.registry import ConfigError

DIVIDED = ("--to", "voc", "--val-fraction", "0.5")


def test_parts_are_kept_or_made(tmp_path, capsys):
    source = make_folder("CocoFolder", tmp_path / "coco")
    assert convert_command.main([str(source), str(tmp_path / "voc"), "--to", "voc"]) == 0
    assert "COCO -> voc" in capsys.readouterr().out
    voc = open_dataset(tmp_path / "voc")
    assert (voc.format, voc.splits, len(voc)) == ("Pascal VOC", ("val",), 2)
    source = make_folder("LabelMeDataset", tmp_path / "labelme")
    assert convert_command.main([str(source), str(tmp_path / "few"), "--to", "yolo", "--val-fraction", "0.01"]) == 0
    assert [len(open_dataset(tmp_path / "few", split=part)) for part in ("train", "val")] == [1, 1]
    label, image = (source / "a.json").read_text(), (source / "a.png").read_bytes()
    for name in "cdefghij":
        (source / f"{name}.json").write_text(label.replace("a.png", f"{name}.png"))
        (source / f"{name}.png").write_bytes(image)
    assert convert_command.main([str(source), str(tmp_path / "yolo"), "--to", "yolo", "--val-fraction", "0.5"]) == 0
    yolo = open_dataset(tmp_path / "yolo")
    assert (yolo.format, yolo.splits, len(yolo)) == ("YOLO", ("train", "val"), 10)
    shutil.rmtree(tmp_path / "yolo")
    (source / "train").mkdir()
    for file in source.glob("*.*"):
        file.rename(source / "train" / file.name)
    assert convert_command.main([str(source), str(tmp_path / "yolo"), "--to", "yolo", "--val-fraction", "0.5"]) == 0
    assert open_dataset(tmp_path / "yolo").splits == ("train", "val"), "a part of which all are is divided, too"


def test_a_val_fraction_that_is_not_needed_is_said(tmp_path, capsys):
    for part in ("train", "test"):
        make_folder("LabelMeDataset", tmp_path / "labelme" / part)
    assert convert_command.main([str(tmp_path / "labelme"), str(tmp_path / "a"), *DIVIDED]) == 0
    assert "--val-fraction is not used: the parts test, train stay as they are" in capsys.readouterr().out
    assert open_dataset(tmp_path / "a").splits == ("test", "train")


def test_groups_of_which_none_is_to_train_or_evaluate_on_are_divided_together(tmp_path):
    source = make_folder("SuperviselyDataset", tmp_path / "groups")
    (source / "train").rename(source / "ds1")
    shutil.copytree(source / "ds1", source / "ds2")
    assert convert_command.main([str(source), str(tmp_path / "a"), *DIVIDED]) == 0
    voc = open_dataset(tmp_path / "a")
    assert (voc.splits, len(voc)) == (("train", "val"), 4)
    assert [len(open_dataset(source, split=name, val_fraction=0.5)) for name in ("ds1", "ds2")] == [2, 2]
    assert convert_command.main([str(source), str(tmp_path / "b"), "--to", "voc"]) == 0
    assert open_dataset(tmp_path / "b").splits == ("ds1", "ds2")


@pytest.mark.parametrize("to", ["coco", "voc", "yolo"])
def test_images_beside_the_parts_are_kept(to, tmp_path, capsys):
    for part in ("train", "val", "others"):
        make_folder("LabelMeDataset", tmp_path / "labelme" / part)
    assert convert_command.main([str(tmp_path / "labelme"), str(tmp_path / to), "--to", to]) == 0
    assert "(images: train 2, val 2, no_part 2)" in capsys.readouterr().out
    assert len(open_dataset(tmp_path / to)) == 6


def test_a_format_of_ones_own_is_written(tmp_path, capsys):
    source = make_folder("LabelMeDataset", tmp_path / "labelme")
    config = tmp_path / "c.yaml"
    with own_writer(tmp_path, "Converted") as file:
        config.write_text(f"imports: [{file.name}]\n")
        given = [str(source), str(tmp_path / "out"), "--to", "converted", "--config-file", str(config)]
        assert convert_command.main(given) == 0
    assert "LabelMe -> converted" in capsys.readouterr().out
    assert [line.split()[0] for line in (tmp_path / "out/names.txt").read_text().splitlines()] == ["a.png", "b.png"]


def test_an_unknown_format_is_told_with_the_nearest_before_data_are_read(tmp_path):
    with pytest.raises(
        ConfigError, match=r"--to: there is no 'label_studio'\. Did you mean 'label-studio'\?.*imports:"
    ):
        convert_command.main(["no folder", str(tmp_path / "out"), "--to", "label_studio"])
