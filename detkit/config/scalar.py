"""Single values against their annotations."""

import re
from typing import Any, Literal, get_args, get_origin

from detkit.config.schema import words
from detkit.registry import did_you_mean

_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?inf|nan")


class Mismatch(Exception):
    """A value that its annotation does not take. The message says what was expected and what came."""


def shown(value: Any) -> str:
    """``value`` and its type, as messages show it."""
    if value is None:
        return "null"
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    kind = "mapping" if isinstance(value, dict) else type(value).__name__
    return f"{text} ({kind})"


def convert(value: Any, want: Any, expected: str) -> Any:
    """``value`` as a ``want`` (bool, int, float, str, None, or a Literal). ``expected`` is what a message calls it.

    An int is a float where one is wanted, and so is a text that says a float; a bool is never a number.
    Raises Mismatch.
    """
    if get_origin(want) is Literal:
        return _literal(value, get_args(want), expected)
    if want in (None, type(None)) and value is None:
        return None
    if want is float and not isinstance(value, bool):
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str) and _FLOAT.fullmatch(value.strip()):
            return float(value)
    if want in (bool, int, str) and type(value) is want:
        if type(value) is int and abs(value) >= 2**63:
            raise Mismatch(f"expected {expected}, got {value}; that is more than 64 bits hold")
        return value
    if want not in (bool, int, float, str, None, type(None)):
        raise Mismatch(f"an option of type {words(want)} has no form in YAML (a mistake in the class)")
    raise Mismatch(f"expected {expected}, got {shown(value)}{_hint(value, want)}")


def _literal(value: Any, choices: tuple[Any, ...], expected: str) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return value
    near = did_you_mean(value, [str(choice) for choice in choices]) if isinstance(value, str) else ""
    near = near and "." + near
    near = near or (_hint(value, str) if any(isinstance(choice, str) for choice in choices) else "")
    raise Mismatch(f"expected {expected}, got {shown(value)}{near}")


def _hint(value: Any, want: Any) -> str:
    if want is str and isinstance(value, bool | int | float):
        return "; put it in quotes if it is a text"
    if want is bool and value in ("yes", "on", "no", "off"):
        return f"; write {'true' if value in ('yes', 'on') else 'false'}"
    if want in (int, float) and isinstance(value, str) and re.fullmatch(r"[-+]?\d+(_\d+)+", value):
        return f"; write {value.replace('_', '')}"
    if want is int and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if want in (int, bool) and isinstance(value, str) and re.fullmatch(r"[-+]?\d+|true|false", value):
        return "; remove the quotes (of an environment variable: ${oc.decode:${oc.env:NAME}})"
    return ""
