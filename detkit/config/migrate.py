"""Trees written for an earlier version, brought to the options and class names of today.

A class says what it renamed (see ``renamed_options`` in ``detkit.registry``). Every file, every override and the
config of a checkpoint is migrated by itself, before it is laid over others, so that what stands above still wins.
"""

import types
from typing import Annotated, Any, Union, get_args, get_origin

from detkit.config.merge import Override, join, locate, merge, split
from detkit.config.recipe import Recipe
from detkit.config.schema import MISSING, is_dict, is_list, is_node, registry_for, schema
from detkit.config.write import plain
from detkit.config.yaml_file import Entry, wrap
from detkit.registry import ConfigError, Removed


class Migration:
    """Migrates the layers of one config, and collects what there is to say of it.

    Args:
        root: the class of the root of the config.
    """

    def __init__(self, root: Any):
        self.root = root
        self.notes: dict[str, None] = {}
        """What was migrated: a line each, in order, none twice."""

    def layer(self, tree: Entry, below: Entry | None, path: str = "", default: Any = MISSING) -> Entry:
        """One file's ``tree``, which will be laid over the migrated ``below``. Raises ConfigError for a refusal."""
        return self._value(tree, self.root, default, below, path)

    def override(self, override: Override, tree: Entry) -> Override:
        """``override``, which will be laid over the migrated ``tree``, with its path and value of today."""
        want, default = self.root, MISSING
        below: Entry | None = tree
        keys, depth = list(override.keys), 0
        while depth < len(keys):
            key, where = keys[depth], join(tuple(keys[:depth]))
            want, child = _arm(want, below), _child(below, key)
            if is_node(want):
                cls = _class_of(want, default, below)
                if key == "name":
                    value = self._class_name(override.value, want, where)
                    return Override(tuple(keys), value, override.text)
                if cls is None:
                    return override
                renamed = schema(cls).renamed.get(str(key))
                if isinstance(renamed, Removed):
                    raise ConfigError(f"{_below(where, key)}: {_refusal(cls, str(key), renamed)}")
                if renamed is not None:
                    keys[depth : depth + 1] = split(renamed)
                    self._note(f"override '{override.text}'", _below(where, key), _below(where, renamed))
                    continue
                option = schema(cls).options.get(str(key))
                want, default = (option.want, option.default) if option else (Any, MISSING)
            else:
                want, default = _item_want(want, key), MISSING
            below, depth = child, depth + 1
        value = self._value(override.value, want, default, below, join(tuple(keys)))
        return Override(tuple(keys), value, override.text)

    def _note(self, source: str, old: str, new: str) -> None:
        self.notes[f"{source}: '{old}' is '{new}' now" if source else f"'{old}' is '{new}' now"] = None

    def _value(self, entry: Entry, want: Any, default: Any, below: Entry | None, path: str) -> Entry:
        want = _arm(want, entry)
        if is_node(want):
            return self._node(entry, want, default, below, path)
        if is_list(want) and isinstance(entry.value, list):
            items = [self._item(e, want, i, None, f"{path}[{i}]") for i, e in enumerate(entry.value)]
            return Entry(items, entry.source)
        if is_dict(want) and isinstance(entry.value, dict):
            return Entry(
                {k: self._item(e, want, k, _child(below, k), _below(path, k)) for k, e in entry.value.items()},
                entry.source,
            )
        return entry

    def _item(self, entry: Entry, want: Any, key: str | int, below: Entry | None, path: str) -> Entry:
        return self._value(entry, _item_want(want, key), MISSING, below, path)

    def _node(self, entry: Entry, want: Any, default: Any, below: Entry | None, path: str) -> Entry:
        if isinstance(entry.value, str) and registry_for(_role(want)) is not None and "${" not in entry.value:
            entry = Entry({"name": entry}, entry.source)
        if not isinstance(entry.value, dict):
            return entry
        if "name" in entry.value:
            name = self._class_name(entry.value["name"], want, path)
            entry = Entry({**entry.value, "name": name}, entry.source)
        if None not in (_name(entry), _name(below)) and _name(entry) != _name(below):
            below = None
        cls = _class_of(want, default, entry, below)
        if cls is None:
            return entry
        for key in [key for key in entry.value if key in schema(cls).renamed]:
            entry = self._moved(entry, key, cls, below, path)
        return self._options(entry, _class_of(want, default, entry, below) or cls, below, path)

    def _options(self, entry: Entry, cls: type, below: Entry | None, path: str) -> Entry:
        known = schema(cls).options
        value = {
            key: self._value(e, known[key].want, known[key].default, _child(below, key), _below(path, key))
            if key in known
            else e
            for key, e in entry.value.items()
        }
        return Entry(value, entry.source)

    def _class_name(self, name: Entry, want: Any, path: str) -> Entry:
        registry = registry_for(_role(want))
        new = registry.renamed.get(name.value) if registry is not None and isinstance(name.value, str) else None
        if new is None:
            return name
        self._note(name.source, _below(path, f"name={name.value}"), _below(path, f"name={new}"))
        return Entry(new, name.source)

    def _moved(self, entry: Entry, key: str, cls: type, below: Entry | None, path: str) -> Entry:
        """``entry`` with its option ``key`` of before where it stands today."""
        old, to = entry.value[key], schema(cls).renamed[key]
        rest = Entry({k: e for k, e in entry.value.items() if k != key}, entry.source)
        where = _below(path, key)
        if isinstance(to, str):
            self._note(old.source, where, _below(path, to))
            return _put(rest, split(to), old, where, _below(path, to))
        if to.default is not MISSING and old.plain() == plain(to.default):
            return rest  # what a run saved has every default written out
        name = entry.value.get("name")
        if to.subclass is None or (name is not None and name.value not in (cls.__name__, to.subclass)):
            raise ConfigError(f"{where}: {_refusal(cls, key, to)}" + (f"  [{old.source}]" if old.source else ""))
        self._note(old.source, where, _below(path, f"name={to.subclass}"))
        whole = entry if below is None else merge(below, entry)
        return Entry({**whole.value, "name": Entry(to.subclass, old.source)}, entry.source)


