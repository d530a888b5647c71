"""Loading weights into a model, name by name, with a report of what happened to each."""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detkit.checkpoint.formats import import_foreign
from detkit.checkpoint.formats.importing import UNKNOWN
from detkit.checkpoint.reading import Checkpoint, as_checkpoint, read_checkpoint
from detkit.checkpoint.report import LoadReport, group_names
from detkit.checkpoint.state_dicts import under_names_of
from detkit.modeling.interfaces import MetaArch
from detkit.registry import DataError
from detkit.structures import ClassRows
from detkit.utils.distributed import unwrap
from detkit.utils.sharding import distribute

logger = logging.getLogger(__name__)


def load_weights(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Any] | Checkpoint,
    *,
    strict: bool = False,
    partial: bool = False,
) -> LoadReport:
    """Loads the weights of ``source`` whose names the model has, and says what happened to every name.

    Weights of another framework are translated first (``IMPORTERS`` lists the formats); which one it is,
    the names say. A tensor of another shape is skipped, with the reason. Where the class names of both sides are known
    and differ, the tensors that modules declare in ``class_rows`` (see ``ClassRows``) are filled row by row, from the
    classes of the same name and the background; the rows of the other classes keep their values. A model that does not
    know its class names takes those of the source if all of its tensors fit.

    All is prepared before the model is touched: when this raises, the model is as it was.

    Args:
        model: in place; may be wrapped in DistributedDataParallel or torch.compile.
        source: a checkpoint's path or address, a state dict, or a ``Checkpoint``.
        strict: raise unless both sides have the same names and shapes.
        partial: whether most of a detector's part (its backbone, its neck, its heads) may keep its initial values. The
            layers of the classes always may, and all but the backbone where the file is another framework's network.

    Raises:
        DataError: the file cannot be read, is not a checkpoint, has no name in common with the model, holds values that
            are not finite, or, without ``partial``, leaves most of a part as initialised.
        ValueError: ``strict``, and something does not fit.
    """
    model = unwrap(model)
    report, prepared, checkpoint = _plan(model, source, strict)
    if not partial:
        _check_parts(model, report)
    own = model.state_dict()
    model.load_state_dict({name: distribute(value, own[name]) for name, value in prepared.items()}, strict=False)
    _take_class_names(model, checkpoint, report)
    return report


def examine_weights(model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Any] | Checkpoint) -> LoadReport:
    """What ``load_weights`` would load, skip and miss; the model stays as it is. Raises DataError as that does."""
    return _plan(unwrap(model), source, strict=False)[0]


def _plan(
    model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Any] | Checkpoint, strict: bool
) -> tuple[LoadReport, dict[str, Tensor], Checkpoint]:
    """The report, the tensors to load, and the source under detkit's names."""
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    original = _read(source)
    checkpoint, report = _translated(original, own)
    rows, only_ours = _rows_by_name(model, checkpoint), _declared(model, "only_detkits")
    prepared: dict[str, Tensor] = {}
    for name, current in own.items():
        if name not in checkpoint.model:
            if name not in only_ours:
                report.missing.append(name)
            continue
        value, reason, note = _prepare(current, checkpoint.model[name], rows.get(name))
        if value is None:
            report.skipped.append(name)
            report.reasons[name] = reason
            continue
        prepared[name] = value
        report.loaded.append(name)
        if note:
            report.notes[name] = note
    check_values(prepared, original.source)
    if original.others:
        report.warnings.append(
            f"the file also has weights under {', '.join(original.others)}, which are not taken;"
            f" {original.source.partition('#')[0]}#{original.others[0]} names them"
        )
    report.unexpected += [report.renamed.pop(name, name) for name in checkpoint.model if name not in own]
    _warn_of_foreign_classes(report, model, checkpoint, rows)
    _check(report, own, original, strict)
    return report, prepared, checkpoint


def load_all_weights(model: nn.Module, checkpoint: Checkpoint) -> LoadReport:
    """Loads weights that the model is to be used with as it is, without training.

    Raises:
        DataError: a tensor of the model is missing in the checkpoint or has another shape there; it would stay random.
    """
    report = load_weights(model, checkpoint, partial=True)
    report.check_filled()
    logger.log(logging.INFO if report.exact else logging.WARNING, "%s", report)
    return report


def _read(source: str | os.PathLike[str] | Mapping[str, Any] | Checkpoint) -> Checkpoint:
    if isinstance(source, Checkpoint):
        return source
    return as_checkpoint(source) if isinstance(source, Mapping) else read_checkpoint(source)


