"""Deformable attention: each query reads a few places of several maps, and adds them by weights."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def deformable_attention(value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Multi-scale deformable attention (Deformable DETR, Zhu et al. 2020, equation 3), without its linear layers.

    A part of your own computes value, locations and weights, and projects the result. B images, V places in all maps, M
    heads of C channels, Q queries, L maps, P points of each.

    Args:
        value: ``(B, V, M, C)``, map after map, row by row.
        sizes: height and width of each of the L maps.
        locations: ``(B, Q, M, L, P, 2)`` x and y, 0 and 1 at a map's edges. Between pixel centres values are mixed
            bilinearly; outside they are 0.
        weights: ``(B, Q, M, L, P)``, usually a softmax over the last two dimensions.

    Returns:
        ``(B, Q, M * C)``, head after head.

    Raises:
        ValueError: the maps do not have V places together, or the locations are of another number of maps.
    """
    places = [height * width for height, width in sizes]
    if sum(places) != value.shape[1] or len(sizes) != locations.shape[3]:
        raise ValueError(
            f"deformable_attention: sizes {[tuple(size) for size in sizes]} are {len(sizes)} maps of {sum(places)}"
            f" places, but value has {value.shape[1]} places and locations are of {locations.shape[3]} maps"
        )
    sampled = []
    for level, (part, size) in enumerate(zip(value.split(places, dim=1), sizes)):
        maps = part.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, tuple(size))  # (B * M, C, H, W)
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1  # (B * M, Q, P, 2)
        sampled.append(F.grid_sample(maps, grid, align_corners=False))  # (B * M, C, Q, P)
    by_head = weights.transpose(1, 2).flatten(0, 1).flatten(2)  # (B * M, Q, L * P)
    read = torch.einsum("bcqp,bqp->bqc", torch.cat(sampled, dim=3), by_head)
    return read.unflatten(0, value.shape[::2]).transpose(1, 2).flatten(2)
