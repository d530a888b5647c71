"""Questions about a config: what stands at a path, what may stand there, and who put it there."""

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from detkit.config.describe import usage
from detkit.config.merge import join, locate, split
from detkit.config.recipe import Eager, Recipe
from detkit.config.schema import MISSING, Option, is_nested, leaves, place, registry_for, schema
from detkit.config.write import flow, plain
from detkit.registry import ConfigError, Registry, did_you_mean, nearest


@dataclasses.dataclass(frozen=True)
class Location:
    """What stands at a path of a recipe.

    Args:
        path: the path.
        value: the value; a Recipe where a node or nested options stand.
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
    location, keys = Location("", recipe, None, None), tuple[Any, ...]()
    for key in split(path) if path else ():
        value, where, owner, option = location.value, location.path or "config", location.owner, None
        children = value.kwargs if isinstance(value, Recipe) else list(value) if isinstance(value, tuple) else value
        at = locate(children, key)
        if isinstance(value, Recipe):
            owner, known = value.cls, schema(value.cls).options
            if at is None:
                near = did_you_mean(str(key), known)
                raise ConfigError(f"{where}: {owner.__name__} has no option '{key}'.{near}\n{usage(owner)}")
            option = known[at]
        elif at is None:
            raise ConfigError(f"{where}: nothing stands below it at '{key}'; it is {flow(plain(value))}")
        keys = (*keys, at)
        location = Location(join(keys), _unwrapped(children[at]), option, owner)
    return location


def meant_option(root: Recipe[Any], path: str, node: str, key: str, known: Iterable[str]) -> str:
    """A sentence that suggests what ``key`` of the node at ``node``, whose options are ``known``, was meant to be.

    It is the nearest of ``known``, or an option of that very name elsewhere below ``root``, which stands at ``path``.
    """
    near = nearest(key, known) or ""
    alike = difflib.SequenceMatcher(None, key.lower(), near.lower()).ratio()
    found = [path for path in _option_paths(root, path) if path.rpartition(".")[2] == key]
    if not found and not near and (cls := next((c for c in _classes(root) if key in schema(c).runtime), None)):
        return f" It is passed to {cls.__name__} by its owner, so no config says it; remove it."
    if alike >= 0.8 or not found:
        return f" Did you mean '{near}'?" if near else ""
    found.sort(key=lambda path: (-sum(map(str.__eq__, path.split("."), node.split("."))), path.count(".")))
    return f" Did you mean {' or '.join(repr(path) for path in found[:3])}?"


def _classes(value: Any) -> Iterator[type]:
    value = _unwrapped(value)
    if isinstance(value, Recipe):
        yield value.cls
        for item in value.kwargs.values():
            yield from _classes(item)


def _option_paths(value: Any, path: str) -> Iterator[str]:
    value = _unwrapped(value)
    if isinstance(value, Recipe):
        for name in schema(value.cls).options:
            below = f"{path}.{name}" if path else name
            yield below
            yield from _option_paths(value.kwargs.get(name), below)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _option_paths(item, f"{path}[{i}]")


def roles_in(want: Any) -> list[Registry[Any]]:
    """The registries whose classes may stand where the annotation ``want`` does."""
    return [registry for registry in map(registry_for, leaves(want)) if registry is not None]


def find_classes(name: str, root: type) -> list[type]:
    """The classes called ``name``: registered ones, and nested options in the signatures from ``root`` and from them.

    Raises ConfigError, with the nearest name, if there is none.
    """
    classes = [root, *(cls for registry in Registry.of.values() for _, cls in registry)]
    for cls in classes:  # the list grows while it is walked
        wants = [leaf for option in schema(cls).options.values() for leaf in leaves(option.want)]
        classes += [want for want in wants if is_nested(want) and want not in classes]
    found = {cls for cls in classes if cls.__name__ == name}
    if not found:
        hint = "give a class (see --list) or, with --config-file, a path such as model.neck"
        raise ConfigError(f"there is no class '{name}'.{did_you_mean(name, (c.__name__ for c in classes))} {hint}")
    return sorted(found, key=place)


def part_names(node: Any) -> set[str]:
    """The names of all nodes in a complete config, however deep: the parts that it is made of."""
    if isinstance(node, Mapping):
        own = {node["name"]} if isinstance(node.get("name"), str) else set()
        return own.union(*map(part_names, node.values()))
    return set().union(*map(part_names, node)) if isinstance(node, list) else set()


def explain(recipe: Recipe[Any], sources: Mapping[str, str], path: str) -> list[Provenance]:
    """Every value at and below ``path``, with its source. Raises ConfigError where there is no such path."""
    node = path[:-5] if path.endswith(".name") else None
    if node is None or not isinstance(find_location(recipe, node).value, Recipe):
        path = find_location(recipe, path).path
    below = (f"{path}.", f"{path}[") if path else ("",)
    values = _provenances(recipe, "", recipe.cls, sources)
    return [value for value in values if value.path == path or value.path.startswith(below)]


def _provenances(value: Any, path: str, owner: type, sources: Mapping[str, str]) -> Iterator[Provenance]:
    """``owner`` is the class whose default ``value`` is, if no file and no override set it."""
    value, default = _unwrapped(value), f"default of {owner.__name__} ({place(owner)})"
    if isinstance(value, Recipe):
        if not is_nested(value.cls):
            key = f"{path}.name" if path else "name"
            yield Provenance(key, value.cls.__name__, sources.get(key, default))
        for name, option in schema(value.cls).options.items():
            item, below = value.kwargs[name], f"{path}.{name}" if path else name
            usual = option.default is not MISSING and plain(option.default) == plain(item)
            own = below in sources or (usual and (not path or path in sources))
            yield from _provenances(item, below, value.cls if own else owner, sources)
    elif isinstance(value, list | tuple) and any(isinstance(_unwrapped(item), Recipe) for item in value):
        for i, item in enumerate(value):
            yield from _provenances(item, f"{path}[{i}]", owner, sources)
    else:
        yield Provenance(path, flow(plain(value)), sources.get(path, default))


def _unwrapped(value: Any) -> Any:
    return value.recipe if isinstance(value, Eager) else value
