"""Writing detkit's weights in the layouts of other frameworks."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from detkit.checkpoint.formats.detectron2 import (
    BACKBONE,
    HEADS,
    PYRAMID,
    RPN_CONV,
    RPN_CONVS,
    SIMPLE_PYRAMID,
    dense_head_pairs,
)
from detkit.checkpoint.formats.importing import Rules, renamed
from detkit.checkpoint.formats.torchvision_names import layout_of_ours
from detkit.checkpoint.formats.two_way import to_theirs
from detkit.checkpoint.report import group_names
from detkit.modeling.interfaces import NORMALISERS

Layout = Literal["detectron2", "torchvision"]


def export_state(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """A detkit model's state dict under another framework's names, and with its order of rows.

    - ``detectron2``: R-CNNs on detkit's own ``ResNet``, ``ResNeXt``, ``ViT`` and ``Swin``, with a pyramid, C4 or DC5;
      GroupNorm and deformable convolutions too; RetinaNet and FCOS. Detectron2's checkpointer reads the result under
      the key ``model``.
    - ``torchvision``: R-CNNs with a pyramid, RetinaNet and FCOS. torchvision's R-CNNs have the background as class 0:
      its row of the class scores comes first, and for the boxes and masks, where nothing reads it, there are zeros. Its
      RetinaNet and FCOS know no background and get the classes as they are, from label 0 on. What torchvision's
      ``load_state_dict`` takes without a counter of batch norms it gets without one.

    Names and rows alone: anchors, normalisation and the like are what the other framework's config says.

    Args:
        state: names and tensors of a detkit model; they are not changed.
        layout: the framework.

    Raises:
        ValueError: an unknown layout, or a part of the model that the layout cannot express; the message names it.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"layout: expected one of {', '.join(get_args(Layout))}, got {layout!r}")
    state = {name: tensor for name, tensor in state.items() if not is_only_detkits(name)}
    _check_layers(state, layout)
    if layout == "torchvision":
        return _with_background(_renamed(state, to_theirs(layout_of_ours(state).pairs), layout))
    return _renamed(state, _detectron2_rules(state), layout)


def is_only_detkits(name: str) -> bool:
    """Whether a tensor is state of the training that other frameworks do not save, as its normaliser declares it."""
    part, _, tensor = name.rpartition(".")
    return part == "head.normaliser" and any(tensor in getattr(cls, "only_detkits", {}) for _, cls in NORMALISERS)


def _renamed(state: Mapping[str, Tensor], rules: Rules, layout: Layout) -> dict[str, Tensor]:
    names = {ours: renamed(ours, rules) for ours in state}
    _refuse([ours for ours, theirs in names.items() if theirs is None], layout, "it has no such layers")
    return {theirs: state[ours] for ours, theirs in names.items() if theirs is not None}


def _refuse(names: Sequence[str], layout: Layout, why: str) -> None:
    if names:
        raise ValueError(
            f"the model cannot be written in {layout}'s layout, {why}: {group_names(list(names))}."
            " It can be written as a checkpoint of detkit"
        )


def _check_layers(state: Mapping[str, Tensor], layout: Layout) -> None:
    """Refuses what has a name in the other layout, but is another computation there."""
    both = {name for name in state if name.endswith(".bias") and f"{name[:-4]}norm.weight" in state}
    normed = {f"{name[:-11]}bias" for name in state if re.fullmatch(r"head\.(cls|box)_convs\.\d+\.norm\.weight", name)}
    if layout == "detectron2" or "head.centreness.weight" in state:  # there, dense heads have both, or no norms
        _refuse(sorted(normed - both), layout, "whose heads with norms have convolutions with a bias: conv_bias: true")
        both -= normed
    _refuse(sorted(both), layout, "whose convolutions have a bias or a norm, not both")
    in_heads = re.compile(r"roi_heads\.(box_head(\.\d+)?|(mask|keypoint)_head)\.convs\.\d+\.weight")
    convs = {n: t for n, t in state.items() if in_heads.fullmatch(n)}
    _refuse([n for n, t in convs.items() if t.shape[2:] != (3, 3)], layout, "whose heads have 3x3 convolutions")
    if layout == "torchvision":
        if not any(name.startswith("neck.laterals.") for name in state):
            raise ValueError(
                "the model cannot be written in torchvision's layout, which needs a feature pyramid (neck)"
            )
        scores = state.get("roi_heads.box_head.cls_score.weight")
        rows = 0 if scores is None else len(scores) - 1
        shared = [n for n, per_class in _CLASS_ROWS.items() if n in state and len(state[n]) != rows * per_class]
        _refuse(shared, layout, "where every class has rows of its own")


_CLASS_ROWS = {
    f"roi_heads.{name}.{kind}": per_class
    for name, per_class in (("box_head.bbox_pred", 4), ("mask_head.predictor", 1))
    for kind in ("weight", "bias")
}
"""detkit's tensor without rows of the background -> rows a class."""


def _with_background(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for kind in ("weight", "bias"):
        name = f"roi_heads.box_predictor.cls_score.{kind}"
        if name in state:
            state[name] = torch.cat([state[name][-1:], state[name][:-1]])
        for name, per_class in (
            (f"roi_heads.box_predictor.bbox_pred.{kind}", 4),
            (f"roi_heads.mask_predictor.mask_fcn_logits.{kind}", 1),
        ):
            if name in state:
                state[name] = torch.cat([torch.zeros_like(state[name][:per_class]), state[name]])
    return state


def _detectron2_rules(names: Collection[str]) -> Rules:
    """Rules from detkit's names to Detectron2's."""
    necks = {"neck.levels.": SIMPLE_PYRAMID, "neck.": PYRAMID, "": BACKBONE}
    trunk = next(pairs for part, pairs in necks.items() if any(name.startswith(part) for name in names))
    convs = RPN_CONVS if "proposal_generator.head.convs.1.weight" in names else RPN_CONV
    heads = [*convs, *HEADS, *dense_head_pairs("head.cls_convs.0.norm.weight" in names)]
    return to_theirs([*((f"backbone.{theirs}", ours) for theirs, ours in trunk), *heads])
