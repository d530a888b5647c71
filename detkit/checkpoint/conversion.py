"""Turning a checkpoint of one framework into one of another, and saying what became of every tensor."""

import dataclasses
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from detkit.checkpoint.files import write_torch
from detkit.checkpoint.formats import convert_by, import_foreign
from detkit.checkpoint.formats.exporting import export_state, is_only_detkits
from detkit.checkpoint.formats.importing import Imported, Importer
from detkit.checkpoint.load import check_values
from detkit.checkpoint.reading import Checkpoint
from detkit.checkpoint.report import NETWORK, group_names
from detkit.checkpoint.state_dicts import under_names_of
from detkit.registry import DataError
from detkit.structures import KeypointSpec
from detkit.utils import atomic_write

Target = Literal["detkit", "detectron2", "torchvision"]
Fate = Literal["kept", "renamed", "reordered", "folded", "changed", "skipped", "missing", "not used"]

_PARTS = ("backbone.", "neck.", "proposal_generator.", "roi_heads.", "head.")
"""What the names of detkit's detectors begin with."""


@dataclasses.dataclass(frozen=True)
class Line:
    """What became of one tensor.

    Args:
        fate: in a word.
        theirs: name (or names, joined by " + ") in the file that was read; empty where it has none.
        ours: name in what is written; empty where nothing is.
        words: what was done to the values, or why nothing was.
    """

    fate: Fate
    theirs: str
    ours: str
    words: str = ""

    def __str__(self) -> str:
        names = self.theirs if self.theirs == self.ours else " -> ".join(n for n in (self.theirs, self.ours) if n)
        return f"{self.fate:<10} {names}" + (f": {self.words}" if self.words else "")


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A converted state dict. ``str(conversion)`` is a summary; ``lines`` has every tensor.

    Args:
        source: the file that was read.
        origin: the framework that it is of.
        target: the framework whose names ``model`` has.
        model: name -> tensor.
        class_names: the names of the classes, where they are known.
        category_ids: the ids that these have in the data's files, where they are known.
        keypoints: what the keypoints are, where they are known.
        lines: a line a tensor, of the file or missing there.
    """

    source: str
    origin: str
    target: Target
    model: dict[str, Tensor]
    class_names: tuple[str, ...] | None
    category_ids: tuple[int, ...] | None
    keypoints: KeypointSpec | None
    lines: list[Line]

    def __str__(self) -> str:
        rows = [f"{self.source} ({self.origin}) to {self.target}: {len(self.model)} tensors"]
        groups: dict[tuple[str, str], list[Line]] = {}
        for line in self.lines:
            groups.setdefault((line.fate, line.words), []).append(line)
        for (fate, words), lines in groups.items():
            names = group_names([line.ours or line.theirs for line in lines])
            example = f", such as {lines[0].theirs} -> {lines[0].ours}" if fate == "renamed" else ""
            rows.append(f"  {fate} ({len(lines)}){example or f' {names}'}" + (f": {words}" if words else ""))
        return "\n".join(rows)


def convert(
    checkpoint: Checkpoint,
    target: Target,
    *,
    wanted: Mapping[str, torch.Size] | None = None,
    importer: Importer | None = None,
) -> Conversion:
    """A checkpoint's weights under the names of ``target``.

    Args:
        checkpoint: of any framework that an importer knows, or of detkit.
        target: the framework to write for.
        wanted: names and shapes of the detkit model that the weights are for: it decides where a file allows more than
            one reading, and what it has not is left out. None takes the usual reading, and everything.
        importer: reads the file in this way; None chooses by its names.

    Raises:
        DataError: the file is of no known framework, has nothing of one of the model's parts (backbone, neck, head; a
            backbone alone may be another framework's network) or values that are not finite, or ``target`` cannot
            express it.
    """
    checkpoint = dataclasses.replace(checkpoint, model=under_names_of(wanted or {}, checkpoint.model))
    imported = _imported(checkpoint, wanted or {}, importer)
    model, left = _fitting(imported, wanted)
    if not model:
        raise DataError(
            f"{checkpoint.source}: not one of its tensors fits the model, so it is of another architecture. In the"
            f" file: {group_names(list(checkpoint.model))}. In the model: {group_names(list(wanted or {}))}"
        )
    if wanted is not None and not (imported.format and all(name.startswith(NETWORK) for name in model)):
        _check_parts(imported, wanted, checkpoint.source)
    check_values(model, checkpoint.source)
    if target == "detkit":
        written = model
    else:
        own = [imported.origin.get(name, name) for name in model if is_only_detkits(name)]
        left += [Line("not used", name, "", "state of the training that detkit alone saves") for name in own]
        model = {name: tensor for name, tensor in model.items() if not is_only_detkits(name)}
        try:
            written = export_state(model, target)
        except ValueError as error:
            raise DataError(f"{checkpoint.source}: {error}") from error
    skipped = any(line.fate == "skipped" for line in left)  # most likely the rows of the classes
    lines = [_line(imported, *pair, model, written) for pair in zip(model, written)]
    return Conversion(
        source=checkpoint.source,
        origin=imported.format or "detkit",
        target=target,
        model={name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in written.items()},
        class_names=None if skipped else checkpoint.class_names or imported.class_names,
        category_ids=None if skipped else checkpoint.category_ids,
        keypoints=checkpoint.keypoints,
        lines=lines + left,
    )


def write_conversion(
    conversion: Conversion, path: str | os.PathLike[str], *, config: dict[str, Any] | None = None
) -> Path:
    """Writes a conversion to a file that is complete or not there.

    For detkit it is a checkpoint as a run writes it, for Detectron2 one that its checkpointer reads (a ``.pkl`` of
    numpy arrays, or else of ``torch.save``), for torchvision a plain state dict.

    Args:
        conversion: what to write.
        path: the file.
        config: the complete config of the model as plain data, for a checkpoint of detkit.

    Raises:
        DataError: a ``.pkl`` for another framework than Detectron2.
    """
    path, target = Path(path), conversion.target
    content: dict[str, Any]
    if path.suffix == ".pkl":
        if target != "detectron2":
            raise DataError(f"{path}: a .pkl is for Detectron2; {target} reads files of torch.save, so call it .pth")
        arrays = {name: _array(tensor) for name, tensor in conversion.model.items()}
        with atomic_write(path) as file:
            pickle.dump({"model": arrays, "__author__": "detkit"}, file)
        return path
    if target == "torchvision":
        content = conversion.model
    elif target == "detectron2":
        content = {"model": conversion.model, "__author__": "detkit"}
    else:
        content = Checkpoint(
            conversion.model,
            conversion.class_names,
            category_ids=conversion.category_ids,
            keypoints=conversion.keypoints,
            config=config,
        ).content()
    write_torch(content, path)
    return path


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor in numpy, which has no bfloat16."""
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def _imported(checkpoint: Checkpoint, wanted: Mapping[str, torch.Size], importer: Importer | None) -> Imported:
    """The file under detkit's names."""
    if importer is None:
        imported = import_foreign(checkpoint.model, wanted, checkpoint.source)
    elif importer.recognises(checkpoint.model):
        imported = convert_by(importer, checkpoint.model, wanted, checkpoint.source)
    else:
        raise DataError(f"{checkpoint.source}: has not the names of {importer.name}")
    if not imported.format and not wanted and not any(name.startswith(_PARTS) for name in checkpoint.model):
        raise DataError(
            f"{checkpoint.source}: is of no framework that detkit knows; its tensors are called"
            f" {group_names(list(checkpoint.model))}"
        )
    return imported


