"""From scored anchors to proposals."""

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from detkit.layers import nms_best
from detkit.modeling.box_coder import BoxCoder
from detkit.modeling.fillers import without_fillers
from detkit.structures import Boxes, ImageList, Instances


@dataclasses.dataclass(frozen=True)
class SelectionRules:
    """Over what the steps of a selection reach, and what they rank by.

    In float32 probabilities of certain anchors are all 1, so that ranking by them leaves more to chance than by logits;
    it is here because references do it.

    Args:
        topk: the best are taken of each level, or of all levels of an image together.
        topk_by: what the best are: those of the highest logit or probability.
        nms: boxes suppress others of their level, or of all levels.
        nms_by: what decides who suppresses whom, and who is kept.
        clip: boxes are cut to the image, or to the whole canvas: the image with its padding.
    """

    topk: Literal["level", "image"] = "level"
    topk_by: Literal["logit", "probability"] = "logit"
    nms: Literal["level", "image"] = "level"
    nms_by: Literal["logit", "probability"] = "logit"
    clip: Literal["image", "canvas"] = "image"


@dataclasses.dataclass(frozen=True)
class ProposalSelection:
    """Which of the many scored anchors become proposals (FPN, Lin et al. 2017; Detectron2's order of steps).

    The best ``pre_nms_topk`` are decoded, clipped and suppressed; the best ``post_nms_topk`` of what is left are kept.

    Args:
        pre_nms_topk_train, pre_nms_topk_test: candidates before NMS, a level or an image as ``rules.topk`` says.
        post_nms_topk_train, post_nms_topk_test: proposals an image after NMS.
        nms_thresh: IoU above which the lower-scoring of two candidates is dropped.
        score_thresh: candidates whose objectness, as a probability, is below this are dropped.
        min_size: candidates with a side not longer than this many pixels are dropped; null keeps even empty ones.
        rules: over what top-k, NMS and clipping reach.
    """

    pre_nms_topk_train: int = 2000
    pre_nms_topk_test: int = 1000
    post_nms_topk_train: int = 1000
    post_nms_topk_test: int = 1000
    nms_thresh: float = 0.7
    score_thresh: float = 0.0
    min_size: float | None = 0.0
    rules: SelectionRules = SelectionRules()

    @torch.no_grad()
    def __call__(
        self,
        anchors: list[Boxes],
        logits: list[Tensor],
        deltas: list[Tensor],
        images: ImageList,
        box_coder: BoxCoder,
        training: bool,
    ) -> list[Instances]:
        """
        Args:
            anchors: a level: ``(HWA, 4)``.
            logits: a level: ``(N, HWA)`` objectness.
            deltas: a level: ``(N, HWA, 4)``.
            images: what the boxes are clipped to.
            box_coder: decodes the deltas.
            training: which of the two limits hold.

        Returns:
            An ``Instances(boxes, objectness)`` an image, best first; in training as many for every image, the last
            ones fillers (see ``detkit.modeling.fillers``).
        """
        before = self.pre_nms_topk_train if training else self.pre_nms_topk_test
        level_of = [torch.full((len(a),), i, device=a.device) for i, a in enumerate(anchors)]
        if self.rules.topk == "image":
            anchors, level_of = [Boxes.cat(anchors)], [torch.cat(level_of)]
            logits, deltas = [torch.cat(logits, dim=1)], [torch.cat(deltas, dim=1)]
        boxes, scores, levels = [], [], []
        for anchor, logit, delta, level in zip(anchors, logits, deltas, level_of):
            index = self._best(logit.float(), before)
            chosen = delta.gather(1, index[..., None].expand(-1, -1, 4))
            decoded = box_coder.decode(anchor.tensor[index.flatten()], chosen.reshape(-1, 4))
            boxes.append(decoded.reshape(len(logit), -1, 4))
            scores.append(logit.float().gather(1, index))
            levels.append(level[index])
        return self._select(torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(levels, 1), images, training)

    def _best(self, logits: Tensor, num: int) -> Tensor:
        """``(N, num)`` indices of the best, best first."""
        rank = logits.sigmoid() if self.rules.topk_by == "probability" else logits
        if self.rules.topk == "image":  # matterport sorts everything, which decides among equals
            return rank.sort(dim=1, descending=True).indices[:, :num]
        return rank.topk(min(num, logits.shape[1]), dim=1).indices

    def _select(
        self, boxes: Tensor, scores: Tensor, levels: Tensor, images: ImageList, training: bool
    ) -> list[Instances]:
        """Of boxes (N, M, 4), scores and levels (N, M)."""
        height, width = images.padded_size
        canvas, numbers = (0, 0, width, height), range(len(boxes))
        windows = [images.valid_region(i) if self.rules.clip == "image" else canvas for i in numbers]
        clipped = torch.stack([Boxes(of_image).clip_to(window).tensor for of_image, window in zip(boxes, windows)])
        candidates = torch.isfinite(boxes).all(dim=2) & torch.isfinite(scores)
        if self.score_thresh > 0:
            candidates &= scores.sigmoid() >= self.score_thresh
        if self.min_size is not None:
            candidates &= Boxes(clipped.flatten(0, 1)).nonempty(self.min_size).reshape(candidates.shape)
        rank = scores.sigmoid() if self.rules.nms_by == "probability" else scores
        groups = levels if self.rules.nms == "level" else None
        after = self.post_nms_topk_train if training else self.post_nms_topk_test
        # As many rows for every image: the best that were kept, then fillers.
        best, kept = nms_best(clipped, rank, groups, candidates, self.nms_thresh, after)
        chosen = clipped.gather(1, best[..., None].expand(-1, -1, 4)).masked_fill(~kept[..., None], 0.0)
        objectness = scores.gather(1, best).masked_fill(~kept, -torch.inf)
        proposals = [
            Instances(size, info=images.info(i), boxes=Boxes(of_image), objectness=logits)
            for i, (size, of_image, logits) in enumerate(zip(images.image_sizes, chosen, objectness))
        ]
        return proposals if training else without_fillers(proposals)
