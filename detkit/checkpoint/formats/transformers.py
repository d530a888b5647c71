"""Weights of vision transformers: MAE's and timm's ViTs, and Swin from its authors, timm and torchvision."""

import math
import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from detkit.checkpoint.formats.importing import IMPORTERS, Imported, Importer, Rules, import_by_rules, place_backbone
from detkit.checkpoint.formats.two_way import Pairs, to_ours

MAX_STAGES = 4

TRANSFORMER: Pairs = (
    ("patch_embed.{r}", "backbone.patch_embed.{r}"),
    ("pos_embed", "backbone.pos_embed"),
    ("blocks.{i}.residual.norm{n}.{p}", "backbone.blocks.{i}.residual.conv{n}.norm.{p}"),
    ("blocks.{i}.{r}", "backbone.blocks.{i}.{r}"),
    ("layers.{i}.{r}", "backbone.stages.{i}.{r}"),
    *((f"norm{i}.{{p}}", f"backbone.norms.res{i + 2}.{{p}}") for i in range(MAX_STAGES)),
)
"""ViT and Swin as MAE, Swin's authors and Detectron2 call their layers."""

_LATE_MERGING: Pairs = tuple(
    (f"layers.{i + 1}.downsample.{{r}}", f"backbone.stages.{i}.downsample.{{r}}") for i in range(MAX_STAGES - 1)
)
"""timm's Swin, in which a stage begins with the merging of tokens that ends the one before elsewhere."""

TORCHVISION_SWIN: Pairs = (
    ("features.0.0.{p}", "backbone.patch_embed.proj.{p}"),
    ("features.0.2.{p}", "backbone.patch_embed.norm.{p}"),
    *(
        row
        for i in range(MAX_STAGES)
        for row in (
            (f"features.{2 * i + 1}.{{n}}.mlp.0.{{p}}", f"backbone.stages.{i}.blocks.{{n}}.mlp.fc1.{{p}}"),
            (f"features.{2 * i + 1}.{{n}}.mlp.3.{{p}}", f"backbone.stages.{i}.blocks.{{n}}.mlp.fc2.{{p}}"),
            (f"features.{2 * i + 1}.{{n}}.{{r}}", f"backbone.stages.{i}.blocks.{{n}}.{{r}}"),
            (f"features.{2 * i + 2}.{{r}}", f"backbone.stages.{i}.downsample.{{r}}"),
        )
    ),
)

DERIVED: Rules = ((r".*\.(relative_position_index|attn_mask)", "follows from the window's size"),)
_UNUSED: Rules = (
    *DERIVED,
    (r"(norm|head|head_dist|fc_norm|pre_logits)\..*", "classifier and the norm before it: a detector has its own"),
    (r"(\w+_token|decoder_.*)", "of the pre-training: no map has it"),
)
_BLOCK = re.compile(
    r"(blocks|layers\.\d+\.blocks)\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12])\.(weight|bias)"
    r"|(blocks|layers\.\d+\.blocks)\.\d+\.(attn\.(rel_pos_[hw]|relative_position_\w+)|attn_mask)"
    r"|layers\.\d+\.downsample\..*"
)

_OTHER = re.compile(
    r"(patch_embed|norm\d?|fc_norm|pre_logits|head|head_dist|decoder_\w+)\..*|(pos_embed|\w+_token|decoder_pos_embed)"
)


@IMPORTERS.register()
class TransformerImporter(Importer):
    """Pre-trained ViTs and Swins as a model's backbone.

    A network whose blocks have other layers too (LayerScale, rotary positions, Swin's version 2) computes something
    else, and is not recognised. Absolute and relative positions of another size are interpolated.
    """

    name = "vision transformer"

    def recognises(self, names: Collection[str]) -> bool:
        inner = [name for name in names if name.startswith(("blocks.", "layers."))]
        known = all(_BLOCK.fullmatch(name) or _OTHER.fullmatch(name) for name in names)
        return "patch_embed.proj.weight" in names and bool(inner) and known

    def convert(self, state: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> Imported:
        late = not any(name.startswith("layers.0.downsample.") for name in state)
        imported = import_by_rules(state, to_ours([*(_LATE_MERGING if late else ()), *TRANSFORMER]), _UNUSED)
        place_backbone(imported, wanted)
        fit_positions(imported, wanted)
        return imported


def fit_positions(imported: Imported, wanted: Mapping[str, torch.Size]) -> None:
    """Interpolates what has a vector a place or a distance, where the model has another number of them."""
    for name, tensor in list(imported.model.items()):
        shape, kind = wanted.get(name), name.rpartition(".")[2]
        if shape is None or shape == tensor.shape or kind not in _RESIZED or len(shape) != tensor.ndim:
            continue
        resized = _RESIZED[kind](tensor, shape)
        if resized is not None and resized.shape == shape:
            imported.change(re.escape(name), lambda _, new=resized: new, "interpolated")  # type: ignore[misc]


def _places(tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """``(1, P, C)`` vectors of a square of places, with one of a class token before them or not."""
    ours, theirs = (number - math.isqrt(number) ** 2 for number in (shape[1], tensor.shape[1]))
    if ours > 1 or theirs > 1:
        return None  # more than one token that has no place
    grid = _grid(tensor[0, theirs:], math.isqrt(shape[1]))
    token = tensor[0, :1] if theirs else torch.zeros_like(tensor[0, :1])
    return torch.cat([token, grid])[1 - ours :][None]


def _offsets(tensor: Tensor, shape: torch.Size) -> Tensor:
    """``((2w - 1)^2, heads)`` numbers of the offsets in a window."""
    return _grid(tensor, math.isqrt(shape[0]))


def _distances(tensor: Tensor, shape: torch.Size) -> Tensor:
    """``(2w - 1, D)`` vectors of distances, as the network itself interpolates them."""
    return F.interpolate(tensor.float().T[None], size=shape[0], mode="linear")[0].T.to(tensor.dtype)


def _grid(rows: Tensor, side: int) -> Tensor:
    before = math.isqrt(len(rows))
    if before == side:
        return rows
    grid = rows.float().unflatten(0, (before, before)).permute(2, 0, 1)[None]
    resized = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return resized[0].permute(1, 2, 0).flatten(0, 1).to(rows.dtype)


_RESIZED = {
    "pos_embed": _places,
    "relative_position_bias_table": _offsets,
    "rel_pos_h": _distances,
    "rel_pos_w": _distances,
}
