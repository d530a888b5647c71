"""RoI heads that share the backbone's last stage."""

from collections.abc import Mapping
from typing import Any

import torch

from detkit.config import Recipe
from detkit.layers import ShapeSpec, choose_features
from detkit.modeling.backbones.residual import BottleneckStage
from detkit.modeling.interfaces import ROI_HEADS, BoxHead, Features, MaskHead, RoIPooler
from detkit.modeling.matcher import Matcher
from detkit.modeling.poolers import RegionFeatures
from detkit.modeling.roi_heads.standard import StandardRoIHeads
from detkit.modeling.sampling import Sampling
from detkit.structures import Boxes, Instances, Losses


@ROI_HEADS.register()
class Res5RoIHeads(StandardRoIHeads):
    """The C4 heads: regions of res4 go through res5, and box and mask head share what it gives (He et al. 2015, 2017).

    In training the mask head works on the features that the box head saw, so res5 runs once. The heads' own pooler is
    ``RegionFeatures``: the pooling has been done. The other options are those of ``StandardRoIHeads``.

    Args:
        pooler: features of a region, before res5.
        res5: the stage that every region goes through.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        *,
        box_head: Recipe[BoxHead],
        mask_head: Recipe[MaskHead] | None = None,
        pooler: Recipe[RoIPooler],
        res5: BottleneckStage = BottleneckStage(),
        in_features: tuple[str, ...] | None = None,
        matcher: Matcher = Matcher(0.5, 0.5),
        sampling: Sampling = Sampling(512, 0.25),
        append_ground_truth: bool = True,
    ):
        region_pooler = pooler(choose_features(input_shape, in_features, "roi_heads.in_features"))
        pooled = region_pooler.output_shape
        if pooled.height is None or pooled.width is None:
            raise ValueError("roi_heads.pooler: must give regions of a fixed size")
        stage = res5.build(pooled.channels)
        shape = ShapeSpec(
            channels=2 * pooled.channels,
            stride=pooled.stride * res5.stride,
            height=-(-pooled.height // res5.stride),
            width=-(-pooled.width // res5.stride),
        )
        super().__init__(
            {"res5": shape},
            num_classes,
            box_head=box_head,
            mask_head=mask_head,
            matcher=matcher,
            sampling=sampling,
            append_ground_truth=append_ground_truth,
        )
        self.pooler, self.res5 = region_pooler, stage

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Called when a config is loaded. Raises ValueError for heads that look at maps, which they do not get."""
        for name in ("box_head", "mask_head"):
            head: Any = options.get(name)
            pooler = None if head is None else head.kwargs.get("pooler")
            if getattr(getattr(head, "cls", None), "reads_maps", False):
                looks, fix = head.cls, "take another head, or other RoI heads"
            elif pooler is not None and not issubclass(pooler.cls, RegionFeatures):
                looks, fix = pooler.cls, "give it pooler: {name: RegionFeatures}"
            else:
                continue
            raise ValueError(
                f"{name}: {looks.__name__} looks at maps of the image, and {cls.__name__} has regions for its heads"
                f" that are pooled already; {fix}"
            )

    def regions(self, features: Features, boxes: list[Boxes]) -> Features:
        """What the heads look at: the boxes of each image, pooled and sent through res5."""
        return {"res5": self.res5(self.pooler(features, boxes))}

    def loss(self, features: Features, proposals: list[Instances], targets: list[Instances]) -> Losses:
        """See ``RoIHeads.loss``."""
        sampled = self.sample(self.label(proposals, targets))
        regions = self.regions(features, [image.boxes for image in sampled])
        losses = self.box_head.loss(regions, sampled) | Losses(metrics=self.metrics(sampled))
        if self.mask_head is None:
            return losses
        foreground = self.foreground(sampled, targets)
        per_image = regions["res5"].split([len(image) for image in sampled])
        first = torch.cat([rows[: len(chosen)] for rows, chosen in zip(per_image, foreground)])
        return losses | self.mask_head.loss({"res5": first}, foreground)

    def box_detections(self, features: Features, proposals: list[Instances]) -> list[Instances]:
        """See ``RoIHeads.box_detections``."""
        return self.box_head.predict(self.regions(features, [p.boxes for p in proposals]), proposals)

    def described(self, features: Features, instances: list[Instances]) -> list[Instances]:
        """See ``RoIHeads.described``."""
        if self.mask_head is None:
            return instances
        return self.mask_head.predict(self.regions(features, [i.boxes for i in instances]), instances)
