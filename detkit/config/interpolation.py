"""``${...}`` in a tree: references to other keys, and what a resolver such as ``oc.env`` says.

References are replaced here, because their number has to be bounded; omegaconf resolves the rest, a text at a time.
What depends on a resolver is known afterwards, for a run writes it down as it was: a password stays in the environment.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detkit.config.merge import find, join, split
from detkit.config.yaml_file import MOST_LEVELS, Entry, Size
from detkit.registry import ConfigError, did_you_mean

_REFERENCE = re.compile(r"(?<!\\)((?:\\\\)*)\$\{\s*([^${}:\s]+)\s*\}")
_RESOLVER = re.compile(r"\$\{(?=[\w.]+:)")
_LONGEST, _MOST = 10_000, 2_000
_Keys = tuple[str | int, ...]


def resolve(tree: Entry) -> tuple[Any, dict[str, str]]:
    """``tree`` as plain data; and path -> text for what comes from outside of it, as it stands in no other key.

    Raises ConfigError, with the key path and the place, for what cannot be resolved or grows too large.
    """
    plain = tree.plain()
    if "${" not in str(plain):
        return plain, {}
    walk = _Walk(tree)
    return walk.final(walk.expand((), tree, 0), ""), walk.outside


def written(value: Any, outside: Mapping[str, str], path: str = "") -> Any:
    """The complete tree ``value`` as a run writes it down: what came from ``outside`` is named there, not said."""
    if path in outside:
        return outside[path]
    if isinstance(value, dict):
        return {key: written(item, outside, f"{path}.{key}" if path else str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [written(item, outside, f"{path}[{i}]") for i, item in enumerate(value)]
    return _RESOLVER.sub(r"\\${", value) if isinstance(value, str) else value


class _Walk:
    def __init__(self, tree: Entry):
        self.tree, self.size = tree, Size()
        self.done: dict[_Keys, Any] = {}
        self.open: list[_Keys] = []
        self.outside: dict[str, str] = {}
        self.sources = dict(tree.walk())

    def fail(self, path: str, problem: str) -> ConfigError:
        """The error for what stands at ``path``."""
        source = f"  [{self.sources[path]}]" if path in self.sources else ""
        return ConfigError(f"{path or 'config'}: the interpolation cannot be resolved: {problem}{source}")

    def expand(self, keys: _Keys, entry: Entry, level: int) -> Any:
        """What stands at ``keys``, its references replaced by what they name."""
        if isinstance(entry.value, dict):
            return {key: self.expand((*keys, key), item, level + 1) for key, item in entry.value.items()}
        if isinstance(entry.value, list):
            return [self.expand((*keys, i), item, level + 1) for i, item in enumerate(entry.value)]
        if not isinstance(entry.value, str) or "${" not in entry.value:
            return entry.value
        if keys not in self.done:
            if keys in self.open or len(self.open) > MOST_LEVELS:
                circle = " -> ".join(map(join, [*self.open[-3:], keys]))
                raise self.fail(join(keys), f"it goes round in a circle, or through too many keys: {circle}")
            self.open.append(keys)
            self.done[keys] = self._text(keys, entry.value)
            self.open.pop()
        return self.done[keys]

    def _text(self, keys: _Keys, text: str) -> Any:
        for _ in range(MOST_LEVELS):
            if len(text) > _LONGEST:
                raise self.fail(join(keys), f"the text grows beyond {_LONGEST} letters")
            match = _REFERENCE.fullmatch(text)
            if match and not match[1]:
                return self._named(keys, match[2])
            before, text = text, _REFERENCE.sub(lambda m: m[1] + self._inside(keys, m[2]), text)
            if text == before:
                return text
        raise self.fail(join(keys), f"more than {MOST_LEVELS} '${{' in one another")

    def _inside(self, keys: _Keys, name: str) -> str:
        value = self._named(keys, name)
        if isinstance(value, dict | list):
            raise self.fail(join(keys), f"'{name}' is a list or mapping, and stands here inside of a text")
        return str(value)

    def _named(self, keys: _Keys, name: str) -> Any:
        key = name.lstrip(".")
        above = keys[: -(len(name) - len(key))] if name != key else ()
        target = (*above, *split(key)) if key else above
        entry = find(self.tree, target)
        if entry is None:
            near = did_you_mean(name, itertools.islice(self.sources, _MOST))
            raise self.fail(join(keys), f"there is no '{name}'.{near}")
        return self.expand(target, entry, 0)

    def final(self, value: Any, path: str, level: int = 0) -> Any:
        """``value`` with what resolvers say, and without the backslashes before what is no interpolation."""
        self.size.add(path, level)
        if isinstance(value, dict):
            return {k: self.final(item, f"{path}.{k}" if path else str(k), level + 1) for k, item in value.items()}
        if isinstance(value, list):
            return [self.final(item, f"{path}[{i}]", level + 1) for i, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        if search := re.search(r"\$\{oc\.(select|dict|deprecated)\b", value):
            raise self.fail(path, f"'{search[0]}' is not supported; write ${{key}} for the value of another key")
        try:
            made = OmegaConf.to_container(OmegaConf.create({"x": value}), resolve=True)["x"]  # type: ignore[call-overload,index]
        except RecursionError:
            raise self.fail(path, "too many '${' in one another") from None
        except OmegaConfBaseException as error:
            said = str(error).splitlines()[0].rpartition(" while resolving interpolation: ")[2].strip('"')
            fix = "; set it, or write ${oc.env:NAME,value} with a default" if said.startswith("Environment var") else ""
            raise self.fail(path, said + fix) from None
        if _RESOLVER.search(value):
            self.outside[path] = value
            if len(self.outside) > _MOST:
                raise self.fail(path, f"more than {_MOST} texts that ask the environment")
        return made
