"""Fillers: rows that stand for nothing, so that nobody has to ask a GPU how many rows there are.

On a GPU the host computes ahead, until it asks how many rows something has. So that it need not, what is selected or
sampled in training has a fixed number of rows there, and the last ones may be fillers: proposals of objectness minus
infinity, samples of class -1. They only go to parts whose ``takes_fillers`` is true. A part that writes its own
``loss`` says so anew; one that does not never meets them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from detkit.structures import Instances

METHODS = {"loss", "sample", "counts"}
"""Who writes one of these may meet fillers in it."""


class MayTakeFillers(nn.Module):
    """A part that fillers may be given to.

    Attributes:
        takes_fillers: they count for nothing in ``loss`` and change nothing for other rows. False for a class that
            writes a method of ``METHODS``, or inherits it from one that does not speak of fillers (a mixin, say),
            unless it says otherwise itself.
    """

    takes_fillers: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        nearest = next(base for base in cls.__mro__ if {"takes_fillers", *METHODS} & vars(base).keys())
        if "takes_fillers" not in vars(nearest):
            cls.takes_fillers = False


def without_fillers(proposals: Sequence[Instances]) -> list[Instances]:
    """The proposals alone; those without ``objectness`` have no fillers. The host waits for a GPU, once a batch."""
    if not all("objectness" in of_image for of_image in proposals) or not proposals:
        return list(proposals)
    numbers = torch.stack([(of_image.objectness != -torch.inf).sum() for of_image in proposals]).tolist()
    return [of_image[:number] for of_image, number in zip(proposals, numbers)]
