"""From scored anchors to proposals."""

import dataclasses

import torch
from torch import Tensor

from detkit.layers import nms_by_group
from detkit.modeling.box_coder import BoxCoder
from detkit.structures import Boxes, Instances


@dataclasses.dataclass(frozen=True)
class ProposalSelection:
    """Which of the many scored anchors become proposals (FPN, Lin et al. 2017; Detectron2's order of steps).

    Per level the best ``pre_nms_topk`` are decoded, clipped and suppressed; of all levels together the best
    ``post_nms_topk`` are kept.

    Args:
        pre_nms_topk_train, pre_nms_topk_test: candidates a level before NMS.
        post_nms_topk_train, post_nms_topk_test: proposals an image after NMS.
        nms_thresh: IoU above which the lower-scoring of two candidates of a level is dropped.
        min_size: candidates with a side not longer than this many pixels are dropped.
    """

    pre_nms_topk_train: int = 2000
    pre_nms_topk_test: int = 1000
    post_nms_topk_train: int = 1000
    post_nms_topk_test: int = 1000
    nms_thresh: float = 0.7
    min_size: float = 0.0

    @torch.no_grad()
    def __call__(
        self,
        anchors: list[Boxes],
        logits: list[Tensor],
        deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
        box_coder: BoxCoder,
        training: bool,
    ) -> list[Instances]:
        """
        Args:
            anchors: a level: ``(HWA, 4)``.
            logits: a level: ``(N, HWA)`` objectness.
            deltas: a level: ``(N, HWA, 4)``.
            image_sizes: ``(height, width)`` of each image without padding.
            box_coder: decodes the deltas.
            training: which of the two limits hold.

        Returns:
            An ``Instances(boxes, objectness)`` an image, best first.
        """
        before = self.pre_nms_topk_train if training else self.pre_nms_topk_test
        after = self.post_nms_topk_train if training else self.post_nms_topk_test
        boxes, scores, levels = [], [], []
        for level, (anchor, logit, delta) in enumerate(zip(anchors, logits, deltas)):
            top, index = logit.float().topk(min(before, logit.shape[1]), dim=1)
            chosen = delta.gather(1, index[..., None].expand(-1, -1, 4))
            decoded = box_coder.decode(anchor.tensor[index.flatten()], chosen.reshape(-1, 4))
            boxes.append(decoded.reshape(len(logit), -1, 4))
            scores.append(top)
            levels.append(torch.full_like(index[0], level))
        level_of = torch.cat(levels)
        every = zip(torch.cat(boxes, dim=1), torch.cat(scores, dim=1), image_sizes)
        return [self._select(b, s, level_of, size, after) for b, s, size in every]

    def _select(self, boxes: Tensor, scores: Tensor, levels: Tensor, size: tuple[int, int], after: int) -> Instances:
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)
        clipped = Boxes(boxes).clip(size)
        keep = torch.nonzero(finite & clipped.nonempty(self.min_size)).squeeze(1)
        clipped, scores, levels = clipped[keep], scores[keep], levels[keep]
        best = nms_by_group(clipped, scores, levels, self.nms_thresh)[:after]
        return Instances(size, boxes=clipped[best], objectness=scores[best])
