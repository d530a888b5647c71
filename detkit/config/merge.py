"""The rules of merging: files over their bases, command-line overrides over files."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from detkit.config.yaml_file import MOST_LEVELS, Entry, parse_yaml
from detkit.registry import ConfigError

_KEY = re.compile(r"[^.\[\]\s]+(\[\d+\])*(\.[^.\[\]\s]+(\[\d+\])*)*")


def merge(base: Entry, over: Entry) -> Entry:
    """``over`` laid over ``base``: mappings merge, everything else replaces.

    A mapping that changes ``name`` replaces the base's mapping whole, because options belong to the component
    that they were written for.
    """
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    name, old = over.value.get("name"), base.value.get("name")
    if name is not None and old is not None and name.value != old.value:
        return over
    merged = dict(base.value)
    for key, entry in over.value.items():
        merged[key] = merge(merged[key], entry) if key in merged else entry
    return Entry(merged, over.source)


@dataclasses.dataclass(frozen=True)
class Override:
    """One ``key.path=value`` of the command line.

    Args:
        keys: the parts of the path; a list index is an int.
        value: the value, read as YAML.
        text: as the user wrote it.
    """

    keys: tuple[str | int, ...]
    value: Entry
    text: str

    @property
    def path(self) -> str:
        """The key path in the form that error messages use."""
        return join(self.keys)


def join(keys: tuple[str | int, ...]) -> str:
    """``("a", 0, "b")`` -> ``"a[0].b"``."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def split(path: str) -> tuple[str | int, ...]:
    """``"a[0].b"`` -> ``("a", 0, "b")``. Raises ConfigError where ``path`` is not a key path."""
    if not _KEY.fullmatch(path) or path.count(".") + path.count("[") >= MOST_LEVELS:
        raise ConfigError(f"'{path[:80]}' is not a key path; write for example model.neck.out_channels")
    return tuple(int(word) if mark == "[" else word for mark, word in re.findall(r"(\[?)([^.\[\]]+)", path))


def read_override(text: str) -> Override:
    """``key.path=value`` taken apart. Raises ConfigError where there is no ``=``, no key path, or no YAML."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals:
        named, _, given = text.lstrip("~+-").partition(":")
        hint = (
            f"write {named.strip()}={given.strip() or 'value'}"
            if _KEY.fullmatch(named.strip())
            else "write key.path=value"
        )
        hint = f"write {named}=null" if text.startswith("~") else hint
        raise ConfigError(f"override '{text}': there is no '='; {hint} (null removes an optional part)")
    if not _KEY.fullmatch(key):
        raise ConfigError(
            f"override '{text}': '{key}' is not a key path; write for example model.neck.out_channels=128"
        )
    if key.split(".")[0] == "_base_":
        raise ConfigError(f"override '{text}': _base_ is read from files only")
    if not value.strip():
        raise ConfigError(f"override '{text}': there is no value; write {key}=null to remove it, or {key}='\"\"'")
    return Override(split(key), parse_yaml(value, f"override '{text}'", lines=False), text)


def find(tree: Entry | None, keys: tuple[str | int, ...]) -> Entry | None:
    """What stands at ``keys``; None if nothing does."""
    for key in keys:
        at = None if tree is None else locate(tree.value, key)
        tree = None if tree is None or at is None else tree.value[at]
    return tree


def locate(value: Any, key: str | int) -> Any:
    """The key or index by which ``key``, as typed, is found in ``value``; None if it is not there."""
    if isinstance(value, dict):
        number = int(key) if isinstance(key, str) and key.isdecimal() else key
        return key if key in value else number if number in value else None
    if isinstance(value, list) and str(key).isdecimal() and int(key) < len(value):
        return int(key)
    return None


def changed(tree: Entry, override: Override, change: Callable[[Entry], Entry], levels: int, depth: int = 0) -> Entry:
    """``tree`` with the entry at the first ``levels`` keys of ``override``, made where it is missing, changed."""
    if depth == levels:
        return change(tree)
    key, where = override.keys[depth], join(override.keys[:depth])
    value = {} if tree.value is None else tree.value
    at = locate(value, key)
    if isinstance(value, list):
        if at is None:
            known = f"[0] to [{len(value) - 1}]" if value else "none, it is empty"
            raise ConfigError(
                f"{where}: override '{override.text}' asks for item {key!r} of a list; it has {known}. "
                f"To make it longer write all of it, {where}=[...]"
            )
        item = changed(value[at], override, change, levels, depth + 1)
        return dataclasses.replace(tree, value=[*value[:at], item, *value[at + 1 :]])
    if not isinstance(value, dict) or isinstance(key, int):
        what = "a mapping" if isinstance(value, dict) else repr(value)
        need = "a list" if isinstance(key, int) else "a mapping"
        if isinstance(key, int) and not value:
            whole = tuple(override.keys[depth + 1 :]) in ((), ("name",))  # a node may be given by its name alone
            raise ConfigError(
                f"{where}: override '{override.text}' names an item of a list that no file gives; write all of it, "
                f"{where}=[{override.text.partition('=')[2] if whole else '...'}]"
            )
        raise ConfigError(f"{where or 'config'}: override '{override.text}' needs {need} here, but it is {what}")
    key = key if at is None else at
    child = changed(value.get(key, Entry(None, override.value.source)), override, change, levels, depth + 1)
    return dataclasses.replace(tree, value={**value, key: child})
