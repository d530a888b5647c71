"""convert_data: a folder of one format becomes a folder of another."""

import shutil

from small_folders import make_folder

from detkit.commands import convert as convert_command
from detkit.data import open_dataset


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
