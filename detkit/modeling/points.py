"""Maps and masks sampled at points between pixels, and the choice of points (PointRend, Kirillov et al. 2020).

R boxes, P points a box. A point is x, y in its box, from 0 at the left and top sides to 1 at the others.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from detkit.config import Count, Fraction, Interval
from detkit.structures import Boxes, Masks

_VALUES_AT_ONCE = 2**25
"""Pixels of masks that are held as float32 at a time (128 MiB)."""


@dataclasses.dataclass(frozen=True)
class PointSampling:
    """Where a mask head learns: at random points, most of them where its coarse masks are the least certain.

    Args:
        num_points: points a box.
        oversampling: so many times as many are drawn, of which the least certain are taken.
        uncertain: the share of the points that are taken from those; the others are drawn for themselves.
    """

    num_points: Count = 196
    oversampling: Annotated[float, Interval(1, 100)] = 3.0
    uncertain: Fraction = 0.75

    def __call__(self, logits: Tensor) -> Tensor:
        """``(R, P, 2)`` points for coarse ``logits`` (R, M, M) of the boxes' classes."""
        candidates = torch.rand((len(logits), int(self.num_points * self.oversampling), 2), device=logits.device)
        certainty = sample_maps(logits[:, None], candidates)[:, 0].abs()
        rows = certainty.topk(int(self.num_points * self.uncertain), dim=1, largest=False).indices
        least_certain = candidates.gather(1, rows[..., None].expand(-1, -1, 2))
        others = (len(logits), self.num_points - rows.shape[1], 2)
        return torch.cat([least_certain, torch.rand(others, device=logits.device)], dim=1)


def grid_points(num_boxes: int, size: int, device: torch.device) -> Tensor:
    """``(R, size * size, 2)``: the centres of a grid's cells, row by row."""
    rows = torch.arange(size * size, device=device)
    points = torch.stack([rows % size, rows // size], dim=1)
    return ((points + 0.5) / size).expand(num_boxes, -1, -1)


def uncertain_cells(logits: Tensor, num_cells: int) -> tuple[Tensor, Tensor]:
    """The cells of ``logits`` (R, H, W) that are nearest to 0: ``(R, P)`` numbers of cells, ``(R, P, 2)`` points."""
    height, width = logits.shape[1:]
    cells = logits.flatten(1).abs().topk(min(num_cells, height * width), dim=1, largest=False).indices
    return cells, torch.stack([(cells % width + 0.5) / width, (cells // width + 0.5) / height], dim=2)


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """``(R, C, P)`` bilinear samples of ``maps`` (R, C, H, W), each with points of its own in 0..1; outside is 0."""
    return F.grid_sample(maps.float(), 2 * points[:, :, None].float() - 1, align_corners=False)[..., 0]


def in_image(boxes: Tensor, points: Tensor) -> Tensor:
    """``(R, P, 2)`` pixels of the image of the points in ``boxes`` (R, 4)."""
    return boxes[:, None, :2] + points * (boxes[:, None, 2:] - boxes[:, None, :2])


def sample_features(
    features: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Boxes], points: Tensor
) -> Tensor:
    """Features at points in boxes.

    Args:
        features: maps ``(N, C, H, W)``, each of its stride.
        boxes: of each of N images.
        points: ``(R, P, 2)``, in the order of the boxes.

    Returns:
        ``(R, C, P)`` float32, with the channels of all maps one after the other.
    """
    places = in_image(Boxes.cat(boxes).tensor, points).split([len(b) for b in boxes])
    images = []
    for image, pixels in enumerate(places):
        sampled = []
        for feature, stride in zip(features, strides):
            height, width = feature.shape[2] * stride, feature.shape[3] * stride
            parts = torch.stack([pixels[..., 0] / width, pixels[..., 1] / height], dim=2)
            sampled.append(sample_maps(feature[image : image + 1], parts.flatten(0, 1)[None])[0])
        images.append(torch.cat(sampled).unflatten(1, pixels.shape[:2]).transpose(0, 1))
    return torch.cat(images)


def sample_masks(masks: Masks, boxes: Boxes, points: Tensor) -> Tensor:
    """``(R, P)`` in 0..1: what R masks are at the points in R boxes of their image, between pixels a mixture."""
    bitmaps = masks.bitmaps().tensor
    height, width = bitmaps.shape[1:]
    pixels = in_image(boxes.tensor, points)
    parts = torch.stack([pixels[..., 0] / width, pixels[..., 1] / height], dim=2)
    step = max(1, _VALUES_AT_ONCE // max(1, height * width))
    pieces = zip(bitmaps.split(step), parts.split(step))
    return torch.cat([sample_maps(bits[:, None].to(part.device), part)[:, 0] for bits, part in pieces])
