"""Keypoint heads. P keypoints, S x S cells of a heat map."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.config import Count, CountOrZero, Positive, Recipe
from detkit.layers import Norm, ShapeSpec, c2_msra_fill, conv_stack
from detkit.modeling.interfaces import KEYPOINT_HEADS, Features, KeypointHead, RoIPooler
from detkit.structures import Boxes, Instances, Keypoints, KeypointSpec, Losses

Score = Literal["probability", "logit"]


@KEYPOINT_HEADS.register()
class ConvUpsampleKeypointHead(KeypointHead):
    """Convolutions, a deconvolution that doubles the size, and bilinear enlargement to a heat map a keypoint, four
    times as large as the pooled features (Mask R-CNN, He et al. 2017, section 5).

    The loss is the cross entropy over a heat map's cells, of keypoints that are labelled and in the proposal's box. One
    heat map serves all classes.

    Args:
        pooler: features of a box.
        keypoints: what the keypoints are; null: those of the training dataset, or where nothing else is known the 17 of
            COCO's persons.
        num_conv: number of 3x3 convolutions.
        conv_dim: their channels.
        norm: normalisation after each convolution.
        objects_per_image: null: the loss is a mean over the keypoints. A number: their sum is divided by P times so
            many objects an image, so that those with few visible points weigh less (Detectron2's
            NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS: False, with 128 objects: a quarter of 512 samples).
        loss_weight: factor on the loss.
        score: of a keypoint, in its place's enlarged heat map: probability, whose sum over the map's own cells is 1
            (Detectron2); or logit (torchvision).
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        *,
        pooler: Recipe[RoIPooler],
        keypoints: KeypointSpec | None = None,
        num_conv: CountOrZero = 8,
        conv_dim: Count = 512,
        norm: Recipe[Norm] | None = None,
        objects_per_image: Positive | None = None,
        loss_weight: Positive = 1.0,
        score: Score = "probability",
    ):
        super().__init__(input_shape, num_classes, keypoints=keypoints)
        self.objects_per_image, self.loss_weight, self.score = objects_per_image, loss_weight, score
        self.pooler = pooler(input_shape)
        channels = [self.pooler.output_shape.channels, *[conv_dim] * num_conv]
        self.convs = conv_stack(channels, norm=norm)
        self.deconv = nn.ConvTranspose2d(channels[-1], len(self.keypoints.names), kernel_size=4, stride=2, padding=1)
        c2_msra_fill(self.deconv)

    def forward(self, features: Features, boxes: list[Boxes]) -> Tensor:
        """Heat maps, ``(R, P, S, S)`` logits."""
        maps = self.deconv(self.convs(self.pooler(features, boxes)))
        return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)

    def loss(self, features: Features, proposals: list[Instances]) -> Losses:
        """See ``KeypointHead.loss``. Term ``loss_keypoint``.

        Raises:
            ValueError: an image's objects have no keypoints, or not as many as the head.
        """
        maps = self(features, [p.boxes for p in proposals]).float()
        targets = maps.new_full(maps.shape[:2], -1, dtype=torch.long)
        if len(targets):
            self._check([p for p in proposals if len(p)])
            cells = [p.gt_keypoints.cells(p.boxes, maps.shape[-1]) for p in proposals if len(p)]
            targets = torch.cat(cells).to(maps.device)
        flat, wanted = maps.flatten(0, 1).flatten(1), targets.flatten()
        total = F.cross_entropy(flat, wanted, reduction="sum", ignore_index=-1) * self.loss_weight
        number = (wanted >= 0).sum().float()
        metrics = {"keypoint_head/accuracy": _accuracy(flat, wanted, number)}
        if self.objects_per_image is not None:
            return Losses({"loss_keypoint": total / (len(proposals) * maps.shape[1] * self.objects_per_image)}, metrics)
        return Losses({"loss_keypoint": total / number.clamp(min=1)}, metrics, {"loss_keypoint": number})

    def _check(self, proposals: list[Instances]) -> None:
        without, names = sum("gt_keypoints" not in p for p in proposals), self.keypoints.names
        if without:
            raise ValueError(
                f"keypoint_head: in {without} of {len(proposals)} images with objects these have no keypoints; train on"
                " data with keypoints or set model.roi_heads.keypoint_head=null"
            )
        others = {p.gt_keypoints.shape[1] for p in proposals} - {len(names)}
        if others:
            raise ValueError(
                f"keypoint_head: it has {len(names)} keypoints ({', '.join(names[:5])}, ...), the data have"
                f" {min(others)}; set model.roi_heads.keypoint_head.keypoints=null, which takes the training data's"
            )

    def predict(self, features: Features, instances: list[Instances]) -> list[Instances]:
        """See ``KeypointHead.predict``."""
        return self.placed(instances, self(features, [p.boxes for p in instances]).float())

    def placed(self, instances: list[Instances], maps: Tensor) -> list[Instances]:
        """The instances with ``keypoints`` from the heat maps (R, P, S, S) of all of them."""
        points = peaks(maps, Boxes.cat([p.boxes for p in instances]), self.score).split([len(p) for p in instances])
        pairs, lines = self.keypoints.flip_pairs, self.keypoints.skeleton
        return [p.with_fields(keypoints=Keypoints(found, pairs, lines)) for p, found in zip(instances, points)]


def peaks(maps: Tensor, boxes: Boxes, score: Score) -> Tensor:
    """``(R, P, 3)`` x, y and score of the highest place of each heat map.

    A map is enlarged bicubically to its box, with a side of whole pixels and at least 1; the place is the middle of its
    highest pixel. As in the first Detectron, and so in Detectron2 and torchvision.

    Args:
        maps: ``(R, P, S, S)`` logits.
        boxes: R of them.
        score: see ``ConvUpsampleKeypointHead``.
    """
    corners = boxes.tensor.float()
    sides = (corners[:, 2:] - corners[:, :2]).clamp(min=1)
    pixels = sides.ceil()
    found = maps.new_zeros(*maps.shape[:2], 3)
    for row, (width, height) in enumerate(pixels.long().tolist()):  # one size a box
        enlarged = F.interpolate(maps[row : row + 1], (height, width), mode="bicubic", align_corners=False)
        logits, place = enlarged[0].flatten(1).max(dim=1)
        found[row] = torch.stack([place % width, place // width, logits], dim=1)
    if score == "probability":
        logits = found[..., 2:]
        found[..., 2] = 1 / (maps.flatten(2) - logits).exp().sum(dim=2)
    found[..., 2] = torch.where(found[..., 2] == 0, torch.finfo(found.dtype).tiny, found[..., 2])  # 0 is "not labelled"
    found[..., :2] = (found[..., :2] + 0.5) * (sides / pixels)[:, None] + corners[:, None, :2]
    return found


@torch.no_grad()
def _accuracy(maps: Tensor, wanted: Tensor, number: Tensor) -> Tensor:
    """The share of labelled keypoints whose cell is the highest; NaN where there is none."""
    return (maps.argmax(dim=1) == wanted).sum() / number
