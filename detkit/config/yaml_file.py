"""YAML text -> a tree that remembers where each value was written. Nothing in it is ever evaluated."""

import contextlib
import dataclasses
import difflib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from detkit.registry import ConfigError, nearest

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FLOAT = re.compile(
    r"^[-+]?(?:[0-9][0-9_]*)?\.?[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?$|^[-+]?[0-9][0-9_]*\.(?:[eE][-+]?[0-9]+)?$"
    r"|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
)
SUFFIXES = (".yaml", ".yml")
"""How the names of configs end."""
_MOST_FOLDERS = 300
"""So many are looked into: below a mistyped path there may lie a data set."""
_PREFIX = "tag:yaml.org,2002:"


class _Loader(_Base):  # type: ignore[misc]
    """YAML 1.1 as PyYAML reads it, but ``1e-4`` is a float and a date is a string."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag not in (_PREFIX + "timestamp", _PREFIX + "float")]
    for first, pairs in _Base.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_PREFIX + "float", _FLOAT, list("-+0123456789."))


@dataclasses.dataclass(frozen=True)
class Entry:
    """A value and where it was written.

    Args:
        value: a scalar, a list of entries, or a dict from keys to entries.
        source: ``file:line``, or the override's text.
    """

    value: Any
    source: str

    def plain(self) -> Any:
        """The value without its sources, in new containers."""
        if isinstance(self.value, dict):
            return {key: entry.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [entry.plain() for entry in self.value]
        return self.value

    def walk(self, path: str = "") -> Iterator[tuple[str, str]]:
        """``(dotted path, source)`` of everything below, containers too."""
        if path:
            yield path, self.source
        if isinstance(self.value, dict):
            for key, entry in self.value.items():
                yield from entry.walk(f"{path}.{key}" if path else str(key))
        elif isinstance(self.value, list):
            for i, entry in enumerate(self.value):
                yield from entry.walk(f"{path}[{i}]")


def wrap(value: Any, source: str) -> Entry:
    """Plain data as a tree in which everything has one source."""
    if isinstance(value, dict):
        return Entry({key: wrap(item, source) for key, item in value.items()}, source)
    if isinstance(value, list | tuple):
        return Entry([wrap(item, source) for item in value], source)
    return Entry(value, source)


def display(path: Path) -> str:
    """``path`` as messages show it: relative where it lies below the working directory."""
    full = os.path.abspath(path)
    short = os.path.relpath(full) if os.path.splitdrive(full)[0] == os.path.splitdrive(os.getcwd())[0] else full
    return full if short.startswith("..") else short


def read_yaml(path: Path) -> Entry:
    """The mapping in the file ``path``; an empty file is an empty mapping.

    Raises ConfigError, with file and line, where the file cannot be read, is not YAML, is not a mapping, or gives
    a key twice.
    """
    name = display(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        near = nearest_file(Path(path), *SUFFIXES)
        meant = "" if near is None else f". Did you mean '{display(near)}'?"
        raise ConfigError(f"{name}: there is no such file{meant}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: the file cannot be read as text: {error}") from None
    tree = parse_yaml(text, name)
    if tree.value is None:
        return Entry({}, tree.source)
    if not isinstance(tree.value, dict):
        raise ConfigError(f"{name}: expected a mapping (key: value lines), got {_shorten(tree.plain())}")
    return tree


def parse_yaml(text: str, name: str, lines: bool = True) -> Entry:
    """The YAML document ``text``. ``name`` and, with ``lines``, a line number make the sources."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Entry(None, name)
        return _entry(loader, node, name, lines, ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark is not None and lines else name
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{where}: not YAML: {problem}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _entry(loader: Any, node: Any, name: str, lines: bool, above: tuple[int, ...]) -> Entry:
    source = f"{name}:{node.start_mark.line + 1}" if lines else name
    if id(node) in above:
        raise ConfigError(f"{source}: an alias stands inside its own anchor")
    above = (*above, id(node))
    if isinstance(node, yaml.ScalarNode):
        if node.tag == _PREFIX + "merge":
            raise ConfigError(f"{source}: '<<' is not part of this project's YAML; use _base_, or write the keys out")
        try:
            return Entry(loader.construct_object(node), source)
        except ValueError as error:
            raise ConfigError(f"{source}: not a YAML value: {node.value!r} ({error})") from None
    if node.tag not in (_PREFIX + "map", _PREFIX + "seq"):
        raise ConfigError(f"{source}: the tag '{node.tag}' is not supported; write a plain mapping or list")
    if isinstance(node, yaml.SequenceNode):
        return Entry([_entry(loader, child, name, lines, above) for child in node.value], source)
    mapping: dict[Any, Entry] = {}
    for key_node, value_node in node.value:
        key_entry = _entry(loader, key_node, name, lines, above)
        key, value = key_entry.value, _entry(loader, value_node, name, lines, above)
        if not isinstance(key, str | int) or isinstance(key, bool):
            hint = f"; put {key_node.value} in quotes" if isinstance(key, bool) else ""
            raise ConfigError(f"{key_entry.source}: a key must be a word, got {_shorten(key_entry.plain())}{hint}")
        if key in mapping:
            raise ConfigError(f"{key_entry.source}: the key '{key}' stands here twice; first at {mapping[key].source}")
        mapping[key] = dataclasses.replace(value, source=key_entry.source)
    return Entry(mapping, source)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def nearest_file(path: Path, *suffixes: str) -> Path | None:
    """The file that ``path``, which does not exist, was most probably meant to name; None where nothing is near.

    It is looked for in the last folder of ``path`` that does exist and in the folders below it. A file of the same
    name wins over one whose path is alike. ``suffixes`` are how the names of such files end.
    """
    present = next((folder for folder in path.parents if folder.is_dir()), None)
    if present is None:
        return None
    folders, files = [str(present)], list[Path]()
    for folder in itertools.islice(folders, _MOST_FOLDERS):  # the list grows while it is walked: near folders first
        with contextlib.suppress(OSError):  # one that may not be read
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                if entry.name.endswith(suffixes) and entry.is_file():
                    files.append(Path(entry.path))
                elif not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
    known = {str(file.relative_to(present)): file for file in files}
    same = [name for name, file in known.items() if file.name == path.name]
    wanted = str(path.relative_to(present))
    near = difflib.get_close_matches(wanted, same, n=1, cutoff=0.0)[0] if same else nearest(wanted, known)
    return None if near is None else known[near]
