"""Balanced sampling of foreground and background."""

import torch
from torch import Tensor


def sample_balanced(
    labels: Tensor, num: int, positive_fraction: float, background: int, *, fill: bool = True
) -> tuple[Tensor, Tensor]:
    """Draws up to ``num`` of the A entries of each of N images, at most ``positive_fraction`` of them foreground.

    The result is as large as the largest sample may be, so that nobody has to wait for a GPU to say how many entries
    were found; where too few were, the last places are empty. Every entry gets a random number, and those of the
    highest are drawn.

    Args:
        labels: ``(N, A)``: ``background``, -1 (never drawn), anything else is foreground.
        num: size of an image's sample.
        positive_fraction: the largest share of foreground.
        background: the label of background.
        fill: background fills what foreground leaves; False: there is only as much background as keeps the fraction,
            and without foreground none (matterport).

    Returns:
        ``(N, S)`` indices of entries, with S the smaller of ``num`` and A: foreground, background, empty places; and
        ``(N, S)`` bool: the place is not empty. Foreground is within the first ``most_foreground`` places.
    """
    size = min(num, labels.shape[1])
    most = most_foreground(size, num, positive_fraction)
    chance = torch.rand(labels.shape, device=labels.device)  # 0..1, without 1
    is_background = labels == background
    foreground, chosen = chance.masked_fill((labels == -1) | is_background, -1.0).topk(most, dim=1)
    # Foreground that is drawn goes before all background, foreground that is not is no longer in question.
    rank = chance.masked_fill(~is_background, -1.0)
    rank.scatter_(1, chosen, torch.where(foreground >= 0, foreground + 1.0, rank.gather(1, chosen)))
    rank, index = rank.topk(size, dim=1)
    drawn = rank >= 0
    if not fill:
        found = (foreground >= 0).sum(dim=1, keepdim=True)
        exact = torch.float32 if labels.device.type == "mps" else torch.float64  # the references count in doubles
        wanted = (found.to(exact) * (1 / positive_fraction) - found).floor()
        drawn &= torch.arange(size, device=labels.device) < found + wanted
    return index, drawn


def most_foreground(size: int, num: int, positive_fraction: float) -> int:
    """How many of the first ``size`` places of a sample of ``num`` can be foreground."""
    return min(size, int(num * positive_fraction))


def is_foreground(classes: Tensor, num_classes: int) -> Tensor:
    """Bool: a class, and neither background (``num_classes``) nor a filler or ignored (-1)."""
    return (classes >= 0) & (classes < num_classes)
