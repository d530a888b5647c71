"""LoadReport: what happened to every name when weights were loaded."""

import dataclasses
from collections import Counter

from detkit.registry import DataError

NETWORK = ("backbone.", "roi_heads.res5.")
"""How the names of a model's tensors begin that a classification network has, too."""


@dataclasses.dataclass
class LoadReport:
    """What was loaded and what was not. ``str(report)`` is a summary of a few lines; the lists are complete.

    Args:
        source: where the weights came from.
        loaded: names of the model's tensors that took values from the source, all rows or some (see ``notes``).
        skipped: names on both sides whose values could not be used; ``reasons`` says why.
        missing: names of the model that the source has not; they keep their initial values.
        unexpected: names of the source that the model has not, and that nobody expects it to have.
        reasons: skipped name -> why.
        notes: loaded name -> what was particular, e.g. "12 of 80 classes by name".
        warnings: whole sentences for the user.
        format: the framework whose names the source has; empty for detkit's own.
        renamed: name of the model -> name in the source (several joined by " + "), where it differs.
        changed: name of the model -> how its values were rearranged, e.g. "rows reordered: background last".
        unused: name in the source -> why nothing is made of it, e.g. an ImageNet classifier.
    """

    source: str
    loaded: list[str] = dataclasses.field(default_factory=list)
    skipped: list[str] = dataclasses.field(default_factory=list)
    missing: list[str] = dataclasses.field(default_factory=list)
    unexpected: list[str] = dataclasses.field(default_factory=list)
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: dict[str, str] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    format: str = ""
    renamed: dict[str, str] = dataclasses.field(default_factory=dict)
    changed: dict[str, str] = dataclasses.field(default_factory=dict)
    unused: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the model got everything: each of its tensors was there and was taken whole."""
        return not (self.skipped or self.missing or self.notes)

    @property
    def exact(self) -> bool:
        """Whether, besides, the source had nothing that the model has not."""
        return self.complete and not self.unexpected

    @property
    def of_backbone_alone(self) -> bool:
        """Whether another framework's network, such as a classifier, gave the backbone and nothing else."""
        return bool(self.format) and all(name.startswith(NETWORK) for name in self.loaded)

    def check_filled(self) -> None:
        """Raises DataError unless every tensor of the model was loaded."""
        if self.missing or self.skipped:
            raise DataError(
                f"{self.source}: are the weights of another model than the config's: {len(self.missing)} of the "
                f"model's tensors are missing, {len(self.skipped)} have another shape. Give the config that they were "
                f"trained with. {self}"
            )

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.skipped) + len(self.missing)
        source = f"{self.source} ({self.format})" if self.format else self.source
        lines = [f"weights from {source}: {len(self.loaded)} of the model's {total} tensors loaded"]
        if self.renamed:
            ours, theirs = next(iter(self.renamed.items()))
            lines.append(f"  {len(self.renamed)} renamed, such as {theirs} -> {ours}")
        lines += [f"  changed {name}: {how}" for name, how in _shorten(self.changed)]
        lines += [f"  {name}: {note}" for name, note in _shorten(self.notes)]
        lines += [f"  skipped {name}: {reason}" for name, reason in _shorten(self.reasons)]
        if self.missing:
            lines.append(f"  missing, so left as initialised ({len(self.missing)}): {group_names(self.missing)}")
        if self.unexpected:
            lines.append(f"  unexpected, so not used ({len(self.unexpected)}): {group_names(self.unexpected)}")
        lines += [f"  not used {name}: {reason}" for name, reason in _shorten(self.unused)]
        lines += [f"  warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def group_names(names: list[str], most: int = 6) -> str:
    """Dotted names as at most ``most`` prefixes with counts, as deep as that allows: ``backbone.res2.* (12), fc``."""
    depth = max((name.count(".") + 1 for name in names), default=1)
    groups = Counter(names)
    while len(groups) > most and depth > 1:
        depth -= 1
        groups = Counter(_cut(name, depth) for name in names)
    shown = [f"{prefix} ({count})" if prefix.endswith("*") else prefix for prefix, count in groups.most_common(most)]
    return ", ".join(shown) + (f" and {len(groups) - most} more groups" if len(groups) > most else "")


def _cut(name: str, depth: int) -> str:
    parts = name.split(".")
    return name if len(parts) <= depth else ".".join(parts[:depth]) + ".*"


def _shorten(messages: dict[str, str], most: int = 8) -> list[tuple[str, str]]:
    """The messages with names of one message joined, and the tail of a long list counted."""
    by_text: dict[str, list[str]] = {}
    for name, text in messages.items():
        by_text.setdefault(text, []).append(name)
    lines = [(group_names(names), text) for text, names in by_text.items()]
    return lines[:most] + ([("...", f"{len(lines) - most} more")] if len(lines) > most else [])
