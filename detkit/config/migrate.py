"""Trees written for an earlier version, brought to the options and class names of today.

A class says what it renamed (see ``detkit.registry.Registry``). Every file, every override and the config of a
checkpoint is migrated by itself, before it is laid over others, so that what stands above still wins.
"""

import dataclasses
import logging
from typing import Any, get_args

from detkit.config.merge import Override, find, merge, split
from detkit.config.recipe import Recipe
from detkit.config.schema import MISSING, is_list, leaves, registry_for, schema
from detkit.config.write import plain
from detkit.config.yaml_file import Entry, wrap
from detkit.registry import ConfigError

logger = logging.getLogger(__name__)
_MARK = " (the override's own value)"


class Migration:
    """Migrates the layers of one config, and collects what there is to say of it.

    Args:
        root: the class of the root of the config.
    """

    def __init__(self, root: Any):
        self.root = root
        self.notes: dict[str, None] = {}
        """What was migrated: a line each, in order, none twice."""
        self._moved_to: set[str] = set()

    def warn(self) -> None:
        """Logs the notes."""
        for note in self.notes:
            logger.warning("%s", note)

    def layer(self, tree: Entry, below: Entry | None, path: str = "", default: Any = MISSING) -> Entry:
        """One file's ``tree``, which will be laid over the migrated ``below``. Raises ConfigError for a refusal."""
        return self._value(tree, self.root, default, below, path)

    def override(self, override: Override, tree: Entry) -> Override | None:
        """``override``, which will be laid over the migrated ``tree``, with its path and value of today.

        None: it says of an option that is gone only what is so anyway.
        """
        source = override.value.source
        nested = Entry(override.value.value, source + _MARK)
        for key in reversed(override.keys):
            nested = Entry({key: nested}, source)
        nested, keys = self.layer(nested, tree), []
        while not nested.source.endswith(_MARK):
            if not nested.value:
                return None
            key, nested = next(iter(nested.value.items()))
            keys.append(key)
        return dataclasses.replace(override, keys=tuple(keys), value=dataclasses.replace(nested, source=source))

    def _value(self, entry: Entry, want: Any, default: Any, below: Entry | None, path: str) -> Entry:
        """``entry``, written where the annotation is ``want``, as it is written today."""
        value = entry.value
        if isinstance(value, str) and str not in leaves(want) and _class_named(value, want) is not None:
            kept = below.value if below is not None and isinstance(below.value, dict) else {}
            kept = {k: v for k, v in kept.items() if _below(path, k) in self._moved_to}  # they stood beside the name
            value = {**kept, "name": entry}  # an override changes just the name, so options that fit are kept
            entry = Entry(value, entry.source.removesuffix(_MARK))
        if isinstance(value, list) and _takes_list(want):
            items = [self._value(item, want, MISSING, None, f"{path}[{i}]") for i, item in enumerate(value)]
            return Entry(items, entry.source)
        if not isinstance(value, dict):
            return entry
        cls = _class_of(value, want, default, below)
        if cls is None:
            children = {k: (v, want, MISSING) for k, v in value.items()}
        else:
            if below is not None and _name(below.value) not in (None, cls.__name__):
                below = None  # what lies there is replaced
            value, cls = self._renamed(value, cls, below, path)
            known = schema(cls).options
            children = {k: (v, known[k].want, known[k].default) for k, v in value.items() if k in known}
        migrated = {k: self._value(*child, find(below, (k,)), _below(path, k)) for k, child in children.items()}
        return Entry({k: migrated.get(k, v) for k, v in value.items()}, entry.source)

    def _renamed(
        self, node: dict[Any, Entry], cls: type, below: Entry | None, path: str
    ) -> tuple[dict[Any, Entry], type]:
        """The node with its own options and name of today, and its class."""
        if registry_for(cls) is not None and _name(node) not in (None, cls.__name__):
            self._note(node["name"].source, f"{path}.name={_name(node)}", f"{path}.name={cls.__name__}")
            node = {**node, "name": dataclasses.replace(node["name"], value=cls.__name__)}
        for key, to in schema(cls).renamed.items():
            old, where = find(Entry(node, ""), split(key)), _below(path, key)
            if old is None:
                continue
            rest = _without(node, split(key))
            if isinstance(to, str):
                node = rest if _no_part(cls, to, rest, below) else self._moved(rest, to, old, path, where)
                continue
            value = old.plain()
            if isinstance(value, dict):
                value = {**to.group, **value}
            if to.default is not MISSING and value == plain(to.default):
                node = rest  # a config that a run saved has every default
                continue
            becomes = next((name for known, name in to.becomes if value == plain(known)), to.subclass)
            if becomes is None or old.source.endswith(_MARK):
                fix = to.fix or f"it is an option of {becomes}; write name: {becomes}"
                at = f"  [{old.source.removesuffix(_MARK)}]" if old.source else ""
                raise ConfigError(f"{where}: {cls.__name__} has no option '{key}' any more: {fix}{at}")
            self._note(old.source, where, f"{path}.name={becomes}")
            node = rest if to.subclass is None else node
            whole = merge(below, Entry(node, "")).value if below is not None else node
            node = {**whole, "name": Entry(becomes, old.source)}
            return self._renamed(node, _class_named(becomes, cls) or cls, None, path)
        return node, cls

    def _moved(self, node: dict[Any, Entry], to: str, old: Entry, path: str, where: str) -> dict[Any, Entry]:
        """``node`` with ``old`` at the path ``to``."""
        self._note(old.source, where, _below(path, to))
        self._moved_to.add(_below(path, to))
        return _put(node, split(to), old, where, _below(path, to))

    def _note(self, source: str, old: str, new: str) -> None:
        place = f"{source.removesuffix(_MARK)}: " if source else ""
        self.notes[f"{place}'{old.lstrip('.')}' is '{new.lstrip('.')}' now"] = None


