"""Balanced sampling of foreground and background."""

import dataclasses

import torch
from torch import Tensor

from detkit.config import Count, Share


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How many candidates of an image are learned from, drawn at random.

    Args:
        batch_size_per_image: sampled candidates an image.
        positive_fraction: the largest share of foreground among them; background takes the rest.

    Raises:
        ValueError: a share that is not above 0 and at most 1, or a number below 1.
    """

    batch_size_per_image: Count
    positive_fraction: Share

    def __post_init__(self) -> None:
        if self.batch_size_per_image < 1:
            raise ValueError(f"batch_size_per_image: expected at least 1, got {self.batch_size_per_image}")
        if not 0 < self.positive_fraction <= 1:
            raise ValueError(f"positive_fraction: expected above 0 and at most 1, got {self.positive_fraction}")

    def max_positives(self, num_candidates: int) -> int:
        """The most foreground that is drawn of an image with so many candidates."""
        return min(num_candidates, int(self.batch_size_per_image * self.positive_fraction))

    def __call__(self, labels: Tensor, background: int) -> tuple[Tensor, Tensor]:
        """Draws from the A candidates of each of N images: those of the highest random numbers.

        Args:
            labels: ``(N, A)``: ``background``, -1 (never drawn), anything else is foreground.
            background: the label of background.

        Returns:
            ``(N, S)`` indices of candidates, with S the smaller of ``batch_size_per_image`` and A, and ``(N, S)`` bool:
            the index is valid, as there were so many candidates to draw. Foreground comes first, within the first
            ``max_positives(A)`` places, then background, then what is not valid.
        """
        size, max_positives = min(self.batch_size_per_image, labels.shape[1]), self.max_positives(labels.shape[1])
        priority = torch.rand(labels.shape, device=labels.device)  # 0..1, without 1
        is_background = labels == background
        foreground, chosen = priority.masked_fill((labels == -1) | is_background, -1.0).topk(max_positives, dim=1)
        # Foreground that is drawn goes before all background; the rest of it is out.
        priority = priority.masked_fill(~is_background, -1.0)
        priority.scatter_(1, chosen, torch.where(foreground >= 0, foreground + 1.0, priority.gather(1, chosen)))
        priority, index = priority.topk(size, dim=1)
        return index, priority >= 0

    def only_sampled(self, labels: Tensor, background: int) -> Tensor:
        """``labels`` (N, A) with -1 for all but a sample: see the call."""
        index, valid = self(labels, background)
        return torch.full_like(labels, -1).scatter(1, index, labels.gather(1, index).masked_fill(~valid, -1))


def is_foreground(classes: Tensor, num_classes: int) -> Tensor:
    """Bool: a class, and neither background (``num_classes``) nor ignored (-1)."""
    return (classes >= 0) & (classes < num_classes)
