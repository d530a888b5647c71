"""The Swin transformer as a backbone."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import Count, Interval, Length, Positive
from detkit.layers import ShapeSpec, freeze
from detkit.modeling.backbones.transformer import (
    PatchEmbed,
    TransformerBlock,
    WindowAttention,
    apply_block,
    check_heads,
    drop_path_rates,
    init_linear,
)
from detkit.modeling.interfaces import BACKBONES, Backbone, Features

PATCH_SIZE = 4
_EPS = 1e-5


class ShiftedWindowAttention(WindowAttention):
    """Attention in windows with a learned term for each offset of query and key (Liu et al. 2021, section 3.2).

    Where windows are shifted around the edge, tokens from its two sides do not see each other.

    Args:
        channels, num_heads, bias, window, shift: see ``WindowAttention``.
    """

    index: Tensor

    def __init__(self, channels: int, num_heads: int, *, bias: bool, window: int, shift: int):
        super().__init__(channels, num_heads, bias=bias, window=window, shift=shift)
        offsets = 2 * window - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets**2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        down, right = (p.flatten()[:, None] - p.flatten() + window - 1 for p in (y, x))
        self.register_buffer("index", down * offsets + right, persistent=False)

    def scores(self, queries: Tensor, window: tuple[int, int], padded: tuple[int, int]) -> Tensor:
        """See ``WindowAttention.scores``."""
        learned = self.relative_position_bias_table[self.index].permute(2, 0, 1)
        if not self.shift:
            return learned[None]
        apart = self._apart(window[0], padded, queries.device)
        added = learned - 100.0 * apart[:, None]  # (windows, heads, L, L)
        return added.repeat(queries.shape[0] // apart.shape[0], 1, 1, 1)

    def _apart(self, window: int, padded: tuple[int, int], device: torch.device) -> Tensor:
        """``(windows, L, L)`` whether two tokens of a window come from different sides of the map's edge."""
        down, right = (torch.arange(side, device=device) >= side - self.shift for side in padded)
        sides = 2 * down[:, None].int() + right.int()
        tokens = sides.unflatten(1, (-1, window)).unflatten(0, (-1, window)).transpose(1, 2).reshape(-1, window**2)
        return tokens[:, :, None] != tokens[:, None]


class PatchMerging(nn.Module):
    """Four neighbouring tokens become one of twice the channels; odd sides are padded.

    Args:
        channels: of a token that comes in.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels, eps=_EPS)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, H, W, C)`` -> ``(N, H/2, W/2, 2C)``."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # N, H/2, down, W/2, right, C
        return self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))


class Stage(nn.Module):
    """Blocks whose windows are shifted by half every second time.

    Args:
        channels: of a token.
        num_heads: of each block.
        window: side of a window in tokens.
        mlp_ratio: hidden channels of an MLP for each of a token.
        bias: whether queries, keys and values have one.
        drop_path: rate of each block.
        downsample: whether a ``PatchMerging`` follows.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        window: int,
        mlp_ratio: float,
        bias: bool,
        drop_path: list[float],
        downsample: bool,
    ):
        super().__init__()
        self.blocks = nn.ModuleList()
        for i, rate in enumerate(drop_path):
            shift = window // 2 if i % 2 else 0
            attn = ShiftedWindowAttention(channels, num_heads, bias=bias, window=window, shift=shift)
            self.blocks.append(TransformerBlock(channels, attn, mlp_ratio=mlp_ratio, drop_path=rate, eps=_EPS))
        self.downsample = PatchMerging(channels) if downsample else None


