"""YAML text -> a tree that remembers where each value was written. Nothing in it is ever evaluated."""

import contextlib
import dataclasses
import difflib
import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from detkit.registry import ConfigError, nearest

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SUFFIXES = (".yaml", ".yml")
"""How the names of configs end."""
_MOST_FOLDERS = 300
"""So many are looked into: below a mistyped path there may lie a data set."""
MOST_BYTES, MOST_VALUES, MOST_LEVELS, MOST_FILES = 2 * 2**20, 200_000, 50, 300
"""What one config may hold; far more than anybody writes, and far less than aliases or bases can multiply to."""
_PREFIX = "tag:yaml.org,2002:"
_SCALARS: dict[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    "null": (re.compile(r"~|null|Null|NULL|"), lambda text: None),
    "bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), lambda text: text.lower() == "true"),
    "int": (re.compile(r"[-+]?[0-9]{1,40}|0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}"), lambda text: _int(text)),
    "float": (
        re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
        lambda text: float(re.sub(r"\.(?=[inIN])", "", text)),
    ),
    "str": (re.compile(r"(?s:.*)"), str),
}
"""Tag -> its texts and what they are: the core schema of YAML 1.2, in which ``012`` is 12 and ``yes`` is a text."""


def _int(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


class _Loader(_Base):  # type: ignore[misc]
    """Leaves what an unquoted scalar is to ``read_scalar``."""


_PLAIN = "unquoted"
_Loader.yaml_implicit_resolvers = {None: [(_PLAIN, re.compile(""))]}


def read_scalar(text: str) -> Any:
    """What ``text`` is where it stands in YAML without quotes."""
    return next(make(text) for pattern, make in _SCALARS.values() if pattern.fullmatch(text))


_Loader.add_constructor(_PLAIN, lambda loader, node: read_scalar(str(node.value)))


def read_core_yaml(text: str) -> Any:
    """What a YAML document holds that is no config. Raises yaml.YAMLError, ValueError or RecursionError for none."""
    return yaml.load(text, _Loader)  # a safe loader


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


class Size:
    """Counts what a config holds, over all its files."""

    def __init__(self) -> None:
        self.values = self.files = self.bytes = 0

    def add(self, source: str, level: int) -> None:
        """One more value, inside so many others. Raises ConfigError where it is one too many."""
        self.values += 1
        if self.values > MOST_VALUES:
            raise ConfigError(f"{source or 'config'}: more than {MOST_VALUES} values, with all that aliases repeat")
        if level > MOST_LEVELS:
            raise ConfigError(f"{source or 'config'}: lists and mappings stand in one another over {MOST_LEVELS} deep")


def wrap(value: Any, source: str, size: Size | None = None, level: int = 0) -> Entry:
    """Plain data as a tree in which everything has one source. Raises ConfigError where ``size`` is too much."""
    size = size or Size()
    size.add(source, level)
    if isinstance(value, dict):
        if odd := next((key for key in value if not _is_word(key)), None):
            raise ConfigError(f"{source or 'config'}: a key must be a word, got {_shorten(odd)}")
        return Entry({key: wrap(item, source, size, level + 1) for key, item in value.items()}, source)
    if isinstance(value, list | tuple):
        return Entry([wrap(item, source, size, level + 1) for item in value], source)
    return Entry(value, source)


def display(path: Path) -> str:
    """``path`` as messages show it: relative where it lies below the working directory."""
    full = os.path.abspath(path)
    short = os.path.relpath(full) if os.path.splitdrive(full)[0] == os.path.splitdrive(os.getcwd())[0] else full
    return full if short.startswith("..") else short


def read_yaml(path: Path, size: Size | None = None) -> Entry:
    """The mapping in the file ``path``; an empty file is an empty mapping.

    Raises ConfigError, with file and line, where the file cannot be read, is not YAML, is not a mapping, gives a key
    twice, or holds more than ``size`` allows.
    """
    name, size = display(path), size or Size()
    size.files += 1
    if size.files > MOST_FILES:
        raise ConfigError(f"{name}: _base_ leads to more than {MOST_FILES} files, those that are named again counted")
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: the file cannot be read as text: {error}; save it as UTF-8") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name}: the file cannot be read as text: {error}") from None
    size.bytes += len(content)
    if size.bytes > MOST_BYTES:
        raise ConfigError(f"{name}: with its bases larger than {MOST_BYTES // 2**20} MiB, which is hardly a config")
    tree = parse_yaml(text, name, size=size)
    if tree.value is None:
        return Entry({}, tree.source)
    if not isinstance(tree.value, dict):
        raise ConfigError(f"{name}: expected a mapping (key: value lines), got {_shorten(tree.plain())}")
    return tree


