"""A folder of results: whatever a killed process has left, every image is there once, with its own detections."""

import json
import os
import resource
import signal

import numpy as np
import pytest

from detkit.data import CocoResults
from detkit.evaluation import result_folder
from detkit.evaluation.result_folder import DETECTIONS, IMAGES, Listing, ShardWriter, begin, done, read_lines
from detkit.registry import DataError

SETTINGS = {"weights": "abc", "model": {"depth": 50, "sizes": [1, 2]}}
NAMES = ["a.png", "b/c.png", "d é\udce9\n.png", "e.png", "f.png"]


def rows(number):
    """As many detections as the number says, so that one image has none."""
    return [{"image_id": number + 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}] * number


def start(folder, names=NAMES, settings=SETTINGS):
    begin(folder, settings, [(None, name) for name in names])


def write(folder, process, numbers):
    listing = Listing(folder)
    with ShardWriter(folder, process) as writer:
        for number in numbers:
            writer.add(number, listing[number], (20, 30), rows(number))


def check(folder, names=NAMES):
    """Every image is done once, and has its detections and no others."""
    images = {row["file_name"]: row for row in read_lines(folder, IMAGES)}
    assert sorted(images) == sorted(row["file_name"] for row in read_lines(folder, IMAGES)) == sorted(names)
    found = [(row["file_name"], row["image_id"]) for row in read_lines(folder, DETECTIONS)]
    assert sorted(found) == sorted((name, i + 1) for i, name in enumerate(names) for _ in range(i))
    assert [images[name]["id"] for name in names] == list(range(1, len(names) + 1))


def test_a_kill_at_any_byte_costs_no_image_and_doubles_none(tmp_path, monkeypatch):
    """Each process's writes, cut off anywhere; what is left is done by another number of processes."""
    written = []
    real = ShardWriter._write

    def recorded(self, which, text):
        written.append((self.paths[which].name, text))
        real(self, which, text)

    monkeypatch.setattr(ShardWriter, "_write", recorded)
    whole = tmp_path / "whole"
    start(whole)
    for process, numbers in enumerate(([0, 2, 4], [1, 3])):
        write(whole, process, numbers)
    check(whole)
    monkeypatch.setattr(ShardWriter, "_write", real)
    tried = 0
    for count, (name, text) in enumerate(written):
        for length in {0, 1, len(text) // 2, len(text) - 1} if text else {0}:
            folder = tmp_path / f"{count}_{length}"
            start(folder)
            for other, before in [*written[:count], (name, text[: max(length, 0)])]:
                with open(folder / other, "ab") as file:
                    file.write(before)
            start(folder)
            left = np.flatnonzero(~done(folder)).tolist()
            assert len(left) == 5 - sum(other.startswith("images") for other, _ in written[:count])
            for process in range(3):
                write(folder, process, left[process::3])
            check(folder)
            tried += 1
    assert tried > 30


def test_what_a_power_cut_has_lost_is_done_again(tmp_path):
    """The line of an image is on the disk and its detections are not, or a block is zeros."""
    start(tmp_path)
    write(tmp_path, 0, range(5))
    detections, images = tmp_path / "predictions-00000.jsonl", tmp_path / "images-00000.jsonl"
    os.truncate(detections, detections.stat().st_size - 3)
    start(tmp_path)
    assert done(tmp_path).tolist() == [True] * 4 + [False]
    lines = images.read_bytes().splitlines(keepends=True)
    images.write_bytes(b"".join([*lines[:2], b"\0" * len(lines[2]), *lines[3:]]))
    start(tmp_path)
    assert done(tmp_path).tolist() == [True, True, False, False, False]
    images.unlink()
    start(tmp_path)
    assert not done(tmp_path).any()
    assert detections.stat().st_size == 0
    write(tmp_path, 0, range(5))
    check(tmp_path)


@pytest.mark.parametrize("kind", [IMAGES, DETECTIONS])
@pytest.mark.parametrize("edit", ["line removed", "line doubled", "letter removed"])
def test_what_follows_an_edit_by_hand_is_done_again(tmp_path, kind, edit):
    start(tmp_path)
    write(tmp_path, 0, [1, 4, 2, 3, 0])
    path = next(tmp_path.glob(kind))
    first, second, *more = path.read_bytes().splitlines(keepends=True)
    changed = {"line removed": [], "line doubled": [second] * 2, "letter removed": [second.replace(b'"', b"", 1)]}[edit]
    path.write_bytes(b"".join([first, *changed, *more]))
    start(tmp_path)
    write(tmp_path, 1, np.flatnonzero(~done(tmp_path)).tolist())
    check(tmp_path)


@pytest.mark.parametrize("name", ["settings.json", "listing.jsonl"])
def test_a_damaged_folder_is_named(tmp_path, name):
    start(tmp_path)
    (tmp_path / name).write_text('{"wei\n')
    with pytest.raises(DataError, match=rf"{name}: .*is damaged or has been edited.*give a new folder"):
        start(tmp_path)


def test_a_full_disk_is_named_and_costs_nothing_that_was_written(tmp_path):
    start(tmp_path)
    write(tmp_path, 0, [0, 1])
    before, size = resource.getrlimit(resource.RLIMIT_FSIZE), (tmp_path / "predictions-00000.jsonl").stat().st_size
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, before[1]))
    try:
        with pytest.raises(OSError, match=r"predictions-00000\.jsonl"):
            write(tmp_path, 0, [2])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    start(tmp_path)
    assert done(tmp_path).tolist() == [True, True, False, False, False]
    write(tmp_path, 1, [2, 3, 4])
    check(tmp_path)


