"""Which maps a pyramid is made of, and what its levels are called."""

import itertools
from collections.abc import Mapping, Sequence

from detkit.layers import ShapeSpec


def level_name(stride: int) -> str:
    """The name of a pyramid's level, e.g. ``p5`` for stride 32.

    Raises:
        ValueError: the stride is no power of two.
    """
    if stride < 1 or stride & (stride - 1):
        raise ValueError(f"a feature pyramid needs maps whose strides are powers of two, got stride {stride}")
    return f"p{stride.bit_length() - 1}"


def select_maps(strides: Mapping[str, int], in_features: Sequence[str] | None) -> list[str]:
    """The maps to use, finest first; those of one stride in the backbone's order.

    Raises:
        ValueError: an unknown map, no map, one asked for twice, or a stride that is no power of two.
    """
    names = tuple(strides) if in_features is None else in_features
    unknown = [name for name in names if name not in strides]
    if unknown or not names:
        raise ValueError(f"in_features: expected some of {', '.join(strides)}, got {list(names)}")
    if len(set(names)) < len(names):
        raise ValueError(f"in_features: expected each map once, got {list(names)}")
    for name in names:
        level_name(strides[name])
    return sorted((name for name in strides if name in names), key=lambda name: strides[name])


def select_several(strides: Mapping[str, int], in_features: Sequence[str] | None, neck: str) -> list[str]:
    """See ``select_maps``. Raises ValueError for a single map too, of which ``neck`` makes no pyramid."""
    names = select_maps(strides, in_features)
    if len(names) == 1:
        raise ValueError(
            f"in_features: {neck} joins maps of several strides, and got one, {names[0]} of stride "
            f"{strides[names[0]]}; SimpleFeaturePyramid makes a pyramid of one map, as a plain ViT gives it"
        )
    return names


def strides_of(shapes: Mapping[str, ShapeSpec]) -> dict[str, int]:
    """The strides of maps by name."""
    return {name: shape.stride for name, shape in shapes.items()}


def check_doubling(strides: Sequence[int], neck: str) -> None:
    """Raises ValueError for strides that ``neck``, which goes up by halves, cannot take."""
    if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(strides)):
        raise ValueError(f"in_features: {neck} needs strides that double from map to map, got {list(strides)}")
