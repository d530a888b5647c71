"""Keypoints of a dataset: their names, which of them are a left and a right one, and how rows give them."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from detkit.data.datasets.rows import FAR, Chunk, is_text
from detkit.data.flat import Ragged
from detkit.structures import Keypoints

SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}


@dataclasses.dataclass(frozen=True)
class KeypointSpec:
    """The P keypoints that an object has.

    Args:
        names: P names.
        skeleton: pairs of keypoints (0 is the first) that a drawing joins by a line.
    """

    names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...] = ()

    @property
    def flip_pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of keypoints that change places in a mirror: their names differ in left and right, or l and r.

        The side may stand anywhere in the name, in any writing: ``left_eye``, ``eye_r``, ``Ear-L``, ``RAnkle``.
        """
        index = {_words(name): i for i, name in enumerate(self.names)}
        others = [index.get(_words(name, mirrored=True)) for name in self.names]
        return tuple((i, other) for i, other in enumerate(others) if other is not None and i < other)

    @staticmethod
    def from_coco(category: Mapping[str, Any]) -> "KeypointSpec":
        """From a category of a COCO file. Raises ValueError for names or a skeleton that are none."""
        names, lines = category["keypoints"], category.get("skeleton") or []
        if (
            type(names) is not list
            or len(set(map(str, names))) < len(names)
            or not all(type(name) is int or is_text(name) for name in names)
        ):
            raise ValueError(f"keypoints is {str(names)[:60]}; expected a list of different names")
        if type(lines) is not list or not all(
            type(pair) is list and len(pair) == 2 and all(type(n) is int and 1 <= n <= len(names) for n in pair)
            for pair in lines
        ):
            raise ValueError(f"skeleton is {str(lines)[:60]}; expected pairs of keypoints, the first of which is 1")
        return KeypointSpec(tuple(map(str, names)), tuple((a - 1, b - 1) for a, b in lines))

    def coco(self) -> dict[str, Any]:
        """What stands in a category of a COCO file."""
        return {"keypoints": list(self.names), "skeleton": [[a + 1, b + 1] for a, b in self.skeleton]}


def keypoint_field(given: Ragged, rows: slice, spec: KeypointSpec) -> Keypoints:
    """The keypoints of some rows.

    Files count whole pixels, so the centre of a keypoint's pixel is half a pixel further (as in Detectron2).
    """
    out = np.zeros((rows.stop - rows.start, len(spec.names), 3), np.float32)
    for i, row in enumerate(range(rows.start, rows.stop)):
        if len(given[row]):
            out[i] = given[row].reshape(-1, 3)
    out[..., :2] += 0.5
    out[out[..., 2] == 0] = 0
    return Keypoints(out, spec.flip_pairs)


def _words(name: str, mirrored: bool = False) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    side = r"left|right|(?<![a-z])[lr](?![a-z])"
    return re.sub(side, lambda found: SIDES[found[0]], words) if mirrored else words


def read_keypoints(chunk: Chunk, num_keypoints: int | None) -> int | None:
    """Adds the column ``keypoints``, x, y, visibility of each; empty where a row has none. Reports malformed ones.

    A row must have ``num_keypoints``, if they are known; else as many as the first that has some, which is returned.
    """
    given = [value or [] for value in chunk.values("keypoints")]
    if not any(given):
        chunk.columns["keypoints"] = Ragged(np.zeros(0), np.zeros(len(chunk) + 1, np.int64))
        return num_keypoints
    numbers = Ragged.of_lists(given)
    if num_keypoints is None:
        num_keypoints = max(1, int(numbers.lengths[numbers.lengths > 0][0]) // 3)
    wrong = ~np.isin(numbers.lengths, (0, 3 * num_keypoints))
    owner = np.repeat(np.arange(len(chunk)), numbers.lengths)
    third = np.arange(len(owner)) - np.repeat(numbers.offsets[:-1], numbers.lengths)
    visibility = np.isin(numbers.data, (0, 1, 2)) | (third % 3 != 2)
    wrong[owner[~visibility | ~(np.abs(numbers.data) < FAR)]] = True
    chunk.report(
        *(wrong, "malformed keypoints"),
        lambda i: (
            f": keypoints is {str(given[i])[:60]}; expected {3 * num_keypoints} numbers: x, y and visibility (0, "
            f"1 or 2) of each of {num_keypoints} keypoints"
        ),
        "correct it, or leave keypoints out of the annotation",
    )
    chunk.columns["keypoints"] = numbers
    return num_keypoints
