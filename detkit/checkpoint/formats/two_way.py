"""Tables of names that are read in both directions, so that an importer and an exporter cannot disagree."""

import re
from collections.abc import Iterable, Sequence

from detkit.checkpoint.formats.importing import Rules

Pairs = Sequence[tuple[str, str]]
"""Rows of (their name, our name) with fields that stand for the same on both sides: ``{i}``, ``{n}`` and ``{s}`` for
numbers, ``{w}`` for a weight alone, ``{p}`` for weight or bias, ``{q}`` for a norm's tensors, ``{r}`` for any rest."""

_FIELDS = {
    "i": r"\d+",
    "n": r"\d+",
    "s": r"\d+",
    "w": "weight",
    "p": "weight|bias",
    "q": "weight|bias|running_mean|running_var|num_batches_tracked",
    "r": ".+",
}


def to_ours(pairs: Pairs) -> Rules:
    """The table as rules from their names to detkit's."""
    return [(_pattern(theirs), _template(ours)) for theirs, ours in pairs]


def to_theirs(pairs: Pairs) -> Rules:
    """The table as rules from detkit's names to theirs."""
    return [(_pattern(ours), _template(theirs)) for theirs, ours in pairs]


def _pattern(name: str) -> str:
    parts = re.split(r"\{(\w)\}", name)  # text, field, text, ...
    return "".join(f"(?P<{p}>{_FIELDS[p]})" if i % 2 else re.escape(p) for i, p in enumerate(parts))


def _template(name: str) -> str:
    return re.sub(r"\{(\w)\}", r"\\g<\1>", name)


def indices(names: Iterable[str], pattern: str) -> list[int]:
    """The numbers in the first group of ``pattern`` over all names that it matches whole, ascending, each once."""
    return sorted({int(match[1]) for name in names if (match := re.fullmatch(pattern, name))})


def ordered(names: Iterable[str], pattern: str) -> list[str]:
    """The texts in the first group of ``pattern`` over all names that it matches whole, in their order, each once."""
    return list(dict.fromkeys(match[1] for name in names if (match := re.fullmatch(pattern, name))))
