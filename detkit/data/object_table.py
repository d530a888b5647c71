"""ObjectTable: all annotations of a dataset in flat arrays."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class ObjectTable:
    """All A annotations of a dataset, without its images and masks, ordered by image.

    Args:
        images: ``(A,)`` int64: the index of each one's image.
        ids: ``(A,)`` annotation ids.
        classes: ``(A,)`` int64, 0..K-1.
        crowd: ``(A,)`` bool.
        boxes: ``(A, 4)`` float32 xyxy.
        extents: ``(A, 4)`` float32 xyxy: the box around each one's mask, in its image; NaN where it has none.
    """

    images: np.ndarray
    ids: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    boxes: np.ndarray
    extents: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)
