"""Keypoints of a dataset's rows: how rows give them, and the field that they become."""

import numpy as np

from detkit.data.datasets.rows import FAR, Chunk
from detkit.data.flat import Ragged
from detkit.structures import Keypoints, KeypointSpec


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
    return Keypoints(out, spec.flip_pairs, spec.skeleton)


def read_keypoints(chunk: Chunk, num_keypoints: int | None) -> int | None:
    """Adds the column ``keypoints``, x, y, visibility of each; empty where a row has none. Reports malformed ones.

    The column ``labelled`` says how many have a visibility above 0.

    A row must have ``num_keypoints``, if they are known; else as many as the first that has some, which is returned.
    """
    given = [value or [] for value in chunk.values("keypoints")]
    if not any(given):
        chunk.columns["keypoints"] = Ragged(np.zeros(0), np.zeros(len(chunk) + 1, np.int64))
        chunk.columns["labelled"] = np.zeros(len(chunk), np.int64)
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
    seen = owner[(third % 3 == 2) & (numbers.data > 0)]
    chunk.columns["labelled"] = np.bincount(seen, minlength=len(chunk))
    return num_keypoints
