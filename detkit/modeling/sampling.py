"""Balanced sampling of foreground and background."""

from collections.abc import Sequence

import torch
from torch import Tensor


def sample_balanced(
    labels: Sequence[Tensor], num: int, positive_fraction: float, background: int, *, fill: bool = True
) -> list[tuple[Tensor, Tensor]]:
    """Draws up to ``num`` entries an image, at most ``positive_fraction`` of them foreground.

    With too little background the sample is smaller than ``num``. The images' entries are looked through together, so
    that the host waits for a GPU three times a batch.

    Args:
        labels: an image: ``(N,)``: ``background``, -1 (never drawn), anything else is foreground.
        num: size of an image's sample.
        positive_fraction: the largest share of foreground.
        background: the label of background.
        fill: background fills what foreground leaves; False: there is only as much background as keeps the fraction,
            and without foreground none (matterport).

    Returns:
        An image: indices of the drawn foreground and background.
    """
    if not labels:
        return []
    counts = torch.stack([torch.stack([(of == -1).sum(), (of == background).sum()]) for of in labels]).tolist()
    negatives = [num_negative for _, num_negative in counts]
    positives = [len(of) - sum(numbers) for of, numbers in zip(labels, counts)]
    every, start = torch.cat(list(labels)), 0
    positive = torch.nonzero((every != -1) & (every != background)).squeeze(1).split(positives)
    negative = torch.nonzero(every == background).squeeze(1).split(negatives)
    drawn = []
    for of, foreground, rest in zip(labels, positive, negative):
        num_positive = min(len(foreground), int(num * positive_fraction))
        wanted = num - num_positive
        if not fill:
            wanted = min(wanted, int(num_positive * (1 / positive_fraction) - num_positive))
        num_negative = min(len(rest), wanted)
        drawn.append((_draw(foreground, num_positive) - start, _draw(rest, num_negative) - start))
        start += len(of)
    return drawn


def _draw(indices: Tensor, num: int) -> Tensor:
    if num == len(indices):
        return indices
    return indices[torch.randperm(len(indices), device=indices.device)[:num]]
