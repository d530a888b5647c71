"""Weights of pytorch-mask-rcnn, the port of matterport's Mask R-CNN to PyTorch."""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Mapping
from typing import Literal

import torch
from torch import Tensor

from detkit.checkpoint.formats.importing import (
    COUNTER,
    IMPORTERS,
    Imported,
    Importer,
    background_last,
    import_by_rules,
    without_background,
)
from detkit.checkpoint.formats.two_way import Pairs, to_ours

EPS = 1e-3
"""Epsilon of the port's batch norms."""

ORDINARY_EPS = 1e-5
"""Epsilon of detkit's batch norms unless a config says otherwise."""

Form = Literal["native", "norm", "plain", "fc"]
"""Of a convolution with bias and batch norm: as it is; without the bias; without the norm; as a linear layer."""

_RPN, _BOX, _MASK = "proposal_generator.head", "roi_heads.box_head", "roi_heads.mask_head"

NAMES: Pairs = (
    ("fpn.C1.0.{p}", "backbone.stem.conv1.{p}"),
    ("fpn.C1.1.{q}", "backbone.stem.conv1.norm.{q}"),
    ("fpn.C{s}.{i}.conv{n}.{p}", "backbone.res{s}.{i}.conv{n}.{p}"),
    ("fpn.C{s}.{i}.bn{n}.{q}", "backbone.res{s}.{i}.conv{n}.norm.{q}"),
    ("fpn.C{s}.{i}.downsample.0.{p}", "backbone.res{s}.{i}.shortcut.{p}"),
    ("fpn.C{s}.{i}.downsample.1.{q}", "backbone.res{s}.{i}.shortcut.norm.{q}"),
    ("fpn.P{s}_conv1.{p}", "neck.laterals.res{s}.{p}"),
    ("fpn.P{s}_conv2.1.{p}", "neck.outputs.res{s}.{p}"),
    ("rpn.conv_shared.{p}", f"{_RPN}.convs.0.{{p}}"),
    ("rpn.conv_class.{p}", f"{_RPN}.class_logits.{{p}}"),
    ("rpn.conv_bbox.{p}", f"{_RPN}.anchor_deltas.{{p}}"),
    *((f"classifier.conv{i + 1}.{{p}}", f"{_BOX}.convs.{i}.{{p}}") for i in range(2)),
    *((f"classifier.bn{i + 1}.{{q}}", f"{_BOX}.convs.{i}.norm.{{q}}") for i in range(2)),
    ("classifier.linear_class.{p}", f"{_BOX}.cls_score.{{p}}"),
    ("classifier.linear_bbox.{p}", f"{_BOX}.bbox_pred.{{p}}"),
    *((f"mask.conv{i + 1}.{{p}}", f"{_MASK}.convs.{i}.{{p}}") for i in range(4)),
    *((f"mask.bn{i + 1}.{{q}}", f"{_MASK}.convs.{i}.norm.{{q}}") for i in range(4)),
    ("mask.deconv.{p}", f"{_MASK}.deconv.{{p}}"),
    ("mask.conv5.{p}", f"{_MASK}.predictor.{{p}}"),
)
"""The port's names and those of detkit's counterparts of its own layers."""


@IMPORTERS.register()
@dataclasses.dataclass(frozen=True, kw_only=True)
class MatterportImporter(Importer):
    """The port's Mask R-CNN, of any depth, and matterport's through ``read_keras``.

    Each part comes as the model has it. *Native* are the port's own layers: convolutions with a bias before batch norms
    of epsilon 1e-3, ``SoftmaxRPNHead``, ``MatterportBoxHead``. They also train on as in the port. Where the model has
    ordinary layers, the port's are *folded* into them, which gives the same predictions:

    - a convolution's bias into the running mean of its batch norm, whose epsilon is taken to be 1e-5: the running
      variance makes up for the difference;
    - where the model has no batch norm, that too, into the convolution's weights;
    - the two logits of an anchor into their difference, which the sigmoid makes the same probability;
    - the two convolutions of the box head into two fully connected layers.

    Rows go from background first to background last, and from (dy, dx, dh, dw) to (dx, dy, dw, dh). The port divides
    deltas by (0.1, 0.1, 0.2, 0.2) in both stages, so both box coders of the config need weights (10, 10, 5, 5).

    Args:
        mode: "native" or "folded" for every part; "auto" chooses by the model, native where there is none.
    """

    mode: Literal["auto", "native", "folded"] = "auto"
    name = "matterport (pytorch-mask-rcnn)"

    def recognises(self, names: Collection[str]) -> bool:
        return any(name.startswith("fpn.C1.0.") for name in names)

    def convert(self, state: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> Imported:
        imported = import_by_rules(state, to_ours(NAMES))
        _reorder(imported)
        if self._folds_rpn(wanted):
            _subtract_background(imported)
        convs = [name.removesuffix(".norm.running_var") for name in imported.model if name.endswith("norm.running_var")]
        for conv in convs:
            form = self._form(conv, imported.model[f"{conv}.weight"].shape, wanted)
            if form == "norm":
                _fold_bias(imported, conv)
            elif form != "native":
                _fold_norm(imported, conv, _fc(conv) if form == "fc" else conv)
        imported.match_counters(wanted)
        return imported

    def _folds_rpn(self, wanted: Mapping[str, torch.Size]) -> bool:
        if self.mode != "auto":
            return self.mode == "folded"
        return f"{_RPN}.objectness.weight" in wanted

    def _form(self, conv: str, shape: torch.Size, wanted: Mapping[str, torch.Size]) -> Form:
        """What becomes of a convolution with its batch norm."""
        folded: Form = "fc" if conv.startswith(_BOX) else "plain" if conv.startswith(_MASK) else "norm"
        if self.mode != "auto":
            return folded if self.mode == "folded" else "native"
        if folded == "fc" and f"{_fc(conv)}.weight" in wanted and wanted.get(f"{conv}.weight") != shape:
            return "fc"
        if f"{conv}.norm.running_var" in wanted:
            return "native" if f"{conv}.bias" in wanted else "norm"
        has_norm = f"{conv}.norm.weight" in wanted
        return "plain" if f"{conv}.bias" in wanted and not has_norm else "native"


def yx_to_xy(tensor: Tensor) -> Tensor:
    """Rows in fours ``(dy, dx, dh, dw)`` as ``(dx, dy, dw, dh)``, or back."""
    return tensor.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)