def _check_parts(imported: Imported, wanted: Mapping[str, torch.Size], source: str) -> None:
    """Raises DataError where the file has nothing of one of the model's parts."""
    parts = {name.partition(".")[0] for name in imported.model.keys() & wanted.keys()}
    lost = [name for name in wanted if name.partition(".")[0] not in parts]
    if lost:
        raise DataError(
            f"{source}: has nothing of a part of the model: {group_names(lost)}. Give the config that the weights are"
            " of"
        )


def _fitting(imported: Imported, wanted: Mapping[str, torch.Size] | None) -> tuple[dict[str, Tensor], list[Line]]:
    """The tensors that a model takes, and what is said of all others."""
    model, lines = {}, []
    for name, tensor in imported.model.items():
        theirs = imported.origin.get(name, name)
        if wanted is None or wanted.get(name) == tensor.shape:
            model[name] = tensor
        elif name in wanted:
            sizes = f"shape {tuple(tensor.shape)} in the file, {tuple(wanted[name])} in the model"
            lines.append(Line("skipped", theirs, name, sizes))
        else:
            lines.append(Line("not used", theirs, "", "the model has no such part"))
    lines += [Line("missing", "", name) for name in wanted or {} if name not in imported.model]
    lines += [Line("not used", name, "", reason) for name, reason in imported.unused.items()]
    return model, lines


def _line(imported: Imported, name: str, new: str, model: Mapping[str, Tensor], written: Mapping[str, Tensor]) -> Line:
    """What became of the tensor that detkit calls ``name`` and that is written as ``new``."""
    theirs, words = imported.origin.get(name, name), imported.changes.get(name, "")
    if written[new] is not model[name]:
        longer = len(written[new]) > len(model[name])
        step = "rows of zeros added for the background" if longer else "rows reordered: background from last to first"
        words = f"{words}; {step}" if words else step
    if not words:
        return Line("kept" if theirs == new else "renamed", theirs, new)
    fate: Fate = "folded" if "folded" in words else "reordered" if "row" in words else "changed"
    return Line(fate, theirs, new, words)
