"""Region proposal networks that follow torchvision's and matterport's rules."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from detkit.modeling.interfaces import PROPOSAL_GENERATORS
from detkit.modeling.proposals.rpn import DETECTRON2_RULES, MATTERPORT_RULES, RPN, TORCHVISION_RULES
from detkit.registry import Removed
from detkit.structures import Boxes, ImageList, Instances
from detkit.structures.transforms import Region


@PROPOSAL_GENERATORS.register()
class TorchvisionRPN(RPN):
    """``RPN`` by torchvision's rules.

    NMS ranks by probability, and losses are divided by the number of anchors that were sampled. In float32 the
    probabilities of very certain anchors are all 1, so ranking by them decides less than ranking by logits.
    """

    renamed_options: ClassVar[Mapping[str, str | Removed]] = {
        "mean_over": Removed("its losses are always means over the samples; RPN's are not", default="samples"),
        "selection.rules": Removed(
            "write name: MatterportRPN for its rules, or name: RPN for NMS by logits and its mean over the batch",
            default=TORCHVISION_RULES,
            group=DETECTRON2_RULES,
            becomes=((MATTERPORT_RULES, "MatterportRPN"),),
        ),
    }

    def ranks(self, scores: Tensor) -> Tensor:
        """See ``RPN.ranks``."""
        return scores.sigmoid()

    def normaliser(self, num_samples: Tensor, num_images: int) -> Tensor:
        """See ``RPN.normaliser``."""
        return num_samples


@PROPOSAL_GENERATORS.register()
class MatterportRPN(TorchvisionRPN):
    """``RPN`` by the rules of matterport's Mask R-CNN and of pytorch-mask-rcnn.

    All levels of an image are one: its most probable anchors are candidates, ``pre_nms_topk`` in all, and each may
    suppress any other. Boxes are cut to the padded image. Losses are divided by the number of sampled anchors.
    """

    renamed_options: ClassVar[Mapping[str, str | Removed]] = {
        "selection.rules": Removed(
            "the class has its own; write name: RPN for others", default=MATTERPORT_RULES, group=DETECTRON2_RULES
        )
    }

    @torch.no_grad()
    def select(
        self, anchors: list[Boxes], logits: list[Tensor], deltas: list[Tensor], images: ImageList, *, training: bool
    ) -> list[Instances]:
        """See ``RPN.select``."""
        one_level = [Boxes.cat(anchors)], [torch.cat(logits, dim=1)], [torch.cat(deltas, dim=1)]
        return super().select(*one_level, images, training=training)

    def best(self, logits: Tensor, num: int) -> Tensor:
        """See ``RPN.best``. The reference sorts everything, which decides among equals."""
        return logits.sigmoid().sort(dim=1, descending=True).indices[:, :num]

    def region(self, images: ImageList, image: int) -> Region:
        """See ``RPN.region``."""
        height, width = images.padded_size
        return 0, 0, width, height

    def groups(self, levels: Tensor) -> Tensor | None:
        """See ``RPN.groups``. One group is not none: torchvision's operator orders equal scores otherwise then."""
        return None
