"""What detectors check of the values that their parts give, as a part of a user's own may give others."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detkit.config import broken_contract


def paired(part: object, given: Any, expected: str, length: int | None = None) -> tuple[Tensor, Tensor]:
    """The two tensors that a part gave, of a value a row each.

    Args:
        part: what gave them.
        given: what it gave.
        expected: what the two are, for the message.
        length: how many rows there must be; None for any number.

    Raises:
        ConfigError: it gave something else.
    """
    values = given if isinstance(given, tuple | list) else [given]
    shapes = [tuple(v.shape) if isinstance(v, Tensor) else v for v in values]
    rows = shapes[0] if length is None else (length,)
    if shapes != [rows, rows] or not isinstance(rows, tuple) or len(rows) != 1:
        number = "M" if length is None else length
        shown = " and ".join(f"{shape!r:.80}" for shape in shapes)
        raise broken_contract(part, f"expected two tensors of shape ({number},), {expected}, got {shown}")
    return values[0], values[1]


def named_sums(part: object, given: Any) -> dict[str, Tensor]:
    """The sums over a batch that a class loss gave, each by the end of its term's name.

    Raises:
        ConfigError: it gave something else.
    """
    sums = dict(given) if isinstance(given, Mapping) else {}
    if not sums or not all(isinstance(value, Tensor) and value.ndim == 0 for value in sums.values()):
        shapes = {name: tuple(value.shape) if isinstance(value, Tensor) else value for name, value in sums.items()}
        shown = f"shapes {shapes}" if sums else f"a {type(given).__name__}, {given}"
        raise broken_contract(part, f'expected the sum over all boxes as {{"": 0-d tensor}}, got {shown:.200}')
    return sums
