"""What detectors check of the values that their parts give, as a part of a user's own may give others."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from detkit.config import broken_contract
from detkit.modeling.interfaces import AnchorGenerator, BoxCoder, Normaliser
from detkit.structures import Boxes


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


def anchors_on(generator: AnchorGenerator, maps: Sequence[Tensor], image_size: tuple[int, int]) -> list[Boxes]:
    """The anchors of each map, see ``AnchorGenerator.forward``.

    Raises:
        ConfigError: they are not as many as it says that a cell has.
    """
    anchors = generator(maps, image_size)
    wanted = [m.shape[2] * m.shape[3] * number for m, number in zip(maps, generator.num_anchors)]
    found = [len(a) if isinstance(a, Boxes) else type(a).__name__ for a in anchors] if isinstance(anchors, list) else ()
    if found != wanted:
        shown = found or type(anchors).__name__
        raise broken_contract(generator, f"expected a list of Boxes a level, {wanted} of them, got {shown}")
    return anchors


def encoded(coder: BoxCoder, reference: Tensor, boxes: Tensor) -> Tensor:
    """The deltas of boxes, see ``BoxCoder.encode``. Raises ConfigError where these are not four a box."""
    deltas = coder.encode(reference, boxes)
    if deltas.shape != boxes.shape:
        raise broken_contract(coder, f"expected deltas {tuple(boxes.shape)} of encode, got {tuple(deltas.shape)}")
    return deltas


def divisors(normaliser: Normaliser, num_foreground: Tensor) -> tuple[Tensor, Tensor | None]:
    """What sums over images are divided by, see ``Normaliser.forward``. Raises ConfigError for anything else."""
    given = normaliser(num_foreground)
    values = given if isinstance(given, tuple) else (given,)
    shapes = [tuple(value.shape) if isinstance(value, Tensor) else value for value in values]
    if len(shapes) != 2 or shapes[0] != tuple(num_foreground.shape) or shapes[1] not in ((), None):
        words = f"expected a tensor {tuple(num_foreground.shape)}, and a 0-d one or None, got {shapes!r:.80}"
        raise broken_contract(normaliser, words)
    return given
