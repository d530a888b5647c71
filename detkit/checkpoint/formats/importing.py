"""What it takes to read another framework's weights: the interface of an importer, and tools to write one as tables."""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from detkit.registry import Registry

Replacement = str | Callable[[re.Match[str]], str | None]
Rules = Sequence[tuple[str, Replacement]]
"""Rows of (pattern of a whole name, what it becomes: a template such as ``r"neck.laterals.res\\1"`` or a function)."""


@dataclasses.dataclass
class Imported:
    """A foreign state dict under detkit's names, with methods that keep track of what is done to each tensor.

    Every name of the file stands either in ``origin``, or, under the same name, in ``model``, or in ``unused``.

    Args:
        model: detkit's name -> tensor.
        origin: detkit's name -> the name in the file (several are joined by ``" + "``), where it differs.
        changes: detkit's name -> what was done to the values, e.g. "rows reordered: background last"; only for tensors
            whose values were rearranged or computed.
        unused: name in the file -> why nothing is made of it.
        class_names: the names of the classes, where the file's layout implies them.
        format: the framework whose names the file has; empty for detkit's own.
    """

    model: dict[str, Tensor]
    origin: dict[str, str] = dataclasses.field(default_factory=dict)
    changes: dict[str, str] = dataclasses.field(default_factory=dict)
    unused: dict[str, str] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    format: str = ""

    def change(self, pattern: str, function: Callable[[Tensor], Tensor], words: str) -> None:
        """Applies ``function`` to the tensors whose name ``pattern`` matches whole, and notes ``words`` for them."""
        for name in filter(re.compile(pattern).fullmatch, self.model):
            self.model[name] = function(self.model[name])
            self.changes[name] = f"{self.changes[name]}; {words}" if name in self.changes else words

    def compute(self, new: Mapping[str, Tensor], sources: Mapping[str, Sequence[str]], words: str) -> None:
        """Adds the tensors ``new``, each computed from ``sources``, which go unless they are new themselves."""
        origin = {
            ours: " + ".join(self.origin.get(name, name) for name in names if name in self.model)
            for ours, names in sources.items()
        }
        for name in {name for names in sources.values() for name in names}:
            for content in (self.model, self.origin, self.changes):
                content.pop(name, None)
        self.model |= new
        self.origin |= origin
        self.changes |= dict.fromkeys(new, words)

    def move(self, old: str, new: str) -> None:
        """Gives a tensor another of detkit's names."""
        theirs = self.origin.pop(old, old)
        self.model[new] = self.model.pop(old)
        if theirs != new:
            self.origin[new] = theirs
        if old in self.changes:
            self.changes[new] = self.changes.pop(old)

    def drop(self, name: str, reason: str) -> None:
        """Takes a tensor out, if it is there, and notes why nothing is made of it."""
        if self.model.pop(name, None) is not None:
            self.unused[self.origin.pop(name, name)] = reason
            self.changes.pop(name, None)

    def match_counters(self, wanted: Mapping[str, torch.Size]) -> None:
        """Leaves just those counters of batch norms that the model has; without a model they stay as they are.

        Batch norms count batches and frozen ones do not. The count matters only to a batch norm without momentum, which
        no detector has, so one that the file lacks is set to 0.
        """
        for name in list(self.model) if wanted else ():
            if name.endswith(COUNTER) and name not in wanted:
                self.drop(name, "counter of a batch norm that counts nothing here")
            counter = name.removesuffix("running_var") + COUNTER
            if name.endswith("running_var") and counter in wanted and counter not in self.model:
                self.model[counter] = torch.zeros((), dtype=torch.long)
                self.changes[counter] = "set to 0: the file has no counters of batch norms"


COUNTER = "num_batches_tracked"


class Importer:
    """Reads the weights of one foreign format.

    Attributes:
        name: the format, as the report shows it, e.g. ``"Detectron2"``.
    """

    name: ClassVar[str]

    def recognises(self, names: Collection[str]) -> bool:
        """Whether a file with tensors of these names is of this format, and surely not one of detkit's own."""
        raise NotImplementedError

    def convert(self, state: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> Imported:
        """The file's weights under detkit's names.

        Args:
            state: the file's tensors; they are not changed.
            wanted: names and shapes of the model's tensors, to choose by where the file allows more than one reading;
                empty where there is no model, which gives the usual one.
        """
        raise NotImplementedError


IMPORTERS: Registry[Importer] = Registry("importer", Importer)
"""Who registered last is asked first, so that an importer of one's own comes before detkit's."""


def renamed(name: str, rules: Rules) -> str | None:
    """The name that the first rule whose pattern matches all of ``name`` gives it; None where no rule does."""
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


def place_backbone(imported: Imported, wanted: Mapping[str, torch.Size]) -> None:
    """Moves a network's layers to where a model has them that has none in ``backbone.``.

    That is a backbone on its own, whose names begin with the layers', or heads that share the last stage
    (``roi_heads.res5``), if the file is of a network alone.
    """
    alone = not any(name.startswith(("proposal_generator.", "roi_heads.", "neck.", "head.")) for name in imported.model)
    for name in [name for name in imported.model if name.startswith("backbone.") and name not in wanted]:
        bare = name.removeprefix("backbone.")
        place = next((place for place in (f"roi_heads.{bare}", bare) if place in wanted), None)
        if place is not None and (alone or place == bare):
            imported.move(name, place)


UNKNOWN = "not understood: detkit has no such part"
"""The reason for names that no rule knows."""


def background_last(tensor: Tensor, per_class: int = 1) -> Tensor:
    """Rows ``(background, class 0, ...)`` as detkit has them: ``(class 0, ..., background)``."""
    return torch.cat([tensor[per_class:], tensor[:per_class]])


def without_background(tensor: Tensor, per_class: int = 1) -> Tensor:
    """Rows ``(background, class 0, ...)`` without the background's."""
    return tensor[per_class:]
