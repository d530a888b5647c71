"""What vision transformers are made of. Maps are (N, H, W, C) here; L are the tokens of a window or of a whole map."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth


class PatchEmbed(nn.Module):
    """A strided convolution that gives each square patch of an image a token; sides are padded to whole patches.

    Args:
        in_channels: channels of the images.
        channels: of a token.
        patch_size: side of a patch in pixels.
        norm: whether tokens are normalised.
    """

    def __init__(self, in_channels: int, channels: int, patch_size: int, *, norm: bool):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, channels, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(channels) if norm else None

    def forward(self, images: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> ``(N, H/patch_size, W/patch_size, channels)``."""
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            images = F.pad(images, (0, -width % self.patch_size, 0, -height % self.patch_size))
        x = self.proj(images).permute(0, 2, 3, 1).contiguous()
        return x if self.norm is None else self.norm(x)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, on each token.

    Args:
        channels: of a token.
        hidden: channels between the layers.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., channels)`` -> the same shape."""
        return self.fc2(F.gelu(self.fc1(x)))


class WindowAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017) within windows of a map, or over all of it.

    The map is padded with zeros to whole windows. These tokens take part, as in ViTDet and Swin.

    Args:
        channels: of a token.
        num_heads: that share them.
        bias: whether queries, keys and values have one.
        window: side of a window in tokens; None: the map is one window.
        shift: by how many tokens the windows are moved down and to the right, around the map's edge.

    Raises:
        ValueError: the heads do not divide the channels.
    """

    def __init__(self, channels: int, num_heads: int, *, bias: bool, window: int | None, shift: int = 0):
        super().__init__()
        check_heads(channels, num_heads)
        self.num_heads, self.window, self.shift = num_heads, window, shift
        self.qkv = nn.Linear(channels, 3 * channels, bias=bias)
        self.proj = nn.Linear(channels, channels)

    def scores(self, queries: Tensor, window: tuple[int, int], padded: tuple[int, int]) -> Tensor | None:
        """What is added to the scores of query and key, broadcast to ``(B, heads, L, L)``; None for nothing.

        Args:
            queries: ``(B, heads, L, D)``: B windows, image by image, then row by row.
            window: ``(height, width)`` of a window in tokens.
            padded: ``(height, width)`` of the map that was cut into windows.
        """
        return None

    def forward(self, x: Tensor) -> Tensor:
        """``(N, H, W, C)`` -> the same shape."""
        size = x.shape[1], x.shape[2]
        rows, columns = window = (self.window, self.window) if self.window else size
        padded = (size[0] + rows - 1) // rows * rows, (size[1] + columns - 1) // columns * columns
        x = F.pad(x, (0, 0, 0, padded[1] - size[1], 0, padded[0] - size[0]))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        x = x.unflatten(2, (-1, columns)).unflatten(1, (-1, rows)).transpose(2, 3)  # N, down, right, rows, columns, C
        grid = x.shape[:5]
        qkv = self.qkv(x.reshape(-1, rows * columns, x.shape[-1]))
        queries, keys, values = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        added = self.scores(queries, window, padded)
        x = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=None if added is None else added.to(queries.dtype)
        )
        x = self.proj(x.transpose(1, 2).flatten(2)).reshape(*grid, -1).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, : size[0], : size[1]]


class TransformerBlock(nn.Module):
    """``x + attn(norm(x))``, then ``x + mlp(norm(x))``.

    Args:
        channels: of a token.
        attn: the attention.
        mlp_ratio: hidden channels of the MLP for each of a token.
        drop_path: share of the images for which a branch is left out in training (Huang et al. 2016).
        eps: of the norms.
    """

    def __init__(self, channels: int, attn: nn.Module, *, mlp_ratio: float, drop_path: float, eps: float):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(channels, eps=eps), attn
        self.drop_path = StochasticDepth(drop_path, "row")
        self.norm2, self.mlp = nn.LayerNorm(channels, eps=eps), Mlp(channels, int(channels * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, H, W, C)`` -> the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def check_heads(channels: int, num_heads: int) -> None:
    """Raises ValueError where the heads of an attention do not divide its channels."""
    if channels % num_heads:
        raise ValueError(f"num_heads: expected a number that divides {channels} channels, got {num_heads}")


def drop_path_rates(largest: float, depth: int) -> list[float]:
    """Rates of ``depth`` blocks: from 0 up to the largest, evenly."""
    return [largest * i / max(depth - 1, 1) for i in range(depth)]


def apply_block(block: Callable[[Tensor], Tensor], x: Tensor, checkpoint_activations: bool) -> Tensor:
    """``block(x)``; with ``checkpoint_activations`` its activations are computed again in the backward pass."""
    recompute = checkpoint_activations and torch.is_grad_enabled()
    return checkpoint(block, x, use_reentrant=False) if recompute else block(x)


def init_linear(network: nn.Module) -> None:
    """Linear layers as all of these networks begin: weights around 0 with a deviation of 0.02, biases of 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
