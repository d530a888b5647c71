"""Every part of the reference implementation has a test that bears its name, and a line on the docs' page about it.

The reference implementation is the Mask R-CNN that this project started from: pytorch-mask-rcnn after matterport. Its
parts are tested in ``tests/reference``, on what ``configs/matterport`` builds.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ROWS = {
    "log, progress bar": "log_and_progress_bar",
    "SamePad2d": "same_pad_2d",
    "ResNet C1..C5": "resnet_c1_c5",
    "TopDownLayer, FPN": "top_down_layer_fpn",
    "RPN": "rpn",
    "anchors": "anchors",
    "box deltas": "box_deltas",
    "proposal layer": "proposal_layer",
    "pyramid RoI align": "pyramid_roi_align",
    "detection target layer": "detection_target_layer",
    "RPN targets": "rpn_targets",
    "mask targets": "mask_targets",
    "Classifier head": "classifier_head",
    "Mask head": "mask_head",
    "losses": "losses",
    "detection layer": "detection_layer",
    "input": "input",
    "image_meta": "image_meta",
    "training": "training",
    "evaluation": "evaluation",
    "visualize": "visualize",
}
"""A part of the reference implementation -> its test, without ``test_``."""

FAULTS = {
    "batch size 1 only": "batches_of_any_size",
    "`SamePad2d` with height and width swapped": "rectangular_images",
    "x1 = max(b1_x1, b2_x2)": "overlaps",
    "`gt_w` taken from y": "box_deltas",
    "`y2` assigned twice": "box_deltas",
    "every block of a stage made with the stage's stride": "resnet_c1_c5",
    "`class_ids` compared with itself in the per-class NMS": "detection_layer",
    "can freeze but never unfreeze": "training",
    "an all-ones mini-mask crop that becomes all zeros": "mask_targets",
    "gradients summed, not averaged": "training_averages",
    "flips applied to validation": "input_modes_and_flips",
}
"""A fault of the reference implementation that is not to be copied -> the test that would see it."""


@pytest.fixture(scope="module")
def tests_of_the_reference():
    """Name of each test in ``tests/reference`` -> its docstring."""
    found = {}
    for path in (ROOT / "tests/reference").glob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert any(isinstance(inner, ast.Assert) for inner in ast.walk(node)), node.name
                found[node.name.removeprefix("test_")] = ast.get_docstring(node) or ""
    return found


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_a_test_and_a_line_in_the_docs(row, tests_of_the_reference):
    assert tests_of_the_reference[ROWS[row]].startswith(f"{row}: ")
    assert re.search(
        rf"^\| {re.escape(row)} \|", (ROOT / "docs/reference_implementation.md").read_text(), flags=re.MULTILINE
    )


def test_every_fault_has_a_test(tests_of_the_reference):
    assert set(FAULTS.values()) <= set(tests_of_the_reference)


def test_no_row_and_no_fault_is_forgotten(shared_data):
    page = shared_data.parent / "reference/seed.md"
    if not page.is_file():
        pytest.skip(f"no description of the reference implementation at {page}")
    text = page.read_text()
    table = text[text.index("|---") :].split("\n\n")[0]
    assert re.findall(r"^\| (.+?) \|", table, flags=re.MULTILINE) == list(ROWS)
    faults = text[text.index("**Faults of the seed") :]
    assert [words for words in FAULTS if words not in faults] == []
