"""The plain vision transformer as a backbone (ViTDet)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import Count, CountOrZero, Interval, Positive
from detkit.layers import LN, ConvNorm, ShapeSpec, freeze
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


@dataclasses.dataclass(frozen=True)
class Windows:
    """Which blocks look at windows of the map instead of all of it.

    Args:
        size: side of a window in tokens.
        global_blocks: the blocks that look at the whole map, counted from 0.
    """

    size: Count = 14
    global_blocks: tuple[CountOrZero, ...] = (2, 5, 8, 11)


@dataclasses.dataclass(frozen=True)
class AbsolutePositions:
    """A vector that is added to each token by its place. Maps of another size get them interpolated (bicubic).

    Args:
        image_size: side in pixels of the images that the network was pre-trained on.
        class_token: whether the weights have a vector for a class token, which no map has.
    """

    image_size: Count = 224
    class_token: bool = True


@dataclasses.dataclass(frozen=True)
class RelativePositions:
    """What attention adds for the distance of query and key, down and to the right (Li et al. 2021, MViTv2).

    Args:
        image_size: side in pixels of the images that global blocks have a vector a distance for; maps of another size
            get them interpolated.
    """

    image_size: Count = 1024


class RelativeAttention(WindowAttention):
    """``WindowAttention`` whose scores have a term for the distance of query and key (MViTv2, equation 4).

    Args:
        channels, num_heads, bias, window: see ``WindowAttention``.
        side: tokens in a row that there are vectors for; None for no such term.
    """

    rel_pos_h: nn.Parameter | None
    rel_pos_w: nn.Parameter | None

    def __init__(self, channels: int, num_heads: int, *, bias: bool, window: int | None, side: int | None):
        super().__init__(channels, num_heads, bias=bias, window=window)
        for name in ("rel_pos_h", "rel_pos_w"):
            table = None if side is None else nn.Parameter(torch.zeros(2 * side - 1, channels // num_heads))
            self.register_parameter(name, table)

    def scores(self, queries: Tensor, window: tuple[int, int], padded: tuple[int, int]) -> Tensor | None:
        """See ``WindowAttention.scores``."""
        if self.rel_pos_h is None or self.rel_pos_w is None:
            return None
        queries = queries.unflatten(2, window)
        down = torch.einsum("bhyxd,ykd->bhyxk", queries, _by_distance(self.rel_pos_h, window[0]))
        right = torch.einsum("bhyxd,xkd->bhyxk", queries, _by_distance(self.rel_pos_w, window[1]))
        return (down[..., :, None] + right[..., None, :]).flatten(4, 5).flatten(2, 3)


class ResidualBlock(nn.Module):
    """``x + conv(conv(conv(x)))``: 1x1, 3x3 on half of the channels, 1x1. It starts as ``x``.

    Args:
        channels: in and out.
    """

    def __init__(self, channels: int):
        super().__init__()
        inner = channels // 2
        self.conv1 = ConvNorm(channels, inner, 1, norm=LN, activation=nn.GELU())
        self.conv2 = ConvNorm(inner, inner, 3, norm=LN, activation=nn.GELU())
        self.conv3 = ConvNorm(inner, channels, 1, norm=LN)
        nn.init.zeros_(self.conv3.norm.weight)  # type: ignore[union-attr, arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """``(N, H, W, C)`` -> the same shape."""
        maps = x.permute(0, 3, 1, 2)
        return (maps + self.conv3(self.conv2(self.conv1(maps)))).permute(0, 2, 3, 1)


class Block(TransformerBlock):
    """A ``TransformerBlock``, with a ``ResidualBlock`` behind it or none.

    Args:
        channels, attn, mlp_ratio, drop_path: see ``TransformerBlock``.
        residual: whether there is one.
    """

    def __init__(self, channels: int, attn: nn.Module, *, mlp_ratio: float, drop_path: float, residual: bool):
        super().__init__(channels, attn, mlp_ratio=mlp_ratio, drop_path=drop_path, eps=1e-6)
        self.residual = ResidualBlock(channels) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """``(N, H, W, C)`` -> the same shape."""
        x = super().forward(x)
        return x if self.residual is None else self.residual(x)


@BACKBONES.register()
class ViT(Backbone):
    """Vision transformer (Dosovitskiy et al. 2020) with windows (Li, Mao, Girshick, He 2022, ViTDet, arXiv:2203.16527).

    Its one map is called after its stride: ``res4`` for patches of 16 pixels. Images may be of any size, square or not.
    ``SimpleFeaturePyramid`` makes levels of it. The defaults are ViT-B's. Weights of MAE are taken as they are.

    Args:
        embed_dim: channels of a token.
        depth: number of blocks.
        num_heads: heads of each block's attention.
        mlp_ratio: hidden channels of an MLP for each of a token.
        qkv_bias: whether queries, keys and values have a bias.
        patch_size: side in pixels of the patch that becomes a token.
        windows: which blocks look at windows alone; null: every block looks at the whole map.
        absolute_positions: vectors added to the tokens by their place; null for none.
        relative_positions: terms of the attention by distance; null for none.
        residual_blocks: blocks that a convolutional block follows, counted from 0.
        drop_path: share of the images for which the last block's branches are left out in training; it grows to this
            from 0 at the first block.
        freeze_at: how much of the network does not learn: 0 nothing, 1 patches and absolute positions, 2 the first
            block as well, and so on.
        square_size: images are padded to squares of this side, as ViTDet does; null: as they are.
        checkpoint_activations: the activations of a block are computed again in the backward pass, not kept: less
            memory, more time.

    Raises:
        ValueError: heads that do not divide ``embed_dim``, a block that there is not, positions for images smaller than
            a patch, or ``freeze_at`` beyond the last block.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        embed_dim: Count = 768,
        depth: Count = 12,
        num_heads: Count = 12,
        mlp_ratio: Positive = 4.0,
        qkv_bias: bool = True,
        patch_size: Count = 16,
        windows: Windows | None = Windows(),
        absolute_positions: AbsolutePositions | None = AbsolutePositions(),
        relative_positions: RelativePositions | None = RelativePositions(),
        residual_blocks: tuple[CountOrZero, ...] = (),
        drop_path: Annotated[float, Interval(0, 1, below=True)] = 0.1,
        freeze_at: CountOrZero = 0,
        square_size: Count | None = None,
        checkpoint_activations: bool = False,
    ):
        super().__init__(input_shape)
        self.check_options(
            {
                "embed_dim": embed_dim,
                "depth": depth,
                "num_heads": num_heads,
                "patch_size": patch_size,
                "windows": windows,
                "absolute_positions": absolute_positions,
                "relative_positions": relative_positions,
                "residual_blocks": residual_blocks,
                "freeze_at": freeze_at,
            }
        )
        self._square_size, self.checkpoint_activations = square_size, checkpoint_activations
        self.patch_embed = PatchEmbed(input_shape.channels, embed_dim, patch_size, norm=False)
        self.absolute_positions, self.pos_embed = absolute_positions, None
        if absolute_positions is not None:
            number = (absolute_positions.image_size // patch_size) ** 2 + absolute_positions.class_token
            self.pos_embed = nn.Parameter(torch.zeros(1, number, embed_dim))
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.ModuleList()
        for i, rate in enumerate(drop_path_rates(drop_path, depth)):
            window = windows.size if windows is not None and i not in windows.global_blocks else None
            side = None if relative_positions is None else window or relative_positions.image_size // patch_size
            attn = RelativeAttention(embed_dim, num_heads, bias=qkv_bias, window=window, side=side)
            residual = i in residual_blocks
            self.blocks.append(Block(embed_dim, attn, mlp_ratio=mlp_ratio, drop_path=rate, residual=residual))
        init_linear(self)
        stride = input_shape.stride * patch_size
        self.output_shape = {f"res{round(math.log2(stride))}": ShapeSpec(channels=embed_dim, stride=stride)}
        for name in [name for layer in self.layers()[:freeze_at] for name in layer]:
            if name == "pos_embed" and self.pos_embed is not None:
                self.pos_embed.requires_grad_(False)
            elif name != "pos_embed":
                freeze(self.get_submodule(name))

    @property
    def square_size(self) -> int | None:
        """See ``Backbone.square_size``."""
        return self._square_size

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Called when a config is loaded. Raises ValueError as the constructor does."""
        depth, patch_size, windows = options["depth"], options["patch_size"], options["windows"]
        check_heads(options["embed_dim"], options["num_heads"])
        named = {"windows.global_blocks": windows.global_blocks if windows else ()}
        for option, blocks in {**named, "residual_blocks": options["residual_blocks"]}.items():
            if blocks and max(blocks) >= depth:
                raise ValueError(f"{option}: expected blocks from 0 to {depth - 1}, got {max(blocks)} (depth {depth})")
        for option in ("absolute_positions", "relative_positions"):
            positions = options[option]
            if positions is not None and positions.image_size < patch_size:
                raise ValueError(f"{option}.image_size: expected at least a patch of {patch_size} pixels")
        if options["freeze_at"] > depth + 1:
            raise ValueError(f"freeze_at: expected 0 (nothing) to {depth + 1} (everything), got {options['freeze_at']}")

    @classmethod
    def strides(cls, options: Mapping[str, Any]) -> dict[str, int] | None:
        """See ``Backbone.strides``."""
        return {f"res{round(math.log2(options['patch_size']))}": options["patch_size"]}

    def layers(self) -> list[list[str]]:
        """See ``Backbone.layers``: patches with positions, then block by block."""
        return [["patch_embed", "pos_embed"], *([f"blocks.{i}"] for i in range(len(self.blocks)))]

    def added_layers(self) -> list[str]:
        """See ``Backbone.added_layers``: the convolutional blocks."""
        return [name for name, part in self.named_modules() if isinstance(part, ResidualBlock)]

    def forward(self, images: Tensor) -> Features:
        """``(N, C, H, W)`` -> the map's name -> ``(N, embed_dim, H/patch_size, W/patch_size)``."""
        x = self.patch_embed(images)
        if self.pos_embed is not None:
            x = x + self._positions(x.shape[1], x.shape[2])
        for block in self.blocks:
            x = apply_block(block, x, self.checkpoint_activations)
        return dict.fromkeys(self.output_shape, x.permute(0, 3, 1, 2))

    def _positions(self, height: int, width: int) -> Tensor:
        """``(1, height, width, embed_dim)``."""
        assert self.pos_embed is not None
        assert self.absolute_positions is not None
        vectors = self.pos_embed[:, 1:] if self.absolute_positions.class_token else self.pos_embed
        side = math.isqrt(vectors.shape[1])
        grid = vectors.unflatten(1, (side, side))
        if (height, width) == (side, side):
            return grid
        resized = F.interpolate(grid.permute(0, 3, 1, 2), size=(height, width), mode="bicubic", align_corners=False)
        return resized.permute(0, 2, 3, 1)


def _by_distance(table: Tensor, side: int) -> Tensor:
    """``(side, side, D)`` vectors of each query and key in a row of tokens, of the ``(2S - 1, D)`` of all distances."""
    if len(table) != 2 * side - 1:
        table = F.interpolate(table.T[None], size=2 * side - 1, mode="linear")[0].T
    places = torch.arange(side, device=table.device)
    return table[places[:, None] - places + side - 1]
