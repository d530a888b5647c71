"""YAML files -> one plain, resolved tree: ``_base_``, overrides, ``imports``, interpolation."""

import dataclasses
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from detkit.config.carry import sort_options
from detkit.config.interpolate import resolve
from detkit.config.merge import Override, Renamed, apply_override, find, locate, merge, read_override
from detkit.config.migrate import Migration
from detkit.config.near_file import nearest_file
from detkit.config.user_file import import_user_code
from detkit.config.yaml_file import SUFFIXES, Entry, display, read_yaml, wrap
from detkit.registry import ConfigError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config:
    """A config as the user wrote it: files, bases and overrides in one.

    Args:
        tree: plain data (dicts, lists, scalars), interpolations resolved, without ``_base_`` and ``imports``.
        imports: the user code that was loaded: absolute file paths and module names.
        path: the file that was read; None for a tree that came from elsewhere.
        sources: dotted key -> where it was written (``file:line`` or ``override 'key=value'``).
    """

    tree: dict[str, Any]
    imports: list[str]
    path: Path | None
    sources: dict[str, str]


def load_config(
    path: str | os.PathLike[str] | Mapping[str, Any], overrides: Iterable[str] = (), root: Any = None
) -> Config:
    """Reads ``path`` over its ``_base_`` files, lays ``overrides`` over it and imports what it lists.

    Args:
        path: a YAML file; or a tree that was read before (the config in a checkpoint).
        overrides: ``key.path=value`` texts; values are YAML. One that changes only the ``name`` of a node keeps the
            old node's options that the new class has too.
        root: the class of the config's root. With it, each file and override is migrated before it is merged, with a
            warning for each option and class that has another name today.

    Raises ConfigError with the file, or the key path, and what to do about it.
    """
    if isinstance(path, Mapping):
        tree = wrap(dict(path), "the given tree")
        layers, file = _Layers(_without(tree, "imports", "_base_"), [], _own_imports(tree, None)), None
    else:
        file = Path(path).expanduser()
        layers = _read(file, ())
    parsed = [read_override(text) for text in overrides]
    imports = layers.all_imports()
    for override in parsed:
        if override.keys == ("imports",):
            imports += _own_imports(Entry({"imports": override.value}, override.value.source), Path.cwd())
    imports = list({entry.value: entry for entry in imports}.values())
    for entry in imports:
        import_user_code(entry.value, entry.source)
    migration = Migration(Any if root is None else root)
    tree = layers.merged(migration)
    tree, renamed = _lay_over(tree, [o for o in parsed if o.keys[0] != "imports"], migration)
    tree, plain = _fit_renamed(tree, renamed)
    for note in migration.notes:
        logger.warning("%s", note)
    return Config(plain, [entry.value for entry in imports], file, dict(tree.walk()))


@dataclasses.dataclass(frozen=True)
class _Layers:
    """A file's own tree, the files that it lies over, and the user code that it lists."""

    own: Entry
    bases: "list[_Layers]"
    imports: list[Entry]

    def all_imports(self) -> list[Entry]:
        """The imports of the bases, then the file's own."""
        return [entry for base in self.bases for entry in base.all_imports()] + self.imports

    def merged(self, migration: Migration) -> Entry:
        """The file over its bases, each migrated before it is merged."""
        tree = Entry({}, self.own.source)
        for base in self.bases:
            whole = base.merged(migration)
            tree = merge(tree, migration.layer(whole, tree))
        return merge(tree, migration.layer(self.own, tree))


def _lay_over(tree: Entry, overrides: list[Override], migration: Migration) -> tuple[Entry, list[Renamed]]:
    """The overrides over ``tree``, and the nodes whose name they changed."""
    renamed: list[Renamed] = []
    written: dict[tuple[str | int, ...], Override] = {}
    for old in overrides:
        override = migration.override(old, tree)
        other = written.setdefault(override.keys, old)
        if other.keys != old.keys:
            raise ConfigError(
                f"overrides '{other.text}' and '{old.text}' set the same option, which is "
                f"'{override.path}' now. Keep one"
            )
        tree, change = apply_override(tree, override)
        renamed += [change] if change else []
    return tree, renamed