def migrate(node: Any, role: Any, path: str, default: Any) -> Any:
    """Plain data of ``role`` at ``path`` as it is written today."""
    migration = Migration(role)
    tree = migration.layer(wrap(node, ""), None, path, default)
    migration.warn()
    return tree.plain() if migration.notes else node


def _class_of(node: dict[Any, Entry], want: Any, default: Any, below: Entry | None) -> type | None:
    """The class of a mapping at the annotation ``want``; None for one that is no node, or whose name is missing."""
    if below is not None and isinstance(below.value, list):
        return None  # an override of one of its items
    name = _name(node) or (below and _name(below.value))
    if name is not None and any(map(registry_for, leaves(want))):
        return _class_named(name, want)
    if isinstance(default, Recipe):
        return default.cls
    return next((leaf for leaf in leaves(want) if isinstance(leaf, type) and _needs_no_name(leaf)), None)


def _no_part(cls: type, to: str, node: dict[Any, Entry], below: Entry | None) -> bool:
    """Whether the path ``to`` leads into a part of the node that is null, so that what stood there said nothing."""
    first, *rest = split(to)
    given = node.get(first) or find(below, (first,))
    option = schema(cls).options.get(str(first))
    return bool(rest) and (given.value is None if given is not None else option is not None and option.default is None)


def _takes_list(want: Any) -> bool:
    return is_list(want) or any(map(_takes_list, get_args(want)))


def _needs_no_name(cls: type) -> bool:
    """Whether a mapping at the annotation ``cls`` is always a node of this class."""
    registry = registry_for(cls)
    return cls.__module__ not in ("builtins", "typing") if registry is None else cls is not registry.base


def _class_named(name: Any, want: Any) -> type | None:
    """The class that ``name``, of today or of before, is among those of the annotation ``want``."""
    for registry in filter(None, map(registry_for, leaves(want))):
        name = name if name in registry else registry.renamed.get(name, name)
        if name in registry:
            return registry.get(name)
    return None


def _name(value: Any) -> str | None:
    """The name that a node gives, if ``value`` is one that does."""
    name = value.get("name") if isinstance(value, dict) else None
    return name.value if name is not None and isinstance(name.value, str) else None


def _without(node: dict[Any, Entry], keys: tuple[str | int, ...]) -> dict[Any, Entry]:
    (key, *rest), kept = keys, {k: v for k, v in node.items() if k != keys[0]}
    return {**kept, key: Entry(_without(node[key].value, tuple(rest)), node[key].source)} if rest else kept


def _below(path: str, key: str | int) -> str:
    return f"{path}.{key}" if path else str(key)


def _put(node: dict[Any, Entry], keys: tuple[str | int, ...], value: Entry, old: str, new: str) -> dict[Any, Entry]:
    """``node`` with ``value``, which stood at ``old``, at ``keys``; ``new`` is that path from the root."""
    (key, *rest), there = keys, node.get(keys[0])
    if rest and there is not None and isinstance(there.value, str) and "${" not in there.value:
        there = Entry({"name": there}, there.source)
    if there is not None and not (rest and isinstance(there.value, dict)):
        raise ConfigError(f"{old}: this is '{new}' now, which is given too; keep one  [{value.source}]")
    inner = {} if there is None else there.value
    source = value.source.removesuffix(_MARK)
    child = Entry(_put(inner, tuple(rest), value, old, new), source) if rest else value
    return {**node, key: child}
