"""YAML files -> one plain, resolved tree: ``_base_``, overrides, ``imports``, interpolation."""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from detkit.config.interpolation import resolve
from detkit.config.merge import Override, changed, find, locate, merge, read_override
from detkit.config.migrate import Migration
from detkit.config.named import find_config, nearest_config
from detkit.config.parse import fits
from detkit.config.schema import schema
from detkit.config.user_file import CODE, import_user_code
from detkit.config.yaml_file import Entry, Size, display, read_yaml, wrap
from detkit.paths import user_path
from detkit.registry import ConfigError, Registry

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config:
    """A config as the user wrote it: files, bases and overrides in one.

    Args:
        tree: plain data (dicts, lists, scalars), interpolations resolved, without ``_base_`` and ``imports``.
        imports: the user code that it lists: absolute file paths and module names.
        path: the file that was read; None for a tree that came from elsewhere.
        sources: dotted key -> where it was written (``file:line`` or ``override 'key=value'``).
        outside: dotted key -> its text, where that reads the environment: what a run writes down in place of the value.
    """

    tree: dict[str, Any]
    imports: list[str]
    path: Path | None
    sources: dict[str, str]
    outside: dict[str, str] = dataclasses.field(default_factory=dict)


def load_config(
    path: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Iterable[str] = (),
    root: Any = None,
    imports: Literal["run", "refuse", "skip"] | None = None,
) -> Config:
    """Reads ``path`` over its ``_base_`` files, lays ``overrides`` over it and imports what it lists.

    Args:
        path: a YAML file, the name of one of detkit's, or a run's folder; or a tree that was read before (the config in
            a checkpoint).
        overrides: ``key.path=value`` texts; values are YAML. One that changes only the ``name`` of a node keeps the
            old node's options that the new class has too.
        root: the class of the config's root. With it, each file and override is migrated before it is merged, with a
            warning for each option and class that has another name today.
        imports: whether the code that the config lists is run: ``run``; ``refuse`` for an error instead, but not for
            what an override lists; ``skip`` for a look that runs nothing. None is ``refuse`` for a ``ForeignConfig``,
            else ``run``.

    Raises ConfigError with the file, or the key path, and what to do about it.
    """
    reader = _Reader(Migration(Any if root is None else root))
    file = None if isinstance(path, Mapping) else _config_file(path)
    merged, listed = reader.read(file, ()) if file is not None else reader.read_tree(path)
    parsed = [read_override(text) for text in overrides]
    given = [o for o in parsed if o.keys == ("imports",)]
    own = [i for o in given for i in _imports(Entry({"imports": o.value}, o.value.source), Path.cwd())]
    listed = list({item.name: item for item in [*listed, *own]}.values())
    imports = imports or ("refuse" if isinstance(path, ForeignConfig) else "run")
    if imports != "skip":
        _run_imports(listed, trusted=listed if imports == "run" else own)
    tree = _laid_over(merged(), [o for o in parsed if o.keys[0] != "imports"], reader.migration)
    reader.migration.warn()
    plain, outside = resolve(tree)
    return Config(plain, [item.name for item in listed], file, dict(tree.walk()), outside)


def _config_file(path: str | os.PathLike[str]) -> Path:
    """The file of a config, which ``path`` may name without its folder or its ending."""
    asked = _file(os.fspath(path), "the config")
    file = find_config(asked)
    if file.is_dir():
        raise ConfigError(
            f"{display(file)}: is a folder without a run's config.yaml; a folder of data is given by --data FOLDER"
            " (in Python data=...)"
        )
    if not file.exists():
        raise ConfigError(f"{display(file)}: there is no such file{_meant(nearest_config(asked))}")
    return file


