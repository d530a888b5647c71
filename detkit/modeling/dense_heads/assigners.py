"""Assigners: which anchors of a one-stage detector learn which object. A anchors of all levels, G objects."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from detkit.config import Positive, Recipe
from detkit.layers import box_ops
from detkit.modeling.box_coder import distances_to_sides
from detkit.modeling.interfaces import ASSIGNERS, AnchorGenerator, Assigner
from detkit.modeling.matcher import Matcher
from detkit.structures import Boxes, Instances


@ASSIGNERS.register()
class IoUAssigner(Assigner):
    """An anchor learns the object that it overlaps most (RetinaNet, Lin et al. 2017, section 4).

    Args:
        matcher: from which IoU on.
    """

    def __init__(self, *, matcher: Matcher = Matcher(0.4, 0.5, allow_low_quality=True)):
        self.matcher = matcher

    def __call__(self, anchors: Sequence[Boxes], target: Instances) -> tuple[Tensor, Tensor]:
        """See ``Assigner.__call__``."""
        return self.matcher.match(Boxes.cat(anchors), target)


@ASSIGNERS.register()
class CentreAssigner(Assigner):
    """An anchor learns the smallest object that it is in the middle of, at the level of the object's size (FCOS, Tian
    et al. 2019, with centre sampling). Of objects whose areas differ by less than 8 pixels it may be the first.

    The anchors are squares, one a cell, and sizes are in units of their side. An object is for the level on which the
    longest of the four distances from the anchor's centre to its sides lies between ``reach``; the finest level takes
    all smaller ones too, and the coarsest all larger ones.

    Args:
        radius: the anchor's centre is in the object, and no farther from its centre than this in x and in y.
        reach: the shortest and the longest distance.
        ignore_crowds: a background anchor with its centre in a crowd's box learns nothing; false: crowds mean nothing.
            Needs data that keep their crowds (``data.keep_crowd``).
    """

    crowd_option: ClassVar[str] = "ignore_crowds"

    def __init__(
        self,
        *,
        radius: Positive = 1.5,
        reach: tuple[Positive, Positive] = (4.0, 8.0),
        ignore_crowds: bool = False,
    ):
        self.radius, self.reach, self.ignore_crowds = radius, reach, ignore_crowds

    @classmethod
    def check_anchors(cls, generator: Recipe[AnchorGenerator]) -> None:
        """See ``Assigner.check_anchors``: it needs one square a cell."""
        given = generator.kwargs
        several = given.get("octave_scales", 1) > 1 or any(len(sizes) > 1 for sizes in given.get("sizes", ()))
        if several or given.get("aspect_ratios", (1.0,)) not in ((1.0,), ((1.0,),)):
            raise ValueError(
                f"anchor_generator: {cls.__name__} needs one square a cell, and this {generator.cls.__name__} gives"
                " others; write {name: CellAnchorGenerator} here, or assigner: {name: IoUAssigner}"
            )

    def __call__(self, anchors: Sequence[Boxes], target: Instances) -> tuple[Tensor, Tensor]:
        """See ``Assigner.__call__``."""
        boxes = Boxes.cat(list(anchors)).tensor
        points, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2] - boxes[:, 0]
        shortest, longest = (sides * factor for factor in self.reach)
        shortest[: len(anchors[0])] = 0.0
        longest[len(boxes) - len(anchors[-1]) :] = torch.inf
        rows = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        labels = torch.zeros_like(rows, dtype=torch.int8)
        if len(target):
            truth = target.boxes.tensor
            # a part of the anchors at a time, as the matcher does
            step = max(1, box_ops.PAIRS_AT_ONCE // (4 * len(truth)))
            parts = zip(*(x.split(step) for x in (points, self.radius * sides, shortest, longest)))
            areas = [self._areas(truth, *part).min(dim=0) for part in parts]
            rows = torch.cat([area.indices for area in areas])
            labels = torch.cat([area.values for area in areas]).isfinite().to(torch.int8)
        crowds = target.info.crowds
        if self.ignore_crowds and crowds is not None and len(crowds):
            inside = (distances_to_sides(points[:, None], crowds.tensor[None]) > 0).all(dim=2).any(dim=1)
            labels.masked_fill_((labels == 0) & inside, -1)
        return rows, labels

    def _areas(self, truth: Tensor, points: Tensor, near: Tensor, shortest: Tensor, longest: Tensor) -> Tensor:
        """``(G, A)``: the area of the object where the anchor may learn it, else infinity."""
        centres = (truth[:, :2] + truth[:, 2:]) / 2
        fits = (points - centres[:, None]).abs().amax(dim=2) < near
        distances = distances_to_sides(points[None], truth[:, None])
        farthest = distances.amax(dim=2)
        fits &= (distances.amin(dim=2) > 0) & (farthest > shortest) & (farthest < longest)
        areas = (truth[:, 2] - truth[:, 0]) * (truth[:, 3] - truth[:, 1])
        # Detectron2 and torchvision look for the largest 1e8 - area, in float32: a difference below 8 is none there.
        areas = 1e8 - (1e8 - areas)
        return areas[:, None].expand_as(fits).masked_fill(~fits, torch.inf)