def test_images_that_come_later_get_numbers_of_their_own(tmp_path):
    start(tmp_path, NAMES[:3])
    write(tmp_path, 0, [0, 2])
    with open(tmp_path / "listing.jsonl", "ab") as file:
        file.write(b'{"id": 4, "file_na')  # killed while it listed
    start(tmp_path, [NAMES[3], *NAMES[:3], NAMES[4], NAMES[4]])
    assert [tuple(Listing(tmp_path)[i]) for i in range(5)] == list(enumerate(NAMES, 1))
    assert np.flatnonzero(~done(tmp_path)).tolist() == [1, 3, 4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": "abd"}, "weights was 'abc' and is 'abd'"),
        ({"model": {"depth": 101, "sizes": [1, 2]}}, "model.depth was 50 and is 101"),
        ({"new": 1}, "new was None and is 1"),
    ],
)
def test_other_settings_are_refused(tmp_path, change, words):
    start(tmp_path)
    with pytest.raises(DataError, match=words) as refused:
        start(tmp_path, settings={**SETTINGS, **change})
    assert "Take another folder, or the settings of before" in str(refused.value)
    start(tmp_path)


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds thesis.txt.*new or an empty folder"):
        start(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_results_load_again_from_the_folder_and_from_one_file(tmp_path):
    names = ["a.png", "b/c.png", "e.png"]
    start(tmp_path, names)
    write(tmp_path, 0, [0, 2])
    write(tmp_path, 1, [1])
    images = result_folder.write_images(tmp_path, {1: "cat", 5: "dog"})
    whole = result_folder.write_json(tmp_path)
    options = {"images_file": str(images), "image_root": str(tmp_path), "check_images": 0}
    for file in (tmp_path, whole):
        dataset = CocoResults(json_file=str(file), **options)
        assert dataset.class_names == ("cat", "dog")
        assert len(dataset) == 3
        assert sorted(row["image_id"] for row in dataset.coco()["annotations"]) == [2, 3, 3]
    alone = CocoResults(json_file=str(tmp_path / "predictions-00001.jsonl"), **options)
    assert [row["image_id"] for row in alone.coco()["annotations"]] == [2]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no predictions"):
        CocoResults(json_file=str(tmp_path / "empty"), **options)


def test_parquet_has_the_rows_of_the_lines(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    start(tmp_path)
    mask = {"size": [20, 30], "counts": "abc"}
    with ShardWriter(tmp_path, 0) as writer:
        writer.add(1, Listing(tmp_path)[1], (20, 30), rows(1))
        writer.add(2, Listing(tmp_path)[2], (20, 30), [{**row, "segmentation": mask} for row in rows(2)])
        writer.add(3, Listing(tmp_path)[3], (20, 30), [])
    table = parquet.read_table(result_folder.write_parquet(tmp_path)).to_pylist()
    lines = [
        {**row, "file_name": row["file_name"].replace("\udce9", r"\udce9")} for row in read_lines(tmp_path, DETECTIONS)
    ]
    assert [{key: value for key, value in row.items() if value is not None} for row in table] == lines


def test_lines_are_json_of_any_reader(tmp_path):
    start(tmp_path)
    write(tmp_path, 0, range(5))
    text = (tmp_path / "images-00000.jsonl").read_text("ascii")
    assert [json.loads(line)["file_name"] for line in text.splitlines()] == NAMES