@BACKBONES.register()
class Swin(Backbone):
    """Swin transformer (Liu et al. 2021, arXiv:2103.14030), version 1. The defaults are Swin-T's.

    Its maps are called ``res2`` .. ``res5`` after a ResNet's of the same stride (4, 8, 16, 32), and each has a norm of
    its own. A stage that is not needed for ``out_features`` is not built. Sides need not be multiples of anything: odd
    ones are padded. The published weights are taken as they are, from torchvision, timm and its authors.

    Args:
        embed_dim: channels of the first stage; they double from stage to stage.
        depths: blocks of each stage.
        num_heads: heads of each stage's attention.
        window_size: side of a window in tokens.
        mlp_ratio: hidden channels of an MLP for each of a token.
        qkv_bias: whether queries, keys and values have a bias.
        out_features: the maps to give.
        drop_path: share of the images for which the last block's branches are left out in training; it grows to this
            from 0 at the first block.
        freeze_at: how much of the network does not learn: 0 nothing, 1 the patches, 2 the first stage as well, up to 5.
        checkpoint_activations: the activations of a block are computed again in the backward pass, not kept: less
            memory, more time.

    Raises:
        ValueError: ``depths`` and ``num_heads`` of different lengths, heads that do not divide a stage's channels, an
            unknown map, no map, or ``freeze_at`` beyond the last stage.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        embed_dim: Count = 96,
        depths: Annotated[tuple[Count, ...], Length(1)] = (2, 2, 6, 2),
        num_heads: Annotated[tuple[Count, ...], Length(1)] = (3, 6, 12, 24),
        window_size: Count = 7,
        mlp_ratio: Positive = 4.0,
        qkv_bias: bool = True,
        out_features: tuple[str, ...] = ("res2", "res3", "res4", "res5"),
        drop_path: Annotated[float, Interval(0, 1, below=True)] = 0.2,
        freeze_at: Annotated[int, Interval(0, 5)] = 0,
        checkpoint_activations: bool = False,
    ):
        super().__init__(input_shape)
        self.check_options(
            {
                "embed_dim": embed_dim,
                "depths": depths,
                "num_heads": num_heads,
                "out_features": out_features,
                "freeze_at": freeze_at,
            }
        )
        names = _map_names(depths)
        self.checkpoint_activations = checkpoint_activations
        self.patch_embed = PatchEmbed(input_shape.channels, embed_dim, PATCH_SIZE, norm=True)
        self.stages, self.norms, self.output_shape = nn.ModuleList(), nn.ModuleDict(), {}
        rates = drop_path_rates(drop_path, sum(depths))
        for i in range(max(map(names.index, out_features)) + 1):
            channels = embed_dim * 2**i
            stage = Stage(
                channels,
                num_heads[i],
                window=window_size,
                mlp_ratio=mlp_ratio,
                bias=qkv_bias,
                drop_path=rates[sum(depths[:i]) : sum(depths[: i + 1])],
                downsample=any(name in out_features for name in names[i + 1 :]),
            )
            self.stages.append(stage)
            if names[i] in out_features:
                self.norms[names[i]] = nn.LayerNorm(channels, eps=_EPS)
                stride = input_shape.stride * PATCH_SIZE * 2**i
                self.output_shape[names[i]] = ShapeSpec(channels=channels, stride=stride)
        init_linear(self)
        for name in ["patch_embed", *(f"stages.{i}" for i in range(len(self.stages)))][:freeze_at]:
            freeze(self.get_submodule(name))

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Called when a config is loaded. Raises ValueError as the constructor does."""
        depths, heads, chosen = options["depths"], options["num_heads"], options["out_features"]
        if len(depths) != len(heads):
            raise ValueError(f"num_heads: expected one for each of {len(depths)} depths, got {list(heads)}")
        names = _map_names(depths)
        if not chosen or not set(chosen) <= set(names):
            raise ValueError(f"out_features: expected some of {', '.join(names)}, got {list(chosen)}")
        for i in range(len(depths)):
            check_heads(options["embed_dim"] * 2**i, heads[i])
        most = max(map(names.index, chosen)) + 2
        if options["freeze_at"] > most:
            freeze_at = options["freeze_at"]
            raise ValueError(f"freeze_at: expected 0 (nothing) to {most} (all that is built), got {freeze_at}")

    @classmethod
    def strides(cls, options: Mapping[str, Any]) -> dict[str, int] | None:
        """See ``Backbone.strides``."""
        known = {f"res{i + 2}": PATCH_SIZE * 2**i for i in range(len(options["depths"]))}
        names = [name for name in known if name in options["out_features"]]
        return {name: known[name] for name in names} if len(names) == len(options["out_features"]) else None

    def layers(self) -> list[list[str]]:
        """See ``Backbone.layers``: patches, then block by block; merging goes with the block before it."""
        layers = [["patch_embed"]]
        for i, stage in enumerate(self.stages):
            layers += [[f"stages.{i}.blocks.{j}"] for j in range(len(stage.blocks))]  # type: ignore[arg-type]
            layers[-1].append(f"stages.{i}.downsample")
        return layers

    def added_layers(self) -> list[str]:
        """See ``Backbone.added_layers``: the norms of the maps."""
        return ["norms"]

    def forward(self, images: Tensor) -> Features:
        """``(N, C, H, W)`` -> map's name -> ``(N, C', H/s, W/s)``, sides rounded up."""
        x, features = self.patch_embed(images), {}
        for i, stage in enumerate(self.stages, start=2):
            for block in stage.blocks:  # type: ignore[union-attr]
                x = apply_block(block, x, self.checkpoint_activations)
            if f"res{i}" in self.output_shape:
                features[f"res{i}"] = self.norms[f"res{i}"](x).permute(0, 3, 1, 2)
            if stage.downsample is not None:
                x = stage.downsample(x)  # type: ignore[operator]
        return features


def _map_names(depths: Sequence[int]) -> list[str]:
    return [f"res{i + 2}" for i in range(len(depths))]
