"""Options in words: for error messages and for ``detkit show``."""

import dataclasses
import inspect
import re
from typing import Any, NamedTuple

from detkit.config.schema import MISSING, place, schema, words
from detkit.config.write import flow, plain

_ARG = re.compile(r"^ {4}(\*{0,2}\w+(?:, *\*{0,2}\w+)*)(?: \([^)]*\))?: *(.*)$")


class OptionRow(NamedTuple):
    """One option, in words: ``type`` is what may be written, ``default`` is None where the option is required."""

    name: str
    type: str
    default: str | None
    words: str


def describe(cls: type) -> list[OptionRow]:
    """The options of ``cls`` in the order of its signature, with the words of its docstring."""
    known = argument_words(cls)
    return [
        OptionRow(
            name,
            words(option.want),
            None if option.default is MISSING else _default_words(option.default),
            known.get(name, ""),
        )
        for name, option in schema(cls).options.items()
    ]


def usage(cls: type, explain: bool = False) -> str:
    """A block of text: every option of ``cls`` with type and default; with ``explain`` also the docstring's words."""
    rows = describe(cls)
    title = f"  options of {cls.__name__} ({place(cls)}):"
    if not rows:
        return f"{title} none"
    lines = [title]
    for row in rows:
        required = "  (required)" if row.default is None else f" = {row.default}"
        lines.append(f"    {row.name}: {row.type}{required}")
        if explain and row.words:
            lines.append(f"        {row.words}")
    return "\n".join(lines)


def _default_words(default: Any) -> str:
    value = plain(default)
    text = flow(value)
    if len(text) <= 80 or not isinstance(value, dict | list):
        return text
    return f"{{name: {value['name']}, ...}}" if isinstance(value, dict) and "name" in value else text[:76] + " ..."


def argument_words(cls: type) -> dict[str, str]:
    """Option name -> the words under ``Args:`` in the docstrings of ``cls`` and of its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found.update(_parse_args(base.__dict__.get("__doc__") or ""))
    return found


def _parse_args(doc: str) -> dict[str, str]:
    found: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in inspect.cleandoc(doc).splitlines():
        if not line.startswith(" ") and line.strip():
            inside, names = line.strip() == "Args:", []
        elif inside and (match := _ARG.match(line)):
            names = [name.strip(" *") for name in match[1].split(",")]
            found.update(dict.fromkeys(names, match[2]))
        elif inside and names and line.strip():
            for name in names:
                found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def summary(cls: type) -> str:
    """The first sentence of the docstring of ``cls``; empty for one that has none."""
    doc: Any = cls.__dict__.get("__doc__") or ""
    if dataclasses.is_dataclass(cls) and doc.startswith(f"{cls.__name__}("):
        return ""
    return inspect.cleandoc(doc).split("\n\n")[0].replace("\n", " ").strip()
