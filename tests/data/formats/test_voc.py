"""Lists and instance masks of Pascal VOC name what is there, whatever the names and however many the objects."""

import numpy as np
import pytest
from variant_folders import IMAGE, VOC, VOC_BOX, write

from detkit.data import TableDataset, open_dataset
from detkit.data.formats.writing import write_dataset


def folder(root, lists, *stems):
    files = {f"ImageSets/{name}.txt": "".join(f"{line}\n" for line in lines) for name, lines in lists.items()}
    for stem in stems:
        files |= {f"JPEGImages/{stem}.png": IMAGE, f"Annotations/{stem}.xml": VOC.format(f"{stem}.png", VOC_BOX)}
    write(root, files)
    return root


@pytest.mark.parametrize("end", ["", " -1"])
def test_names_that_end_in_a_number_are_names(end, tmp_path):
    stems = [f"frame {i}{end}" for i in range(4)]
    root = folder(tmp_path, {"Main/train": stems[:3], "Main/val": stems[3:]}, *stems)
    assert [len(open_dataset(root, split=part)) for part in ("train", "val")] == [3, 1]


@pytest.mark.parametrize("stems", [("a", "b"), ("frame 0", "frame 1")])
@pytest.mark.parametrize("columns", ["Main/cat_train, -1", "Main/cat_train,  0", "Layout/train,  2", "Action/train, 3 -1"])
def test_a_list_that_says_more_than_names_is_no_part(stems, columns, tmp_path):
    name, end = columns.split(",")
    dataset = open_dataset(folder(tmp_path, {"Main/train": stems, name: [stem + end for stem in stems]}, *stems))
    assert (dataset.splits, len(dataset)) == (("train",), 2)