def _reorder(imported: Imported) -> None:
    deltas, background = "rows reordered: (dy, dx, dh, dw) to (dx, dy, dw, dh)", "the background's {} dropped"
    steps: tuple[tuple[str, Callable[[Tensor], Tensor], str], ...] = (
        (f"{_BOX}.cls_score", background_last, "rows reordered: background from first to last"),
        (f"{_BOX}.bbox_pred", functools.partial(without_background, per_class=4), background.format("4 rows")),
        (f"{_BOX}.bbox_pred", yx_to_xy, deltas),
        (f"{_MASK}.predictor", without_background, background.format("row")),
        (f"{_RPN}.anchor_deltas", yx_to_xy, deltas),
    )
    for module, function, words in steps:
        imported.change(rf"{re.escape(module)}\.(weight|bias)", function, words)


def _subtract_background(imported: Imported) -> None:
    """Two logits an anchor to their difference: the sigmoid of it is the softmax of them."""
    for kind in ("weight", "bias"):
        ours, theirs = f"{_RPN}.objectness.{kind}", f"{_RPN}.class_logits.{kind}"
        if theirs in imported.model:
            rows = imported.model[theirs]
            words = "rows folded: object's less background's"
            imported.compute({ours: rows[1::2] - rows[0::2]}, {ours: (theirs,)}, words)


def _fold_bias(imported: Imported, conv: str) -> None:
    """A convolution without bias, and an ordinary batch norm: (x + b - m) / sqrt(v + eps) = (x - (m - b)) / ..."""
    mean, var, bias = f"{conv}.norm.running_mean", f"{conv}.norm.running_var", f"{conv}.bias"
    model = imported.model
    shifted = model[mean] - model[bias] if bias in model else model[mean]
    new = {mean: shifted, var: model[var] + (EPS - ORDINARY_EPS)}
    words = f"bias folded into the mean; epsilon {EPS:g} into the variance of one with {ORDINARY_EPS:g}"
    imported.compute(new, {mean: (mean, bias), var: (var,)}, words)


def _fold_norm(imported: Imported, conv: str, target: str) -> None:
    """A layer ``target`` with a bias and without norm; linear where it is another one than ``conv``."""
    model = imported.model
    weight = model[f"{conv}.weight"]
    parts = [f"{conv}.norm.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")]
    gamma, beta, mean, var = (model[name].double() for name in parts)
    bias = model.get(f"{conv}.bias", torch.zeros_like(mean)).double()
    scale = gamma * (var + EPS).rsqrt()
    new = {
        f"{target}.weight": (weight.double() * scale[:, None, None, None]).to(weight),
        f"{target}.bias": ((bias - mean) * scale + beta).to(weight),
    }
    if target != conv:
        new[f"{target}.weight"] = new[f"{target}.weight"].flatten(1)
    sources = {
        f"{target}.weight": (f"{conv}.weight", parts[0], parts[3]),
        f"{target}.bias": (f"{conv}.bias", *parts),
    }
    words = "batch norm folded" + (", 7x7 and 1x1 convolutions as fully connected layers" if target != conv else "")
    imported.compute(new, sources, words)
    imported.drop(f"{conv}.norm.{COUNTER}", "counter of a batch norm that is folded away")


def _fc(conv: str) -> str:
    return conv.replace(".convs.", ".fcs.")
