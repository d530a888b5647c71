"""Questions about a config: what stands at a path, what may stand there, and who put it there."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from detkit.config.describe import usage
from detkit.config.merge import join, split
from detkit.config.recipe import Eager, Recipe
from detkit.config.schema import MISSING, Option, is_nested, place, registry_for, schema
from detkit.config.write import flow, plain
from detkit.registry import ConfigError, Registry, did_you_mean


@dataclasses.dataclass(frozen=True)
class Location:
    """What stands at a path of a recipe.

    Args:
        path: the path.
        value: the value; a Recipe where a node or a group stands.
        option: the option that holds it; None for the root and for the items of a list.
        owner: the class that has the option.
    """

    path: str
    value: Any
    option: Option | None
    owner: type | None


@dataclasses.dataclass(frozen=True)
class Provenance:
    """One value and where it comes from.

    Args:
        path: its dotted path.
        value: the value as YAML.
        source: ``file:line``, the override, or the class whose default it is.
    """

    path: str
    value: str
    source: str


def find_location(recipe: Recipe[Any], path: str) -> Location:
    """What stands at ``path`` below ``recipe``. Raises ConfigError, with the nearest key, if there is no such path."""
    spot = Location("", recipe, None, None)
    for key in split(path) if path else ():
        value, where = spot.value, spot.path or "config"
        number = int(key) if str(key).isdecimal() else None
        at = number if number is not None and isinstance(value, list | tuple) else key
        below = join((*(split(spot.path) if spot.path else ()), at))
        if isinstance(value, Recipe):
            known = schema(value.cls).options
            if key not in known:
                near = did_you_mean(str(key), known)
                raise ConfigError(f"{where}: {value.cls.__name__} has no option '{key}'.{near}\n{usage(value.cls)}")
            spot = Location(below, _unwrapped(value.kwargs[str(key)]), known[str(key)], value.cls)
        elif isinstance(value, list | tuple) and number is not None and number < len(value):
            spot = Location(below, _unwrapped(value[number]), None, spot.owner)
        elif isinstance(value, Mapping) and key in value:
            spot = Location(below, _unwrapped(value[key]), None, spot.owner)
        else:
            raise ConfigError(f"{where}: nothing stands below it at '{key}'; it is {flow(plain(value))}")
    return spot


def roles_in(want: Any) -> list[Registry[Any]]:
    """The registries whose classes may stand where the annotation ``want`` does."""
    found = [registry_for(want)] + [registry for arm in get_args(want) for registry in roles_in(arm)]
    return [registry for registry in found if registry is not None]


def find_classes(name: str, root: type) -> list[type]:
    """The classes called ``name``: registered ones, and groups in the signatures from ``root`` and from them.

    Raises ConfigError, with the nearest name, if there is none.
    """
    registered = {registry.get(entry) for registry in Registry.of.values() for entry in registry.names()}
    known: dict[str, set[type]] = {}
    for cls in registered | _groups(registered | {root}):
        known.setdefault(cls.__name__, set()).add(cls)
    if name not in known:
        hint = "give a class (see --list) or, with --config-file, a path such as model.neck"
        raise ConfigError(f"there is no class '{name}'.{did_you_mean(name, known)} {hint}")
    return sorted(known[name], key=place)


def explain(recipe: Recipe[Any], sources: Mapping[str, str], path: str) -> list[Provenance]:
    """Every value at and below ``path``, with its source. Raises ConfigError where there is no such path."""
    node = path[:-5] if path.endswith(".name") else None
    if node is None or not isinstance(find_location(recipe, node).value, Recipe):
        path = find_location(recipe, path).path
    below = (f"{path}.", f"{path}[") if path else ("",)
    origins = _origins(recipe, "", recipe.cls, sources)
    return [origin for origin in origins if origin.path == path or origin.path.startswith(below)]


def _origins(value: Any, path: str, blame: type, sources: Mapping[str, str]) -> Iterator[Provenance]:
    """``blame`` is the class whose default ``value`` is, if no file and no override set it."""

    def source(key: str) -> str:
        """Where the value of a key comes from, in words."""
        return sources.get(key) or f"default of {blame.__name__} ({place(blame)})"

    value = _unwrapped(value)
    if isinstance(value, Recipe):
        if not is_nested(value.cls):
            key = f"{path}.name" if path else "name"
            yield Provenance(key, value.cls.__name__, source(key))
        for name, option in schema(value.cls).options.items():
            item, below = value.kwargs[name], f"{path}.{name}" if path else name
            usual = option.default is not MISSING and plain(option.default) == plain(item)
            own = below in sources or (usual and (not path or path in sources))
            yield from _origins(item, below, value.cls if own else blame, sources)
    elif _has_parts(value):
        for i, item in enumerate(value):
            yield from _origins(item, f"{path}[{i}]", blame, sources)
    else:
        yield Provenance(path, flow(plain(value)), source(path))


def _has_parts(value: Any) -> bool:
    value = _unwrapped(value)
    parts = value if isinstance(value, list | tuple) else ()
    return isinstance(value, Recipe) or any(isinstance(_unwrapped(item), Recipe) for item in parts)


def _unwrapped(value: Any) -> Any:
    return value.recipe if isinstance(value, Eager) else value


def _groups(classes: set[type]) -> set[type]:
    """The groups in the signatures of ``classes``, and in theirs."""
    found: set[type] = set()
    waiting: list[Any] = [option.want for cls in classes for option in schema(cls).options.values()]
    while waiting:
        want = waiting.pop()
        waiting += get_args(want)
        if is_nested(want) and want not in found:
            found.add(want)
            waiting += [option.want for option in schema(want).options.values()]
    return found
