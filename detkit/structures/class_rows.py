"""ClassRows: which rows and columns of a tensor belong to which class."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class ClassRows:
    """How dimension 0 of a parameter is laid out over the classes: class ``c`` owns ``per_class`` rows in turn.

    A module whose parameters depend on the classes says so by an attribute
    ``class_rows: dict[str, ClassRows]`` from the parameter's name, relative to the module, to its layout::

        self.class_rows = {"cls_score.weight": ClassRows(background=True), "bbox_pred.weight": ClassRows(4)}

    Weights for other class names can then be loaded row by row, by the classes' names.

    Args:
        per_class: rows that each class owns, e.g. 4 for box deltas; 0: the rows have nothing to do with the classes.
        background: how many rows of the background follow after those of the last class; True is one.
        columns_after: dimension 1 ends in a column for each class, after so many others: the layer reads what another
            layer says of each class. None: the columns have nothing to do with the classes.
        repeats: how often all of that comes in turn, e.g. once for each anchor of a location.
    """

    per_class: int = 1
    background: int = 0
    columns_after: int | None = None
    repeats: int = 1

    def num_rows(self, num_classes: int) -> int:
        """The size of dimension 0 for ``num_classes`` classes."""
        return self.repeats * self.per_class * (num_classes + self.background)

    def shape(self, num_classes: int, like: tuple[int, ...]) -> tuple[int, ...]:
        """The shape for ``num_classes`` classes of a parameter that has the shape ``like`` for another number."""
        sizes = list(like)
        if self.per_class:
            sizes[0] = self.num_rows(num_classes)
        if self.columns_after is not None:
            sizes[1] = self.columns_after + num_classes
        return tuple(sizes)

    def rows(self, places: Sequence[int], num_classes: int) -> list[int]:
        """The rows of the classes ``places`` of ``num_classes``; those from there on are the background's."""
        if not self.per_class:
            return []
        turn = self.num_rows(num_classes) // self.repeats
        starts = [start + place * self.per_class for start in range(0, turn * self.repeats, turn) for place in places]
        return [start + i for start in starts for i in range(self.per_class)]
