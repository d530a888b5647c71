"""Recipe: a checked promise of an object, handed to whoever knows the shapes that it needs."""

import dataclasses
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Recipe(Generic[T]):
    """A class with its options bound. Calling it with the wiring arguments makes a new object each time.

    Args:
        cls: the class to make.
        kwargs: its options, already checked and in plain Python. A value that is a ``Recipe`` is handed over
            unbuilt; one that is a ``Now`` is built first, because its owner asked for the object itself.
    """

    cls: type[T]
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, *wiring: Any) -> T:
        return self.cls(*wiring, **{key: make(value) for key, value in self.kwargs.items()})


@dataclasses.dataclass(frozen=True)
class Now:
    """A recipe whose owner's annotation asks for the object, not for the recipe."""

    recipe: Recipe[Any]


def make(value: Any) -> Any:
    """``value`` with what its owner's annotations ask for built: its ``Now``s."""
    if isinstance(value, Now):
        return value.recipe()
    if isinstance(value, list | tuple):
        return type(value)(make(v) for v in value)
    if isinstance(value, dict):
        return {k: make(v) for k, v in value.items()}
    return value
