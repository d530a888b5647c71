"""What a class takes, read off its signature: the schema of its config node."""

import dataclasses
import inspect
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from detkit.config.recipe import Recipe
from detkit.config.yaml_file import display
from detkit.registry import ConfigError, Registry, Removed, options, renamed_options, role_of, runtime_arguments

MISSING: Any = inspect.Parameter.empty
"""The default of an option that has none."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a class.

    Args:
        name: its key in a node.
        want: its annotation, resolved.
        default: its default, or ``MISSING``.
    """

    name: str
    want: Any
    default: Any


@dataclasses.dataclass(frozen=True)
class Schema:
    """What a class takes.

    Args:
        options: option name -> Option, in the order of the signature.
        runtime: the names of its runtime arguments.
        renamed: earlier option -> the path of today, or why there is none.
    """

    options: dict[str, Option]
    runtime: tuple[str, ...]
    renamed: dict[str, str | Removed]


_known: dict[type, Schema] = {}


def schema(cls: type) -> Schema:
    """The schema of ``cls``, worked out once. Raises ConfigError where an annotation cannot be resolved."""
    if cls not in _known:
        _known[cls] = _read(cls)
    return _known[cls]


def _read(cls: type) -> Schema:
    try:
        hints = get_type_hints(cls if dataclasses.is_dataclass(cls) else cls.__init__, include_extras=True)  # type: ignore[misc]
    except (NameError, AttributeError) as error:
        raise ConfigError(f"{place(cls)}: an annotation of {cls.__name__} cannot be resolved: {error}") from error
    factories = {
        field.name: field.default_factory
        for field in (dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ())
        if field.default_factory is not dataclasses.MISSING
    }
    found = {}
    for name, parameter in options(cls).items():
        default = factories[name]() if name in factories else parameter.default
        found[name] = Option(name, hints.get(name, Any), default)
    return Schema(found, () if is_nested(cls) else runtime_arguments(cls), renamed_options(cls))


def is_nested(cls: Any) -> bool:
    """Whether ``cls`` is a class of nested options: a dataclass that plays no role."""
    return isinstance(cls, type) and dataclasses.is_dataclass(cls) and role_of(cls) is None and cls is not Recipe


def registry_for(role: Any) -> "Registry[Any] | None":
    """The registry where names under ``role`` (an interface, or one of its classes) are looked up."""
    return role_of(role) if isinstance(role, type) else None


def is_node(want: Any) -> bool:
    """Whether a value of annotation ``want`` is written as a node or as nested options: a mapping, made an object."""
    return get_origin(want) is Recipe or is_nested(want) or registry_for(want) is not None


_lines: dict[type, int] = {}


def place(cls: type) -> str:
    """``file:line`` of a class, for messages."""
    try:
        file = inspect.getsourcefile(cls)
        if cls not in _lines:  # finding the line means parsing the file
            _lines[cls] = inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        return cls.__module__
    return f"{display(Path(file or ''))}:{_lines[cls]}"


def broken_contract(part: object, words: str) -> ConfigError:
    """The error for a part that gave what its role does not allow; ``words`` say what was expected and what came."""
    return ConfigError(f"{type(part).__name__}: {words} ({place(type(part))})")


def words(want: Any) -> str:
    """An annotation as a person would write the value: ``int | null``, ``[float, ...]``, ``mask head node``."""
    origin, args = get_origin(want), get_args(want)
    if want is Any or want is object:
        return "anything"
    if want is None or want is type(None):
        return "null"
    if origin is Annotated:
        return " ".join([words(args[0]), *(f"({arg})" for arg in args[1:])])
    if origin in (Union, types.UnionType):
        return " | ".join(words(arm) for arm in args)
    if origin is Literal:
        return " | ".join("null" if arg is None else str(arg) for arg in args)
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        return f"[{', '.join(words(arg) for arg in args)}]"
    if is_list(want):
        return f"[{words(args[0]) if args else 'anything'}, ...]"
    if is_dict(want):
        return f"{{{words(args[0])}: {words(args[1])}}}" if args else "mapping"
    if origin is Recipe:
        return words(args[0])
    registry = registry_for(want)
    if registry is not None:
        return f"{registry.role} node"
    if is_nested(want):
        return f"{want.__name__} options"
    return getattr(want, "__name__", str(want))


def leaves(want: Any) -> list[Any]:
    """What the annotation ``want`` is made of: the classes in its unions, lists, mappings' values and recipes."""
    args = () if get_origin(want) is Literal else get_args(want)[1:] if is_dict(want) else get_args(want)
    args = args[:1] if get_origin(want) is Annotated else args
    return [leaf for arg in args for leaf in leaves(arg)] if args else [want]


def is_list(want: Any) -> bool:
    """Whether ``want`` is a list, a sequence or a tuple."""
    return (get_origin(want) or want) in (list, tuple, Sequence)


def is_dict(want: Any) -> bool:
    """Whether ``want`` is a dict or a mapping."""
    return (get_origin(want) or want) in (dict, Mapping)