def _translated(checkpoint: Checkpoint, own: Mapping[str, Tensor]) -> tuple[Checkpoint, LoadReport]:
    """The checkpoint under detkit's names, and a report of what was renamed and changed for that."""
    state = under_names_of(own, checkpoint.model)
    imported = import_foreign(state, {name: value.shape for name, value in own.items()}, checkpoint.source)
    report = LoadReport(
        checkpoint.source,
        format=imported.format,
        renamed=imported.origin,
        changed={name: words for name, words in imported.changes.items() if name in own},
        unused={name: reason for name, reason in imported.unused.items() if reason != UNKNOWN},
        unexpected=[name for name, reason in imported.unused.items() if reason == UNKNOWN],
    )
    names = checkpoint.class_names or imported.class_names
    return dataclasses.replace(checkpoint, model=imported.model, class_names=names), report


class _RowMap:
    """For one tensor, which rows and columns of the file go to which of the model."""

    def __init__(self, layout: ClassRows, ours: Sequence[str], theirs: Sequence[str]):
        self.layout, self.sizes = layout, (len(ours), len(theirs))
        position = {name: index for index, name in enumerate(theirs)}
        pairs = [(index, position[name]) for index, name in enumerate(ours) if name in position]
        self.note = f"{len(pairs)} of {len(ours)} classes by name"
        before = layout.columns_after or 0
        self.columns = torch.tensor([(i, i) for i in range(before)] + [(before + t, before + o) for t, o in pairs])
        if layout.background:
            pairs += [(len(ours) + i, len(theirs) + i) for i in range(layout.background)]
            self.note += ", and the background"
        self.empty = layout.per_class > 0 and not pairs
        sides = [layout.rows(places, number) for places, number in zip(zip(*pairs), self.sizes)] if pairs else [[], []]
        self.rows = torch.tensor(sides, dtype=torch.long).t()

    def fits(self, current: Tensor, new: Tensor) -> bool:
        """Whether both tensors are laid out as declared."""
        shapes = [self.layout.shape(number, tuple(current.shape)) for number in self.sizes if current.ndim]
        return shapes == [tuple(current.shape), tuple(new.shape)]

    def apply(self, current: Tensor, new: Tensor) -> Tensor:
        """The model's tensor with what the file has of the common classes."""
        mixed = current.detach().clone()
        rows = self.rows if self.layout.per_class else torch.arange(len(current))[:, None].expand(-1, 2)
        target, origin = ([part] for part in rows.unbind(1))
        if self.layout.columns_after is not None:
            target, origin = (
                [row[:, None], column] for (row,), column in zip((target, origin), self.columns.unbind(1))
            )
        mixed[tuple(index.to(mixed.device) for index in target)] = new[tuple(origin)].to(mixed)
        return mixed


def _rows_by_name(model: nn.Module, checkpoint: Checkpoint) -> dict[str, _RowMap]:
    """Full tensor name -> row map; empty where the names of a side are unknown or both sides agree."""
    ours, theirs = getattr(model, "class_names", None), checkpoint.class_names
    if ours is None or theirs is None or tuple(ours) == tuple(theirs):
        return {}
    return {name: _RowMap(layout, ours, theirs) for name, layout in _declared(model, "class_rows").items()}


def _prepare(current: Tensor, new: Tensor, rows: _RowMap | None) -> tuple[Tensor | None, str, str]:
    """(the tensor to load or None, why it is None, a note)."""
    if rows is not None and rows.fits(current, new):
        if rows.empty:
            return None, "no class has the same name", ""
        return rows.apply(current, new), "", rows.note
    kinds = [(tensor.is_floating_point(), tensor.is_complex()) for tensor in (current, new)]
    if kinds[0] != kinds[1] and current.ndim:
        return None, f"{new.dtype} in the file, {current.dtype} in the model", ""
    if current.shape != new.shape:
        return None, f"shape {tuple(new.shape)} in the file, {tuple(current.shape)} in the model", ""
    return new, "", ""


def _warn_of_foreign_classes(
    report: LoadReport, model: nn.Module, checkpoint: Checkpoint, rows: dict[str, _RowMap]
) -> None:
    ours: Sequence[str] = getattr(model, "class_names", None) or ()
    theirs = checkpoint.class_names or ()
    taken = set(report.loaded) & _declared(model, "class_rows").keys()
    if ours and not theirs and report.format and taken:
        report.warnings.append(
            f"the file names no classes; its {len(ours)} are taken to be the model's, in this order: {_list(ours)}"
        )
    if not ours or not theirs or set(ours) & set(theirs):
        return
    effect = "their rows keep their initial values" if rows else "all tensors of a matching shape were loaded anyway"
    report.warnings.append(
        f"no class of the file ({_list(theirs)}) has the name of one of the model's ({_list(ours)}); {effect}"
    )


