"""Boxes with fixed counts. N images, P proposals or D detections in each; a row of score -inf is padding."""

import dataclasses

import torch
from torch import Tensor

from detkit.export.static.dispatch import no_static_form, static_form
from detkit.export.static.nms import NOTHING, static_suppression
from detkit.modeling.anchors import GridAnchorGenerator
from detkit.modeling.interfaces import AnchorGenerator, Suppression


@dataclasses.dataclass(frozen=True)
class Batch:
    """What a program is given.

    Args:
        images: ``(N, C, H, W)`` float32, as ``Preprocess`` makes them.
        regions: ``(N, 4)`` float32 x1, y1, x2, y2: the part of each image that is no padding.
    """

    images: Tensor
    regions: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)``."""
        return self.images.shape[-2], self.images.shape[-1]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Boxes of each image.

    Args:
        boxes: ``(N, P, 4)``; of padding rows zeros.
        scores: ``(N, P)``.
        classes: ``(N, P)`` int64; None for proposals.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor | None = None

    @property
    def flat(self) -> Tensor:
        """``(N * P, 4)`` boxes."""
        return self.boxes.flatten(0, 1)


def clipped(boxes: Tensor, regions: Tensor) -> Tensor:
    """``(N, P, 4)`` boxes cut to the regions ``(N, 4)``."""
    low, high = regions[:, None, :2].repeat(1, 1, 2), regions[:, None, 2:].repeat(1, 1, 2)
    return torch.minimum(torch.maximum(boxes, low), high)


def finite(values: Tensor) -> Tensor:
    """Whether all values of the last dimension are numbers."""
    return (values.abs() < torch.inf).all(dim=-1)


def larger(boxes: Tensor, min_size: float) -> Tensor:
    """``(N, P)`` bool: both sides are longer than this."""
    return ((boxes[..., 2:] - boxes[..., :2]) > min_size).all(dim=-1)


def best(scores: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The best ``(N, num)`` of scores ``(N, M)`` and their columns, whatever M is: what is missing has score -inf."""
    padded = torch.nn.functional.pad(scores, (0, num), value=NOTHING)
    found, columns = padded.topk(num, dim=1)
    return found, columns.clamp(max=scores.shape[1] - 1)


def rows_of(values: Tensor, columns: Tensor) -> Tensor:
    """``(N, num, ...)``: of ``values`` (N, M, ...) the columns ``(N, num)``."""
    if values.ndim == 2:
        return values.gather(1, columns)
    return values.gather(1, columns[..., None].expand(-1, -1, values.shape[-1]))


def chosen(
    candidates: Rows, suppression: Suppression, num_classes: int, nms_thresh: float, max_detections: int
) -> Rows:
    """The detections among the candidates, best first: ``choose_detections`` with fixed counts."""
    assert candidates.classes is not None
    boxes, classes = candidates.boxes, candidates.classes
    after = static_suppression(suppression, boxes, candidates.scores, classes, num_classes, nms_thresh, max_detections)
    scores, columns = best(after, max_detections)
    empty = scores == NOTHING
    found = rows_of(boxes, columns).masked_fill(empty[..., None], 0.0)
    return Rows(found, scores, rows_of(classes, columns).masked_fill(empty, 0))


@static_form("forward")
def static_anchors(generator: AnchorGenerator, maps: list[Tensor], image_size: tuple[int, int]) -> list[Tensor]:
    """The anchors ``(HWA, 4)`` of each level, as plain tensors. Register a generator of your own here.

    Raises:
        ConfigError: there is no static form of it.
    """
    raise no_static_form(generator, "static_anchors")


@static_anchors.register(GridAnchorGenerator)
def _(generator: GridAnchorGenerator, maps: list[Tensor], image_size: tuple[int, int]) -> list[Tensor]:
    return generator.corners(maps, image_size)