def parse_yaml(text: str, name: str, lines: bool = True, size: Size | None = None) -> Entry:
    """The YAML document ``text``. ``name`` and, with ``lines``, a line number make the sources.

    Without ``lines`` it is a single value, whose end no ``#`` cuts off.
    """
    loader = None
    try:
        if len(text) > MOST_VALUES:  # what would fill the memory is seen before it does
            events = yaml.parse(text, Loader=_Loader)
            if next(itertools.islice(events, 2 * MOST_VALUES, None), None) is not None:
                raise ConfigError(f"{name}: more than {MOST_VALUES} values, which is hardly a config")
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Entry(None if lines else text.strip() or None, name)
        if not lines and (comment := _comment(text)):
            if node.tag != _PLAIN:
                raise ConfigError(f"{name}: '{comment}' would be cut off as a comment; put the text in quotes")
            return Entry(text.strip(), name)
        return _entry(node, name, lines, size or Size(), ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark is not None and lines else name
        problem = getattr(error, "problem", None) or str(error)
        line = text.splitlines()[mark.line] if mark is not None and mark.line < len(text.splitlines()) else ""
        hint = "; indent with spaces, there is a tab" if "\t" in line else ""
        raise ConfigError(f"{where}: not YAML: {problem}{hint}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _comment(text: str) -> str:
    """What YAML would take for a comment in ``text``; empty where there is none."""
    tokens = yaml.scan(text, Loader=_Loader) if "#" in text else ()
    spans = [(t.start_mark.index, t.end_mark.index) for t in tokens if isinstance(t, yaml.ScalarToken)]
    starts = [match.start(1) for match in re.finditer(r"(?:^|\s)(#)", text)]
    return next((text[i:].strip() for i in starts if not any(first <= i < last for first, last in spans)), "")


def _entry(node: Any, name: str, lines: bool, size: Size, above: tuple[int, ...]) -> Entry:
    source = f"{name}:{node.start_mark.line + 1}" if lines else name
    if id(node) in above:
        raise ConfigError(f"{source}: an alias stands inside its own anchor")
    size.add(source, len(above))
    above = (*above, id(node))
    if isinstance(node, yaml.ScalarNode):
        return Entry(_scalar(node, source), source)
    if node.tag not in (_PREFIX + "map", _PREFIX + "seq"):
        raise ConfigError(f"{source}: the tag '{node.tag}' is not supported; write a plain mapping or list")
    if isinstance(node, yaml.SequenceNode):
        return Entry([_entry(child, name, lines, size, above) for child in node.value], source)
    mapping: dict[Any, Entry] = {}
    for key_node, value_node in node.value:
        key_entry = _entry(key_node, name, lines, size, above)
        key, value = key_entry.value, _entry(value_node, name, lines, size, above)
        if not _is_word(key):
            hint = f"; put {key_node.value} in quotes" if isinstance(key, bool) else ""
            raise ConfigError(f"{key_entry.source}: a key must be a word, got {_shorten(key_entry.plain())}{hint}")
        if key in mapping:
            raise ConfigError(f"{key_entry.source}: the key '{key}' stands here twice; first at {mapping[key].source}")
        if value_node.tag == _PLAIN and not value_node.value:
            raise ConfigError(f"{key_entry.source}: '{key}' has no value; write null to remove it, or take the key out")
        mapping[key] = dataclasses.replace(value, source=key_entry.source)
    return Entry(mapping, source)


def _scalar(node: Any, source: str) -> Any:
    if node.tag == _PLAIN and node.value == "<<":
        raise ConfigError(f"{source}: '<<' is not part of this project's YAML; use _base_, or write the keys out")
    if node.tag == _PLAIN:
        return read_scalar(node.value)
    kind = node.tag.removeprefix(_PREFIX)
    if kind not in _SCALARS:
        raise ConfigError(f"{source}: the tag '{node.tag}' is not supported; write the value without it")
    pattern, make = _SCALARS[kind]
    if not pattern.fullmatch(node.value):
        raise ConfigError(f"{source}: not a YAML value: {_shorten(node.value)} is no {kind}")
    return make(node.value)


def _is_word(key: Any) -> bool:
    return len(key) <= 200 if isinstance(key, str) else type(key) is int


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
