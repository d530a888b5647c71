"""Looking for parts of one kind in a checked recipe, for rules that span several parts of a config."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from detkit.config.recipe import Now, Recipe


def parts_of(value: Any, kind: type, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every part of a class, or of one derived from it, however deep.

    Args:
        value: a recipe, or any option's value.
        kind: the class.
        path: the dotted path of ``value`` in the config.

    Yields:
        The path of each part, and its options: those that are written and the defaults.
    """
    if isinstance(value, Now):
        value = value.recipe
    if isinstance(value, Recipe):
        if issubclass(value.cls, kind):
            yield path, value.kwargs
        children = {f"{path}.{name}": child for name, child in value.kwargs.items()}
    elif isinstance(value, kind) and dataclasses.is_dataclass(value):
        yield path, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return
    elif isinstance(value, Mapping):
        children = {f"{path}.{name}": child for name, child in value.items()}
    elif isinstance(value, list | tuple):
        children = {f"{path}[{number}]": child for number, child in enumerate(value)}
    else:
        return
    for inner, child in children.items():
        yield from parts_of(child, kind, inner)