def _read(path: Path, above: tuple[Path, ...]) -> _Layers:
    """The file ``path`` and its bases, unmerged."""
    own = read_yaml(path)
    above = (*above, path.resolve())
    bases = []
    for base in _bases(own):
        file = path.parent / Path(base.value).expanduser()
        if not file.is_file():
            near = nearest_file(file, *SUFFIXES)
            meant = "" if near is None else f" Did you mean '{os.path.relpath(near, path.parent)}'?"
            if near is not None and near.resolve() in above:
                meant = ""  # no file is its own base
            raise ConfigError(
                f"{base.source}: _base_ '{base.value}' does not exist (it would be {display(file)}).{meant}"
            )
        if file.resolve() in above:
            chain = " -> ".join(display(p) for p in (*above[above.index(file.resolve()) :], file))
            raise ConfigError(f"{base.source}: _base_ goes round in a circle: {chain}")
        bases.append(_read(file, above))
    return _Layers(_without(own, "imports", "_base_"), bases, _own_imports(own, path.parent))


def _bases(tree: Entry) -> list[Entry]:
    entry = tree.value.get("_base_")
    if entry is None or entry.value is None:
        return []
    bases = entry.value if isinstance(entry.value, list) else [entry]
    for base in bases:
        if not isinstance(base.value, str):
            raise ConfigError(f"{base.source}: _base_: expected a path or a list of paths, got {base.plain()!r}")
    return bases


def _own_imports(tree: Entry, folder: Path | None) -> list[Entry]:
    """What ``tree`` itself lists under ``imports``; files as absolute paths (relative ones lie in ``folder``)."""
    entry = tree.value.get("imports")
    if entry is None or entry.value is None:
        return []
    items = entry.value if isinstance(entry.value, list) else [entry]
    found = []
    for item in items:
        if not isinstance(item.value, str) or not item.value:
            hint = "expected a list of files (my_head.py) and module names"
            raise ConfigError(f"{item.source}: imports: {hint}, got {item.plain()!r}")
        name = item.value
        if name.endswith(".py"):
            name = str(((folder or Path()) / Path(name).expanduser()).resolve())
        found.append(dataclasses.replace(item, value=name))
    return found


def _without(tree: Entry, *keys: str) -> Entry:
    return dataclasses.replace(tree, value={k: v for k, v in tree.value.items() if k not in keys})


def _fit_renamed(tree: Entry, renamed: list[Renamed]) -> tuple[Entry, dict[str, Any]]:
    """The tree, and its resolved plain form, without the options that a renamed node's new class has no use for."""
    plain = resolve(tree)
    for change in renamed:
        node = find(tree, change.keys)
        if node is None or not isinstance(node.value, dict):
            continue  # a later override removed the node
        explicit = {key for key, entry in node.value.items() if _from_override(entry)}
        resolved: Any = plain
        for key in change.keys:
            resolved = resolved[locate(resolved, key)]
        dropped, kept = sort_options(resolved, change.old, explicit)
        note = f" (kept by override '{change.override}')"
        tree = _fit(tree, change.keys, dropped, dict.fromkeys(kept, note))
        plain = resolve(tree)
        logger.info("override '%s': kept %s, dropped %s", change.override, kept or "nothing", dropped or "nothing")
    return tree, plain


def _from_override(entry: Entry) -> bool:
    return any(source.startswith("override '") for _, source in entry.walk("x"))


def _fit(tree: Entry, keys: tuple[str | int, ...], dropped: list[str], notes: dict[str, str]) -> Entry:
    if not keys:
        kept = {key: entry for key, entry in tree.value.items() if key not in dropped}
        noted = {k: dataclasses.replace(e, source=e.source + notes.get(k, "")) for k, e in kept.items()}
        return dataclasses.replace(tree, value=noted)
    at = locate(tree.value, keys[0])
    copy = list(tree.value) if isinstance(tree.value, list) else dict(tree.value)
    copy[at] = _fit(copy[at], keys[1:], dropped, notes)
    return dataclasses.replace(tree, value=copy)
