"""Recipes -> plain data -> YAML text that loads again to the same recipes."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import yaml

from detkit.config.recipe import Eager, Recipe
from detkit.config.schema import is_nested, schema
from detkit.config.yaml_file import read_scalar
from detkit.registry import ConfigError, role_of

_Base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_WIDTH = 110
_BEFORE_BRACE = re.compile(r"(\\*)\$\{(?![\w.]+:)")
"""What would be resolved, where backslashes are the escape; a resolver (``${oc.env:X}``) stands there to be."""


def complete(recipe: Recipe[Any]) -> dict[str, Any]:
    """The node of ``recipe`` with every default written out: plain data that parses to an equal recipe.

    Raises TypeError for a default that no YAML can say (a mistake in the class).
    """
    node: dict[str, Any] = {} if is_nested(recipe.cls) else {"name": recipe.cls.__name__}
    for name, option in schema(recipe.cls).options.items():
        if name in recipe.kwargs:
            node[name] = plain(recipe.kwargs[name])
        else:
            node[name] = plain(option.default)
    return node


def plain(value: Any) -> Any:
    """``value`` (an option's value or default) as plain data."""
    if isinstance(value, Eager):
        return complete(value.recipe)
    if isinstance(value, Recipe):
        return complete(value)
    if is_nested(type(value)):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    hint = " Default to a Recipe of it." if role_of(type(value)) is not None else ""
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be written in YAML, so it can be no option.{hint}")


class _Dumper(_Base):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        """Always: what stands twice in the tree is written twice."""
        return True


def _float(dumper: Any, value: float) -> Any:
    text = repr(value)
    if value != value:
        text = ".nan"
    elif value in (float("inf"), float("-inf")):
        text = ".inf" if value > 0 else "-.inf"
    elif "e" in text and "." not in text:  # 1e-05 is a string to YAML 1.1
        text = text.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _string(dumper: Any, value: str) -> Any:
    style = None if isinstance(read_scalar(value), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", _BEFORE_BRACE.sub(r"\1\1\\${", value), style=style)


def _list(dumper: Any, value: Any) -> Any:
    short = all(not isinstance(item, dict) for item in value) and len(flow(value)) <= _WIDTH - 30
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True if short else None)


def _dict(dumper: Any, value: Any) -> Any:
    return dumper.represent_mapping("tag:yaml.org,2002:map", value.items(), flow_style=not value)


_Dumper.add_representer(float, _float)
_Dumper.add_representer(str, _string)
_Dumper.add_representer(list, _list)
_Dumper.add_representer(tuple, _list)
_Dumper.add_representer(dict, _dict)


def to_yaml(tree: Mapping[str, Any]) -> str:
    """``tree`` as YAML: keys in their order, short lists on one line. ``load_config`` reads it back unchanged."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, width=_WIDTH, default_flow_style=False)


def yaml_json(value: Any, **options: Any) -> str:
    """``value`` as JSON that YAML reads alike: ``json.dumps`` writes an emoji as two halves, which stay two in YAML."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)  # YAML refuses some as they are


def assignment(path: str, value: Any, *, literal: bool = True) -> str:
    """``path=value`` as ``load_config`` takes it.

    Args:
        path: where in the config.
        value: plain data, also with numpy's numbers and with paths.
        literal: whether ``${`` stays what it is, as in names that come from data, and refers to nothing.

    Raises ConfigError for what no config can hold.
    """
    try:
        text = yaml_json(value, default=_plain)
    except (TypeError, ValueError):
        kinds = "numbers, texts, lists and mappings"
        raise ConfigError(f"{path}: expected {kinds}, got {value!r:.100} ({type(value).__name__})") from None
    text = re.sub(_JSON_TEXT, lambda found: found[0] if found[1] is None else _NOT_FINITE[found[1]], text)
    return f"{path}={_BRACE.sub(_LITERAL, text) if literal else text}"


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else os.fspath(value)


_NOT_FINITE = {"NaN": ".nan", "Infinity": ".inf", "-Infinity": "-.inf"}
_JSON_TEXT = r'"(?:[^"\\]|\\.)*"|(NaN|-?Infinity)'
_BRACE = re.compile(r"((?:\\\\)*)\$\{")
_LITERAL = r"\1\1\\\\${"  # an escaping backslash, and before it twice as many: in JSON each of them is two


def flow(value: Any) -> str:
    """``value`` as YAML on one line, for messages."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return value if value and value == value.strip() and value.lower() not in _QUOTED else repr(value)
    return repr(value)


_QUOTED = ("null", "true", "false", "yes", "no", "on", "off", "~")
