"""PointRend: a mask is decided point by point, where it is uncertain."""

import dataclasses
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import Count, CountOrZero, Recipe
from detkit.layers import ConvNorm, ShapeSpec, c2_msra_fill, c2_xavier_fill, choose_features, init_normal
from detkit.modeling.interfaces import MASK_HEADS, Features, MaskHead, RoIPooler
from detkit.modeling.points import PointSampling, grid_points, sample_maps, sample_masks, uncertain_cells
from detkit.modeling.poolers import PointPooler
from detkit.modeling.roi_heads.mask_head import MaskInit, MaskTargets, mask_losses, of_class
from detkit.structures import Boxes, ClassRows, Instances, Losses


@dataclasses.dataclass(frozen=True)
class Subdivision:
    """How fine a mask becomes at prediction: each step doubles its sides, and decides its least certain cells again.

    Args:
        start_size: side of the first grid, of which every cell is decided.
        num_steps: doublings after that.
        num_points: cells that each step decides.
    """

    start_size: Count = 28
    num_steps: CountOrZero = 3
    num_points: Count = 784


class CoarseMaskHead(nn.Module):
    """A small mask of each class, from what is seen of the whole box.

    A convolution of 2x2 that halves the sides, fully connected layers, and the masks. ``input_shape`` is that of the
    pooled features; where they have more channels than ``conv_dim``, a 1x1 convolution comes first.

    Args:
        output_size: side of the masks.
        conv_dim: channels of the convolutions.
        fc_dims: widths of the fully connected layers.
        init: how the last layer begins.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        num_masks: int,
        *,
        output_size: Count = 7,
        conv_dim: Count = 256,
        fc_dims: tuple[Count, ...] = (1024, 1024),
        init: MaskInit = MaskInit(),
    ):
        super().__init__()
        height, width = input_shape.height or 0, input_shape.width or 0
        if height < 2 or width < 2:
            raise ValueError(f"mask_head.pooler: expected an output of at least 2 x 2, got {height} x {width}")
        channels, relu = input_shape.channels, nn.ReLU(inplace=True)
        self.reduce_channels = None
        if channels > conv_dim:
            self.reduce_channels = ConvNorm(channels, conv_dim, 1, activation=relu)
            channels = conv_dim
        self.reduce_size = ConvNorm(channels, conv_dim, 2, stride=2, padding=0, activation=relu)
        inputs = conv_dim * (height // 2) * (width // 2)
        self.fcs = nn.ModuleList()
        for dim in fc_dims:
            layer = nn.Linear(inputs, dim)
            c2_xavier_fill(layer)
            self.fcs.append(layer)
            inputs = dim
        self.predictor = nn.Linear(inputs, num_masks * output_size**2)
        init_normal(self.predictor, init.predictor)
        self.shape = (num_masks, output_size, output_size)

    def forward(self, pooled: Tensor) -> Tensor:
        """``(R, C, S, S)`` -> logits ``(R, num_masks, output_size, output_size)``."""
        x = pooled if self.reduce_channels is None else self.reduce_channels(pooled)
        x = self.reduce_size(x).flatten(1)
        for layer in self.fcs:
            x = F.relu(layer(x), inplace=True)
        return self.predictor(x).unflatten(1, self.shape)


class PointHead(nn.Module):
    """Decides points from fine features and from the coarse logits there.

    Args:
        fc_dims: widths of the layers before the last one.
        coarse_each_layer: every layer sees the coarse logits; false: the first alone.
        class_agnostic: one decision for all classes, also where there is a coarse mask a class.
        init: how the last layer begins.
    """

    def __init__(
        self,
        in_channels: int,
        num_masks: int,
        *,
        fc_dims: tuple[Count, ...] = (256, 256, 256),
        coarse_each_layer: bool = True,
        class_agnostic: bool = False,
        init: MaskInit = MaskInit(),
    ):
        super().__init__()
        self.coarse_each_layer, self.class_agnostic = coarse_each_layer, class_agnostic
        self.fcs = nn.ModuleList()
        inputs = in_channels + num_masks
        for dim in fc_dims:
            layer = nn.Conv1d(inputs, dim, 1)
            c2_msra_fill(layer)
            self.fcs.append(layer)
            inputs = dim + num_masks * coarse_each_layer
        self.predictor = nn.Conv1d(inputs, 1 if class_agnostic else num_masks, 1)
        init_normal(self.predictor, init.predictor)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """``(R, C, P)`` features and ``(R, num_masks, P)`` logits -> logits ``(R, num_masks or 1, P)``."""
        dtype = self.predictor.weight.dtype
        coarse = coarse.to(dtype)
        x = torch.cat([fine.to(dtype), coarse], dim=1)
        for layer in self.fcs:
            x = F.relu(layer(x), inplace=True)
            if self.coarse_each_layer:
                x = torch.cat([x, coarse], dim=1)
        return self.predictor(x)


@MASK_HEADS.register()
class PointRendMaskHead(MaskHead):
    """A coarse mask, and finer ones where it is uncertain, of one point at a time (PointRend, Kirillov et al. 2020).

    Both masks learn, each by the binary cross entropy on the mask of the true class: terms ``loss_mask`` and
    ``loss_mask_point``. Which points the finer one learns at is ``point_sampling``: random, so it follows torch's
    seed. True masks are best kept as bitmaps (``data.mask_format: bitmap``); others are made into them at each step.

    Args:
        pooler: what the coarse mask is made from.
        in_features: the maps that points see; null for the finest one.
        coarse_head: the coarse mask.
        point_head: the decision at a point.
        point_sampling: where the point head learns.
        subdivision: where it decides at prediction.
        class_agnostic: one mask for all classes instead of one a class.
        targets: how true masks are brought to the coarse mask's size.
    """

    reads_maps: ClassVar[bool] = True

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        *,
        pooler: Recipe[RoIPooler] = Recipe(PointPooler, {"output_size": 14}),
        in_features: tuple[str, ...] | None = None,
        coarse_head: Recipe[CoarseMaskHead] = Recipe(CoarseMaskHead),
        point_head: Recipe[PointHead] = Recipe(PointHead),
        point_sampling: PointSampling = PointSampling(),
        subdivision: Subdivision = Subdivision(),
        class_agnostic: bool = False,
        targets: MaskTargets = MaskTargets(),
    ):
        super().__init__(input_shape, num_classes)
        num_masks = 1 if class_agnostic else num_classes
        self.pooler = pooler(input_shape)
        self.coarse_head = coarse_head(self.pooler.output_shape, num_masks)
        seen = choose_features(input_shape, in_features or tuple(input_shape)[:1], "mask_head.in_features")
        self.fine = PointPooler(seen, output_size=1, in_features=tuple(seen))
        self.point_head = point_head(self.fine.output_shape.channels, num_masks)
        self.point_sampling, self.subdivision, self.targets = point_sampling, subdivision, targets
        if not class_agnostic:
            self.class_rows = self._class_rows()

    def _class_rows(self) -> dict[str, ClassRows]:
        """The weights of layers that give logits of each class, or read the coarse ones after other features."""
        cells = self.coarse_head.shape[1] ** 2
        rows = {f"coarse_head.predictor.{kind}": ClassRows(cells) for kind in ("weight", "bias")}
        head, features = self.point_head, self.fine.output_shape.channels
        layers: dict[str, Any] = {**{f"fcs.{i}": fc for i, fc in enumerate(head.fcs)}, "predictor": head.predictor}
        for number, (name, layer) in enumerate(layers.items()):
            per_class = int(name == "predictor" and not head.class_agnostic)
            columns_after = features if number == 0 or head.coarse_each_layer else None
            if per_class or columns_after is not None:
                rows[f"point_head.{name}.weight"] = ClassRows(per_class, columns_after=columns_after)
            features = layer.out_channels
        if not head.class_agnostic:
            rows["point_head.predictor.bias"] = ClassRows()
        return rows

    def forward(self, features: Features, boxes: list[Boxes]) -> Tensor:
        """Logits of the coarse masks ``(R, K or 1, M, M)``."""
        return self.coarse_head(self.pooler(features, boxes)).float()

    def at_points(
        self, features: Features, boxes: list[Boxes], coarse: Tensor, points: Tensor, classes: Tensor
    ) -> Tensor:
        """``(R, P)`` mask logits of the boxes' classes at ``points`` (R, P, 2)."""
        fine = self.fine.at(features, boxes, points)
        return of_class(self.point_head(fine, sample_maps(coarse, points)), classes).float()

    def loss(self, features: Features, proposals: list[Instances]) -> Losses:
        """See ``MaskHead.loss``."""
        boxes, classes = [p.boxes for p in proposals], torch.cat([p.classes for p in proposals])
        coarse = self(features, boxes)
        losses = mask_losses(coarse, proposals, self.targets)
        points = self.point_sampling(of_class(coarse.detach(), classes))
        logits = self.at_points(features, boxes, coarse, points, classes)
        wanted = [
            sample_masks(p.gt_masks, p.boxes, places)
            for p, places in zip(proposals, points.split([len(p) for p in proposals]))
            if len(p)
        ]
        loss, accuracy = logits.sum() * 0.0, logits.new_full((), math.nan)
        if wanted:
            truth = torch.cat(wanted).to(logits.device)
            loss = F.binary_cross_entropy_with_logits(logits, truth)
            accuracy = ((logits.detach() > 0) == (truth >= 0.5)).float().mean()
        return losses | Losses(
            {"loss_mask_point": loss},
            {"mask_head/point_accuracy": accuracy},
            {"loss_mask_point": losses.normalisers["loss_mask"]},
        )

    def mask_probs(self, features: Features, boxes: list[Boxes], classes: Tensor) -> Tensor:
        """See ``MaskHead.mask_probs``."""
        coarse, size = self(features, boxes), self.subdivision.start_size
        points = grid_points(coarse.shape[0], size, coarse.device)
        logits = self.at_points(features, boxes, coarse, points, classes).unflatten(1, (size, size))
        for _ in range(self.subdivision.num_steps):
            logits = F.interpolate(logits[:, None], scale_factor=2.0, mode="bilinear", align_corners=False)[:, 0]
            cells, points = uncertain_cells(logits, self.subdivision.num_points)
            decided = self.at_points(features, boxes, coarse, points, classes)
            logits = logits.flatten(1).scatter(1, cells, decided).view_as(logits)
        return logits.sigmoid()
