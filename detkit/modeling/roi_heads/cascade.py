"""Cascade R-CNN: box heads in a row, each of which starts from the boxes of the one before."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from detkit.config import Recipe, Share
from detkit.layers import ShapeSpec, choose_features
from detkit.modeling.box_coder import DeltaBoxCoder
from detkit.modeling.interfaces import ROI_HEADS, BoxCoder, BoxHead, Features, KeypointHead, MaskHead
from detkit.modeling.matcher import Matcher
from detkit.modeling.roi_heads.standard import StandardRoIHeads
from detkit.modeling.sampling import Sampling
from detkit.registry import options as options_of
from detkit.structures import Boxes, Instances, Losses


@dataclasses.dataclass(frozen=True)
class CascadeStage:
    """What a later stage of a cascade has otherwise than the first.

    Args:
        iou: a box of the stage before is foreground from this IoU with an object on, and background below it.
        box_coder: how the stage's deltas are expressed: the better the boxes, the smaller the steps. null: as the first
            stage's.
    """

    iou: Share
    box_coder: Recipe[BoxCoder] | None = None


def _stage(iou: float, factor: float) -> CascadeStage:
    weights = (10.0 * factor, 10.0 * factor, 5.0 * factor, 5.0 * factor)
    return CascadeStage(iou, Recipe(DeltaBoxCoder, {"weights": weights}))


@ROI_HEADS.register()
class CascadeRoIHeads(StandardRoIHeads):
    """Box heads in a row, each of which refines the boxes of the one before (Cascade R-CNN, Cai and Vasconcelos 2018).

    The first stage samples, and is matched as ``matcher`` says; each later one learns from all boxes that the one
    before made of that sample, and asks for a higher IoU. The gradient that all stages send into the features is
    divided by their number. At prediction the boxes are those of the last stage, and the scores the mean of all stages.
    The other heads learn from the first stage's foreground. Box heads that give one box for all classes
    (``class_agnostic``) are what the paper has. The other options are those of ``StandardRoIHeads``.

    Args:
        box_head: classes and refined boxes, of each stage; its ``box_coder`` is the first stage's.
        later_stages: all stages but the first.
    """

    box_head: nn.ModuleList  # type: ignore[assignment]

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        *,
        box_head: Recipe[BoxHead],
        later_stages: tuple[CascadeStage, ...] = (_stage(0.6, 2.0), _stage(0.7, 3.0)),
        mask_head: Recipe[MaskHead] | None = None,
        keypoint_head: Recipe[KeypointHead] | None = None,
        in_features: tuple[str, ...] | None = None,
        matcher: Matcher = Matcher(0.5, 0.5),
        sampling: Sampling = Sampling(512, 0.25),
        append_ground_truth: bool = True,
    ):
        super().__init__(
            input_shape,
            num_classes,
            box_head=box_head,
            mask_head=mask_head,
            keypoint_head=keypoint_head,
            in_features=in_features,
            matcher=matcher,
            sampling=sampling,
            append_ground_truth=append_ground_truth,
        )
        shapes = choose_features(input_shape, in_features, "roi_heads.in_features")
        heads: list[nn.Module] = [self.box_head]
        for stage in later_stages:
            own = {} if stage.box_coder is None else {"box_coder": stage.box_coder}
            heads.append(box_head(shapes, num_classes, **own))
        self.box_head = nn.ModuleList(heads)
        self.later_matchers = [
            dataclasses.replace(matcher, background_thresh=stage.iou, foreground_thresh=stage.iou)
            for stage in later_stages
        ]

    @property
    def stages(self) -> list[BoxHead]:
        """The box heads, in their order."""
        return cast(list[BoxHead], list(self.box_head))

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Raises ValueError where later stages have a box coder, and box heads of this class have none."""
        head, stages = options["box_head"].cls, options["later_stages"]
        if "box_coder" not in options_of(head) and any(stage.box_coder is not None for stage in stages):
            instead = ", ".join(f"{{iou: {stage.iou:g}, box_coder: null}}" for stage in stages)
            raise ValueError(f"later_stages: {head.__name__} has no option 'box_coder'; write [{instead}]")

    def box_losses(
        self, features: Features, sampled: list[Instances], targets: list[Instances]
    ) -> tuple[Losses, list[Instances]]:
        """See ``StandardRoIHeads.box_losses``. Names of a stage's terms end in ``_stage0`` and so on."""
        scaled = {name: _ScaleGradient.apply(value, 1 / len(self.box_head)) for name, value in features.items()}
        losses, regions = Losses(), sampled
        for number, head in enumerate(self.stages):
            predictions = head.predictions(scaled, [image.boxes for image in regions])
            losses = losses | _numbered(head.losses(predictions, regions), number)
            if number < len(self.later_matchers):
                refined = head.boxes(predictions, regions)
                regions = self._relabelled(refined, targets, self.later_matchers[number])
        return losses, sampled

    def box_detections(self, features: Features, proposals: list[Instances]) -> list[Instances]:
        """See ``StandardRoIHeads.box_detections``."""
        scores = []
        for number, head in enumerate(self.stages):
            predictions = head.predictions(features, [p.boxes for p in proposals])
            scores.append(head.scores(predictions))
            if number < len(self.later_matchers):
                refined = head.boxes(predictions, proposals)
                proposals = [p.with_fields(boxes=boxes) for p, boxes in zip(proposals, refined)]
        return head.detections(predictions, proposals, torch.stack(scores).mean(dim=0))

    def choose(self, candidates: Instances) -> Instances:
        """See ``RegionPart.choose``."""
        return self.stages[-1].choose(candidates)

    @torch.no_grad()
    def _relabelled(self, boxes: Sequence[Boxes], targets: Sequence[Instances], matcher: Matcher) -> list[Instances]:
        """What a later stage learns from; boxes without an area are ignored."""
        labelled = [matcher.label(b, target, self.num_classes) for b, target in zip(boxes, targets)]
        return [image.with_fields(classes=image.classes.masked_fill(~image.boxes.nonempty(), -1)) for image in labelled]


def _numbered(losses: Losses, stage: int) -> Losses:
    parts = (losses.terms, losses.metrics, losses.normalisers)
    return Losses(*({f"{name}_stage{stage}": value for name, value in part.items()} for part in parts))


class _ScaleGradient(torch.autograd.Function):
    """The same values, with a gradient times ``factor``."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        """``values`` as they are."""
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """The gradient of ``values``."""
        return gradient * ctx.factor, None
