"""Box coders: boxes relative to reference boxes."""

import math

import torch
from torch import Tensor

from detkit.config import Positive
from detkit.modeling.interfaces import BOX_CODERS, BoxCoder

_WIDEST = math.log(1000.0 / 16)


@BOX_CODERS.register()
class DeltaBoxCoder(BoxCoder):
    """``(dx, dy, dw, dh)``: the shift of the centre in units of the reference's size, and log size ratios.

    The coder of R-CNN (Girshick et al. 2014, appendix C).

    Args:
        weights: factors on dx, dy, dw, dh; larger means smaller steps.
        max_log_scale: dw and dh are clamped to this before the exponential; null for no clamp.
            The default is log(1000 / 16).
    """

    def __init__(
        self,
        *,
        weights: tuple[Positive, Positive, Positive, Positive] = (1.0, 1.0, 1.0, 1.0),
        max_log_scale: Positive | None = _WIDEST,
    ):
        super().__init__()
        self.weights, self.max_log_scale = weights, max_log_scale

    def encode(self, reference: Tensor, boxes: Tensor) -> Tensor:
        """See ``BoxCoder.encode``."""
        rx, ry, rw, rh = _centre_size(reference)
        bx, by, bw, bh = _centre_size(boxes)
        wx, wy, ww, wh = self.weights
        return torch.stack(
            [wx * (bx - rx) / rw, wy * (by - ry) / rh, ww * torch.log(bw / rw), wh * torch.log(bh / rh)], dim=1
        )

    def decode(self, reference: Tensor, deltas: Tensor) -> Tensor:
        """See ``BoxCoder.decode``."""
        deltas = deltas.float().unflatten(1, (-1, 4))
        rx, ry, rw, rh = (v[:, None] for v in _centre_size(reference))
        wx, wy, ww, wh = self.weights
        dw, dh = deltas[..., 2] / ww, deltas[..., 3] / wh
        if self.max_log_scale is not None:
            dw, dh = dw.clamp(max=self.max_log_scale), dh.clamp(max=self.max_log_scale)
        x, y = deltas[..., 0] / wx * rw + rx, deltas[..., 1] / wy * rh + ry
        half_w, half_h = dw.exp() * rw / 2, dh.exp() * rh / 2
        return torch.stack([x - half_w, y - half_h, x + half_w, y + half_h], dim=-1).flatten(1)


@BOX_CODERS.register()
class SideBoxCoder(BoxCoder):
    """``(left, top, right, bottom)``: the distances from the reference's centre to the sides of the box, in units of
    the reference's size. For boxes with the centre inside (FCOS, Tian et al. 2019, equation 1; with the reference a
    cell of the map, that is over the stride). A negative distance is taken for 0.
    """

    def encode(self, reference: Tensor, boxes: Tensor) -> Tensor:
        """See ``BoxCoder.encode``."""
        rx, ry, rw, rh = _centre_size(reference)
        return distances_to_sides(torch.stack([rx, ry], 1), boxes) / torch.stack([rw, rh, rw, rh], 1)

    def decode(self, reference: Tensor, deltas: Tensor) -> Tensor:
        """See ``BoxCoder.decode``."""
        rx, ry, rw, rh = (v[:, None] for v in _centre_size(reference))
        left, top, right, bottom = deltas.float().unflatten(1, (-1, 4)).relu().unbind(-1)
        return torch.stack([rx - left * rw, ry - top * rh, rx + right * rw, ry + bottom * rh], dim=-1).flatten(1)


def distances_to_sides(points: Tensor, boxes: Tensor) -> Tensor:
    """``(..., 4)``: how far points ``(..., 2)`` are inside boxes ``(..., 4)``: from left, top, right and bottom."""
    boxes = torch.as_tensor(boxes).float()
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def _centre_size(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = torch.as_tensor(boxes).float().unbind(1)
    w, h = x2 - x1, y2 - y1
    return x1 + w / 2, y1 + h / 2, w, h