def migrate(node: Any, role: Any, path: str, default: Any) -> tuple[Any, list[str]]:
    """Plain data of ``role`` at ``path`` as it is written today, and a line for each thing that changed."""
    migration = Migration(role)
    tree = migration.layer(wrap(node, ""), None, path, default)
    return (tree.plain() if migration.notes else node), list(migration.notes)


def _role(want: Any) -> Any:
    return get_args(want)[0] if get_origin(want) is Recipe else want


def _arm(want: Any, entry: Entry | None) -> Any:
    """The alternative of the annotation ``want`` that ``entry`` is written for; ``want`` itself where none is."""
    if get_origin(want) is Annotated:
        return _arm(get_args(want)[0], entry)
    if get_origin(want) not in (Union, types.UnionType):
        return want
    arms = [_arm(arm, entry) for arm in get_args(want)]
    value = None if entry is None else entry.value
    nodes = [arm for arm in arms if is_node(arm)]
    if isinstance(value, list):
        fitting = [arm for arm in arms if is_list(arm)]
    elif isinstance(value, str):
        fitting = [] if str in arms else [arm for arm in nodes if value in _names(arm)]
    else:
        name = _name(entry)
        fitting = [arm for arm in nodes if name in _names(arm)] or nodes or [arm for arm in arms if is_dict(arm)]
    return fitting[0] if fitting else want


def _names(want: Any) -> set[str]:
    registry = registry_for(_role(want))
    return set() if registry is None else {*registry.names(), *registry.renamed}


def _name(entry: Entry | None) -> str | None:
    """The ``name`` of the node ``entry``, if it is one that has a name."""
    name = _child(entry, "name")
    return name.value if name is not None and isinstance(name.value, str) else None


def _class_of(want: Any, default: Any, *layers: Entry | None) -> type | None:
    """The class of a node: the first name that a layer gives, or the default's; None where it has to be given."""
    registry = registry_for(_role(want))
    if registry is None:
        return _role(want)
    name = next((name for layer in layers if (name := _name(layer)) is not None), None)
    if name is not None:
        return registry.get(name) if name in registry else None
    if isinstance(default, Recipe):
        return default.cls
    return None if _role(want) is registry.base else _role(want)


def _child(entry: Entry | None, key: str | int) -> Entry | None:
    at = None if entry is None else locate(entry.value, key)
    return None if entry is None or at is None else entry.value[at]


def _item_want(want: Any, key: str | int) -> Any:
    """The annotation of an item of a list or a mapping."""
    args = get_args(want)
    if is_dict(want) and args:
        return args[1]
    if not is_list(want) or not args:
        return Any
    fixed = get_origin(want) is tuple and args[-1] is not Ellipsis
    return args[min(int(key), len(args) - 1)] if fixed and str(key).isdecimal() else args[0]


def _below(path: str, key: str | int) -> str:
    return f"{path}.{key}" if path else str(key)


def _put(entry: Entry, keys: tuple[str | int, ...], value: Entry, old: str, new: str) -> Entry:
    """``entry`` with ``value``, which stood at ``old``, at ``keys``; ``new`` is that path from the root."""
    (key, *rest), there = keys, _child(entry, keys[0])
    if rest and there is not None and isinstance(there.value, str) and "${" not in there.value:
        there = Entry({"name": there}, there.source)
    if there is not None and not (rest and isinstance(there.value, dict)):
        raise ConfigError(
            f"{old}: this is '{new}' now, which is given too ({there.source}). Keep one  [{value.source}]"
        )
    child = _put(there or Entry({}, value.source), tuple(rest), value, old, new) if rest else value
    return Entry({**entry.value, key: child}, entry.source)


def _refusal(cls: type, key: str, removed: Removed) -> str:
    fix = removed.fix or f"it is an option of {removed.subclass}; write name: {removed.subclass}"
    return f"{cls.__name__} has no option '{key}' any more: {fix}"
