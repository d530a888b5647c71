"""A choice between augmentations."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from detkit.config import Length
from detkit.data.interfaces import AUGMENTATIONS, Augmentation, Record


@AUGMENTATIONS.register()
class OneOf(Augmentation):
    """Does one of several sequences of augmentations, drawn for each image; all are equally likely.

    Args:
        choices: lists of augmentations; an empty one leaves the image as it is.

    Raises:
        ValueError: one of them needs other images.
    """

    def __init__(self, *, choices: Annotated[tuple[tuple[Augmentation, ...], ...], Length(1)]):
        super().__init__()
        several = [type(step).__name__ for steps in choices for step in steps if step.num_others]
        if several:
            raise ValueError(f"OneOf.choices: {several[0]} needs other images, so it stands outside of OneOf")
        self.choices = choices

    def __call__(self, record: Record, rng: np.random.Generator, others: Sequence[Record] = ()) -> Record:
        for step in self.choices[int(rng.integers(len(self.choices)))]:
            record = step(record, rng)
        return record
