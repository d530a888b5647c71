"""Balanced sampling of foreground and background."""

import torch
from torch import Tensor


def sample_balanced(
    labels: Tensor, num: int, positive_fraction: float, background: int, *, fill: bool = True
) -> tuple[Tensor, Tensor]:
    """Draws up to ``num`` entries, at most ``positive_fraction`` of them foreground.

    With too little background the sample is smaller than ``num``.

    Args:
        labels: ``(N,)``: ``background``, -1 (never drawn), anything else is foreground.
        num: size of the sample.
        positive_fraction: the largest share of foreground.
        background: the label of background.
        fill: background fills what foreground leaves; False: there is only as much background as keeps the fraction,
            and without foreground none (matterport).

    Returns:
        Indices of the drawn foreground and background.
    """
    positive = torch.nonzero((labels != -1) & (labels != background)).squeeze(1)
    negative = torch.nonzero(labels == background).squeeze(1)
    num_positive = min(len(positive), int(num * positive_fraction))
    wanted = num - num_positive
    if not fill:
        wanted = min(wanted, int(num_positive * (1 / positive_fraction) - num_positive))
    num_negative = min(len(negative), wanted)
    return _draw(positive, num_positive), _draw(negative, num_negative)


def _draw(indices: Tensor, num: int) -> Tensor:
    if num == len(indices):
        return indices
    return indices[torch.randperm(len(indices), device=indices.device)[:num]]