class ForeignConfig(dict[str, Any]):
    """The config out of a file of weights, which may be anybody's.

    Args:
        config: plain data.
        folder: where the file lies: relative paths in ``imports`` start there.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path):
        super().__init__(config)
        self.folder = folder


class _Import(NamedTuple):
    name: str  # an absolute path, or a module
    source: str
    folder: Path  # of the file that lists it


def _run_imports(listed: list[_Import], trusted: list[_Import]) -> None:
    """Imports the user code, in order. Raises ConfigError for what is not trusted."""
    for item in listed:
        if item not in trusted:
            raise ConfigError(
                f"{item.source}: imports: '{item.name}' is code, which would run. If you trust who wrote it, say so: "
                "--trust-imports (in Python trust_imports=True)"
            )
        import_user_code(item.name, item.source, [other.name for other in listed], item.folder / CODE)


_Merged = Callable[[], Entry]
"""Makes a tree, once the user code is imported that its classes may come from."""


def _migrated(own: Entry, bases: list[_Merged], migration: Migration) -> Entry:
    """``own`` over its bases, each migrated before it is merged."""
    tree = Entry({}, own.source)
    for merged in [*bases, lambda: own]:
        tree = merge(tree, migration.layer(merged(), tree))
    return tree


class _Reader:
    """Reads files over their bases.

    Args:
        migration: what every file goes through.
    """

    def __init__(self, migration: Migration):
        self.migration, self.size = migration, Size()

    def read(self, path: Path, above: tuple[Path, ...]) -> tuple[_Merged, list[_Import]]:
        """The file ``path`` over its bases, and the imports of all of them, bases first."""
        return self.over_bases(read_yaml(path, self.size), path.parent, (*above, path.resolve()))

    def read_tree(self, tree: Any) -> tuple[_Merged, list[_Import]]:
        """A tree that was read before, likewise."""
        foreign = isinstance(tree, ForeignConfig)
        own = wrap(dict(tree), "the checkpoint's config" if foreign else "the tree", self.size)
        return self.over_bases(own, tree.folder if foreign else Path(), ())

    def over_bases(self, own: Entry, folder: Path, above: tuple[Path, ...]) -> tuple[_Merged, list[_Import]]:
        """``own``, whose paths are relative to ``folder``, likewise; ``above`` are the files that it is a base of."""
        bases: list[_Merged] = []
        imports: list[_Import] = []
        for base in _texts(own, "_base_", "a path or a list of paths"):
            given = _file(base.value, f"{base.source}: _base_")
            file = find_config(given, folder)
            if not file.is_file():
                near = nearest_config(given, folder, above)  # no file is its own base
                raise ConfigError(
                    f"{base.source}: _base_ '{base.value}' does not exist (it would be {display(file)}){_meant(near)}"
                )
            if file.resolve() in above:
                chain = " -> ".join(display(p) for p in (*above[above.index(file.resolve()) :], file))
                raise ConfigError(f"{base.source}: _base_ goes round in a circle: {chain}")
            merged, more = self.read(file, above)
            bases.append(merged)
            imports += more
        imports += _imports(own, folder)
        return partial(_migrated, _without(own, "imports", "_base_"), bases, self.migration), imports


def _meant(near: str | None) -> str:
    return "; detkit show --configs lists those of detkit" if near is None else f". Did you mean '{near}'?"


def _file(text: str, what: str) -> Path:
    try:
        return user_path(text)
    except ValueError as error:
        raise ConfigError(f"{what}: {error}") from None


def _laid_over(tree: Entry, overrides: list[Override], migration: Migration) -> Entry:
    """``tree`` with the overrides laid over it, each migrated before."""
    written: dict[tuple[str | int, ...], Override] = {}
    for given in overrides:
        override = migration.override(given, tree)
        if override is None:
            continue
        other = written.setdefault(override.keys, given)
        if other.keys != given.keys:
            raise ConfigError(
                f"{override.path}: overrides '{other.text}' and '{given.text}' both set this; keep one (an option has "
                "another name today)"
            )
        old = find(tree, override.keys)
        tree = changed(tree, override, partial(merge, over=override.value), len(override.keys))
        if override.keys[-1] == "name" and old is not None and old.value not in (None, override.value.value):
            tree = _without_misfits(tree, override, str(old.value))
    return tree


def _without_misfits(tree: Entry, override: Override, old_name: str) -> Entry:
    """``tree`` without the options of a node, which had the class ``old_name``, that its new class has no use for.

    An option stays if the new class has one of that name and, where the two classes declare it differently, the value
    fits the new declaration; and if an override set it.
    """
    name = override.value.value
    registries = [registry for registry in Registry.of.values() if isinstance(name, str) and name in registry]
    if not registries:
        return tree  # an unknown name is an error of its own
    registry = next((registry for registry in registries if old_name in registry), registries[0])
    new = schema(registry.get(name)).options
    old = schema(registry.get(old_name)).options if old_name in registry else {}
    node: Any = resolve(tree)[0]
    for key in override.keys[:-1]:
        node = node[locate(node, key)]

    def change(entry: Entry) -> Entry:
        """The node without them; what is kept says so in its source."""
        kept, dropped = {}, []
        for key, option in entry.value.items():
            if key == "name" or any(source.startswith("override '") for _, source in option.walk("x")):
                kept[key] = option
            elif key in new and ((key in old and old[key].want == new[key].want) or fits(node[key], new[key].want)):
                note = f" (kept by override '{override.text}')"
                kept[key] = dataclasses.replace(option, source=option.source + note)
            else:
                dropped.append(key)
        logger.info("override '%s': dropped %s", override.text, dropped or "nothing")
        return dataclasses.replace(entry, value=kept)

    return changed(tree, override, change, len(override.keys) - 1)


def _imports(tree: Entry, folder: Path) -> list[_Import]:
    """What ``tree`` itself lists under ``imports``; files as absolute paths (relative ones lie in ``folder``)."""
    found = []
    for entry in _texts(tree, "imports", "a list of files (my_head.py) and module names"):
        file = _file(entry.value, f"{entry.source}: imports") if entry.value.endswith(".py") else None
        found.append(_Import(str((folder / file).resolve()) if file else entry.value, entry.source, folder))
    return found


def _texts(tree: Entry, key: str, expected: str) -> list[Entry]:
    """What stands at ``key``: a text, or a list of texts."""
    entry = tree.value.get(key)
    if entry is None or entry.value is None:
        return []
    entries = entry.value if isinstance(entry.value, list) else [entry]
    for item in entries:
        if not isinstance(item.value, str) or not item.value:
            raise ConfigError(f"{item.source}: {key}: expected {expected}, got {item.plain()!r}")
    return entries


def _without(tree: Entry, *keys: str) -> Entry:
    return dataclasses.replace(tree, value={k: v for k, v in tree.value.items() if k not in keys})