def _list(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _check(report: LoadReport, own: Mapping[str, Tensor], checkpoint: Checkpoint, strict: bool) -> None:
    looks = f" (its names are {report.format}'s)" if report.format else ""
    if not report.loaded and not report.skipped:
        raise DataError(
            f"{checkpoint.source}: not one of its tensors has a name of the model's, so it is of another architecture"
            f" or framework{looks}.{_under_a_prefix(checkpoint, own)} In the file:"
            f" {group_names(list(checkpoint.model))}. In the model: {group_names(list(own))}"
        )
    if strict and not report.exact:
        raise ValueError(f"strict=True, but not everything fits (nothing was loaded).\n{report}")


def _under_a_prefix(checkpoint: Checkpoint, own: Mapping[str, Tensor]) -> str:
    """What to write where the model's names stand in the file behind one more word, such as ``student.``."""
    found = ([n.removesuffix(f".{name}") for n in checkpoint.model if n.endswith(f".{name}")] for name in own)
    file, prefixes = checkpoint.source.partition("#")[0], next(filter(None, found), [])
    return f" Write {' or '.join(f'{file}#{p}' for p in prefixes)} for those behind that prefix." if prefixes else ""


def check_values(state: Mapping[str, Tensor], source: str) -> None:
    """Raises DataError for weights with which a model finds nothing: NaN, infinite, zero, or negative variances."""
    floats = {name: v.float() for name, v in state.items() if v.is_floating_point() and not v.is_meta}
    bad = [name for name, value in floats.items() if not value.isfinite().all()]
    what = "values that are not finite (NaN or infinity)"
    if not bad:
        bad = [name for name, value in floats.items() if name.endswith("running_var") and (value < 0).any()]
        what = "negative variances"
    matrices = [name for name, value in floats.items() if value.ndim > 1 and value.numel()]
    if not bad and matrices and not any(floats[name].any() for name in matrices):
        bad, what = matrices, "no value but zero"
    if bad:
        raise DataError(
            f"{source}: {len(bad)} tensors have {what}: {group_names(bad)}. Take"
            " an earlier checkpoint, or train again with a lower rate"
        )


def _declared(model: nn.Module, attribute: str) -> dict[str, Any]:
    """What modules say of their tensors, in an attribute: in ``class_rows`` how they lie over the classes,
    in ``only_detkits`` that no other framework saves them."""
    modules = [(f"{p}." if p else "", m) for p, m in model.named_modules()]
    return {p + name: value for p, m in modules for name, value in getattr(m, attribute, {}).items()}


def random_parts(model: nn.Module, report: LoadReport) -> dict[str, list[str]]:
    """A detector's parts most of which stay as initialised, by a report of loading, with the names of what does.

    The layers of the classes do not count, nor all but the backbone where the file is another framework's network.
    """
    if not isinstance(model, MetaArch):
        return {}
    classes = _declared(model, "class_rows").keys()
    loaded, backbone_alone = set(report.loaded), report.of_backbone_alone
    found = {}
    for part, module in model.named_children():
        sizes = {f"{part}.{name}": value.numel() for name, value in module.state_dict().items()}
        left = [name for name in sizes if name not in loaded | classes]
        total = sum(size for name, size in sizes.items() if name not in classes)
        if 2 * sum(sizes[name] for name in left) > total and not (backbone_alone and part != "backbone"):
            found[part] = left
    return found


def _check_parts(model: nn.Module, report: LoadReport) -> None:
    for part, left in random_parts(model, report).items():
        raise DataError(
            f"{report.source}: leaves most of the model's {part} as initialised: {len(left)} of its tensors, such as"
            f" {left[0]}, are not in the file or have another shape. Give weights of this model, or allow it with"
            f" train.partial_weights=true (load_weights: partial=True). {report}"
        )


def _take_class_names(model: nn.Module, checkpoint: Checkpoint, report: LoadReport) -> None:
    """A model that knows its number of classes but not their names learns them from weights that fit it."""
    names = checkpoint.class_names
    if names is None or report.skipped or report.missing or not hasattr(model, "class_names"):
        return
    if model.class_names is None and getattr(model, "num_classes", len(names)) == len(names):
        model.class_names = names  # type: ignore[assignment]
