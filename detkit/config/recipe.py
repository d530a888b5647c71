"""Recipe: a checked promise of an object, handed to the owner, which knows the shapes that it needs."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from detkit.config.user_file import own_place
from detkit.registry import ConfigError, DataError, role_of
from detkit.registry import options as options_of

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Recipe(Generic[T]):
    """A class with its options bound. Calling it with the runtime arguments makes a new object each time; options that
    are given then go before those that are bound, so that an owner can make several that differ in one.

    Args:
        cls: the class to make.
        kwargs: its options, already checked and in plain Python. A value that is a ``Recipe`` is handed over
            unbuilt; one that is an ``Eager`` is built first, because its owner asked for the object itself.
    """

    cls: type[T]
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, *runtime: Any, **options: Any) -> T:
        made = self.cls(*runtime, **{key: make(value) for key, value in {**self.kwargs, **options}.items()})
        role = role_of(self.cls)
        missing = [name for name in (inspect.get_annotations(role.base) if role else ()) if not hasattr(made, name)]
        if role and missing:
            raise ValueError(
                f"{self.cls.__name__} has no attribute '{missing[0]}', which each {role.role} sets when it is made, see"
                f" {role.base.__name__} in {role.base.__module__}"
            )
        return made

    def ask(self, method: str, *arguments: Any) -> Any:
        """What a class method says of the options before anything is built; None where it cannot be asked.

        Args:
            method: a class method that takes the options, by their names, behind its other arguments.
            arguments: these others.
        """
        return getattr(self.cls, method)(*arguments, self.kwargs) if reads_own_options(self.cls, method) else None


@dataclasses.dataclass(frozen=True)
class Eager:
    """A recipe whose owner's annotation asks for the object, not for the recipe."""

    recipe: Recipe[Any]


def make(value: Any) -> Any:
    """``value`` with what its owner's annotations ask for built: every ``Eager``."""
    if isinstance(value, Eager):
        return value.recipe()
    if isinstance(value, list | tuple):
        return type(value)(make(v) for v in value)
    if isinstance(value, dict):
        return {k: make(v) for k, v in value.items()}
    return value


def built(path: str, recipe: Recipe[T], *runtime: Any) -> T:
    """Makes what a recipe says; an error becomes a ConfigError that names the part of the config at ``path``.

    One that went through a user's own code is named with its line there, whatever it is.
    """
    try:
        return recipe(*runtime)
    except (ConfigError, DataError):
        raise
    except Exception as error:
        words, place = str(error), own_place(error)
        if not isinstance(error, ValueError | RuntimeError | ArithmeticError):  # of torch for a width of 0, say
            if place is None and not (isinstance(error, TypeError) and "verflow" in words):  # a size beyond 64 bits
                raise
            words = f"{type(error).__name__}: {words}"
        part, found, problem = words.partition(": ")
        paths = _paths_ending(part, recipe, path) if found else []
        said = f"{paths[0]}: {problem}" if len(paths) == 1 else f"{path}: cannot be built. {words}"
        raise ConfigError(said + (f" ({place})" if place else "")) from error


def _paths_ending(words: str, recipe: Recipe[Any], path: str) -> list[str]:
    """The dotted paths of parts and options below ``path`` that end with ``words``, as an error begins with."""
    known = [path, *(f"{at}.{option}" for at, cls, _ in parts_of(recipe, object, path) for option in options_of(cls))]
    return [at for at in known if f".{at}".endswith(f".{words}")]


def reads_own_options(cls: type, method: str) -> bool:
    """Whether a class method that is asked about options before building finds all that it may read.

    It does not where it is inherited by a class that leaves out options of the class that it was written for.
    """
    author = next(base for base in cls.__mro__ if method in vars(base))
    return options_of(author).keys() <= options_of(cls).keys()


def changed(recipe: Recipe[Any], kind: type, option: str, change: Callable[[Any], Any]) -> Recipe[Any]:
    """``recipe`` with another value of an option in every part of a class that has the option, however deep.

    Args:
        recipe: what is to be made.
        kind: the class.
        option: its name.
        change: the value that is written, or None, to the new one.
    """

    def below(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(below, value))
        return changed(value, kind, option, change) if isinstance(value, Recipe) else value

    kwargs = {name: below(value) for name, value in recipe.kwargs.items()}
    if issubclass(recipe.cls, kind) and option in options_of(recipe.cls):
        kwargs[option] = change(kwargs.get(option))
    return Recipe(recipe.cls, kwargs)


def parts_of(value: Any, kind: type, path: str) -> Iterator[tuple[str, type, Mapping[str, Any]]]:
    """Every part of a class, or of one derived from it, however deep, for rules that span several parts of a config.

    Args:
        value: a recipe, or any option's value.
        kind: the class.
        path: the dotted path of ``value`` in the config.

    Yields:
        The path of each part, its class, and its options: those that are written and the defaults.
    """
    value = value.recipe if isinstance(value, Eager) else value
    if isinstance(value, Recipe):
        if issubclass(value.cls, kind):
            yield path, value.cls, value.kwargs
        children = {f".{name}": child for name, child in value.kwargs.items()}
    elif isinstance(value, kind) and dataclasses.is_dataclass(value):
        yield path, type(value), vars(value)
        return
    elif isinstance(value, Mapping):
        children = {f".{name}": child for name, child in value.items()}
    else:
        children = {f"[{i}]": child for i, child in enumerate(value)} if isinstance(value, list | tuple) else {}
    for below, child in children.items():
        yield from parts_of(child, kind, path + below)
