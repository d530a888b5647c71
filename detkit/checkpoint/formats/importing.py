"""What it takes to read another framework's weights: the interface of an importer, and tools to write one as tables."""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

Replacement = str | Callable[[re.Match[str]], str | None]
Rules = Sequence[tuple[str, Replacement]]
"""Rows of (pattern of a whole name, what it becomes: a template such as ``r"neck.laterals.res\\1"`` or a function)."""


@dataclasses.dataclass(frozen=True)
class Imported:
    """A foreign state dict in detkit's words.

    Every name of the file stands either in ``origin``, or, under the same name, in ``model``, or in ``unused``.

    Args:
        model: detkit's name -> tensor.
        origin: detkit's name -> the name in the file (several are joined by ``" + "``), where it differs.
        changes: detkit's name -> what was done to the values, e.g. "rows reordered: background last"; only for tensors
            whose values were rearranged or computed.
        unused: name in the file -> why nothing is made of it.
        class_names: the names of the classes, where the file's layout implies them.
    """

    model: dict[str, Tensor]
    origin: dict[str, str] = dataclasses.field(default_factory=dict)
    changes: dict[str, str] = dataclasses.field(default_factory=dict)
    unused: dict[str, str] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] | None = None


class Importer(Protocol):
    """Reads the weights of one foreign format."""

    name: str
    """The format, as the report shows it, e.g. ``"Detectron2"``."""

    def recognises(self, names: Collection[str]) -> bool:
        """Whether a file with tensors of these names is of this format, and surely not one of detkit's own."""
        ...

    def convert(self, state: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> Imported:
        """The file's weights in detkit's words.

        Args:
            state: the file's tensors; they are not changed.
            wanted: names and shapes of the model's tensors, to choose by where the file allows more than one reading;
                empty where there is no model, which gives the usual one.
        """
        ...


def renamed(name: str, rules: Rules) -> str | None:
    """What the first rule whose pattern matches the whole name makes of it; None where no rule does."""
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement) if isinstance(replacement, str) else replacement(match)
    return None


def import_by_rules(state: Mapping[str, Tensor], rules: Rules, unused: Rules = ()) -> Imported:
    """Renames every tensor by ``rules``, after setting aside those that ``unused`` gives a reason for.

    A name that no rule knows is set aside too, and so is the second of two that would become the same.
    """
    model: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    left: dict[str, str] = {}
    for theirs, tensor in state.items():
        reason = renamed(theirs, unused)
        ours = None if reason is not None else renamed(theirs, rules)
        if ours is None:
            left[theirs] = UNKNOWN if reason is None else reason
        elif ours in model:
            left[theirs] = f"means {ours}, as {origin.get(ours, ours)} does, which came first"
        else:
            model[ours] = tensor
            if ours != theirs:
                origin[ours] = theirs
    return Imported(model, origin, unused=left)


def place_backbone(imported: Imported, wanted: Mapping[str, torch.Size]) -> Imported:
    """Moves a network's layers to where a model has them that has none in ``backbone.``.

    That is a backbone on its own, whose names begin with the layers', or heads that share the last stage
    (``roi_heads.res5``), if the file is of a network alone.
    """
    alone = not any(name.startswith(("proposal_generator.", "roi_heads.", "neck.")) for name in imported.model)
    moves: dict[str, str] = {}
    for name in imported.model:
        bare = name.removeprefix("backbone.")
        if bare == name or name in wanted:
            continue
        for place in (bare, f"roi_heads.{bare}") if alone else (bare,):
            if place in wanted:
                moves[name] = place
    back = {new: old for old, new in moves.items()}
    model = {moves.get(name, name): tensor for name, tensor in imported.model.items()}
    origin = {name: imported.origin.get(back.get(name, name), back.get(name, name)) for name in model}
    return dataclasses.replace(
        imported,
        model=model,
        origin={ours: theirs for ours, theirs in origin.items() if ours != theirs},
        changes={moves.get(name, name): words for name, words in imported.changes.items()},
    )


UNKNOWN = "not understood: detkit has no such part"
"""The reason for names that no rule knows."""


def change(imported: Imported, pattern: str, function: Callable[[Tensor], Tensor], words: str) -> Imported:
    """Applies ``function`` to the tensors whose detkit name ``pattern`` matches whole, and notes ``words`` for them."""
    names = [name for name in imported.model if re.fullmatch(pattern, name)]
    return dataclasses.replace(
        imported,
        model={**imported.model, **{name: function(imported.model[name]) for name in names}},
        changes={**imported.changes, **{name: _join(imported.changes.get(name), words) for name in names}},
    )


def _join(before: str | None, words: str) -> str:
    return words if before is None else f"{before}; {words}"


def background_last(tensor: Tensor, per_class: int = 1) -> Tensor:
    """Rows ``(background, class 0, ...)`` as detkit has them: ``(class 0, ..., background)``."""
    return torch.cat([tensor[per_class:], tensor[:per_class]])


def without_background(tensor: Tensor, per_class: int = 1) -> Tensor:
    """Rows ``(background, class 0, ...)`` without the background's."""
    return tensor[per_class:]
