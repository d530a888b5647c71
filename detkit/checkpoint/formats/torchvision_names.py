"""torchvision's names of the tensors of its residual networks and of its detectors."""

import dataclasses
import re
from collections.abc import Collection, Sequence

from detkit.checkpoint.formats.two_way import Pairs, indices, ordered

RESNET = "resnet"
"""The ``body`` of a layout whose network is one of detkit's residual ones, not a ``TorchvisionBackbone``."""


def resnet_pairs(prefix: str) -> Pairs:
    """torchvision's ResNet and ResNeXt below ``prefix``, and detkit's below ``backbone``."""
    pairs = [
        (f"{prefix}conv1.{{w}}", "backbone.stem.conv1.{w}"),
        (f"{prefix}bn1.{{q}}", "backbone.stem.conv1.norm.{q}"),
    ]
    for stage in range(2, 6):
        theirs, ours = f"{prefix}layer{stage - 1}.{{i}}", f"backbone.res{stage}.{{i}}"
        pairs += [
            (f"{theirs}.conv{{n}}.{{w}}", f"{ours}.conv{{n}}.{{w}}"),
            (f"{theirs}.bn{{n}}.{{q}}", f"{ours}.conv{{n}}.norm.{{q}}"),
            (f"{theirs}.downsample.0.{{w}}", f"{ours}.shortcut.{{w}}"),
            (f"{theirs}.downsample.1.{{q}}", f"{ours}.shortcut.norm.{{q}}"),
        ]
    return pairs


@dataclasses.dataclass(frozen=True)
class DetectorLayout:
    """What the names of one of torchvision's detectors depend on.

    Args:
        levels: detkit's names of the maps that the pyramid is made of, finest first.
        num_box_convs: convolutions of the box head.
        two_fcs: whether the box head is torchvision's plain one, whose two layers are called fc6 and fc7.
        body: RESNET; or, for a ``TorchvisionBackbone``, what stands before torchvision's names of the body in detkit's:
            ``"features."`` where torchvision took that part of the network alone, else nothing.
        dense_step: in the head of a one-stage detector, from one convolution to the next, with activations and norms as
            layers of their own: 2 (RetinaNet once) or 3 (FCOS); 0: the three are one block.
    """

    levels: tuple[str, ...]
    num_box_convs: int
    two_fcs: bool
    body: str
    dense_step: int = 0

    @property
    def pairs(self) -> Pairs:
        """The table of names."""
        backbone = "backbone.body."
        pairs = (
            [*resnet_pairs(backbone)] if self.body == RESNET else [(f"{backbone}{{r}}", f"{backbone}{self.body}{{r}}")]
        )
        for i, level in enumerate(self.levels):
            for theirs, ours in (("inner_blocks", "laterals"), ("layer_blocks", "outputs")):
                pairs.append((f"backbone.fpn.{theirs}.{i}.0.{{p}}", f"neck.{ours}.{level}.{{p}}"))
                pairs.append((f"backbone.fpn.{theirs}.{i}.1.{{q}}", f"neck.{ours}.{level}.norm.{{q}}"))
        pairs.append(("backbone.fpn.extra_blocks.p{i}.{p}", "neck.top_block.p{i}.{p}"))
        return [*pairs, *self._heads(), *self._dense_head()]

    def _dense_head(self) -> Pairs:
        pairs = [
            ("head.classification_head.cls_logits.{p}", "head.cls_score.{p}"),
            ("head.regression_head.bbox_reg.{p}", "head.bbox_pred.{p}"),
            ("head.regression_head.bbox_ctrness.{p}", "head.centreness.{p}"),
        ]
        for theirs, ours in (("classification_head", "cls_convs"), ("regression_head", "box_convs")):
            for i in range(16):
                start, step = f"head.{theirs}.conv", self.dense_step
                conv, norm = (f"{step * i}", f"{step * i + 1}") if step else (f"{i}.0", f"{i}.1")
                pairs.append((f"{start}.{conv}.{{p}}", f"head.{ours}.{i}.{{p}}"))
                if step != 2:
                    pairs.append((f"{start}.{norm}.{{q}}", f"head.{ours}.{i}.norm.{{q}}"))
        return pairs

    def _heads(self) -> Pairs:
        rpn, box, mask = "proposal_generator.head", "roi_heads.box_head", "roi_heads.mask_head"
        keypoint = "roi_heads.keypoint_head"
        pairs = [
            ("rpn.head.conv.{i}.0.{p}", f"{rpn}.convs.{{i}}.{{p}}"),
            ("rpn.head.cls_logits.{p}", f"{rpn}.objectness.{{p}}"),
            ("rpn.head.bbox_pred.{p}", f"{rpn}.anchor_deltas.{{p}}"),
            ("roi_heads.box_predictor.cls_score.{p}", f"{box}.cls_score.{{p}}"),
            ("roi_heads.box_predictor.bbox_pred.{p}", f"{box}.bbox_pred.{{p}}"),
            ("roi_heads.mask_head.{i}.0.{p}", f"{mask}.convs.{{i}}.{{p}}"),
            ("roi_heads.mask_head.{i}.1.{q}", f"{mask}.convs.{{i}}.norm.{{q}}"),
            ("roi_heads.mask_predictor.conv5_mask.{p}", f"{mask}.deconv.{{p}}"),
            ("roi_heads.mask_predictor.mask_fcn_logits.{p}", f"{mask}.predictor.{{p}}"),
            ("roi_heads.keypoint_predictor.kps_score_lowres.{p}", f"{keypoint}.deconv.{{p}}"),
            # One sequence, in which each convolution is followed by its activation.
            *((f"{keypoint}.{2 * i}.{{p}}", f"{keypoint}.convs.{i}.{{p}}") for i in range(16)),
        ]
        if self.two_fcs:
            return [*pairs, *((f"{box}.fc{i + 6}.{{p}}", f"{box}.fcs.{i}.{{p}}") for i in range(2))]
        # One sequence: the convolutions, a flattening, then a linear layer and its activation in turn.
        first = self.num_box_convs + 1
        fcs = [(f"{box}.{first + 2 * i}.{{p}}", f"{box}.fcs.{i}.{{p}}") for i in range(8)]
        convs = [
            (f"{box}.{{i}}.0.{{p}}", f"{box}.convs.{{i}}.{{p}}"),
            (f"{box}.{{i}}.1.{{q}}", f"{box}.convs.{{i}}.norm.{{q}}"),
        ]
        return [*pairs, *fcs, *convs]


def layout_of_theirs(names: Collection[str], wanted: Collection[str]) -> DetectorLayout:
    """The layout of a file of torchvision's with these names.

    Args:
        names: of the file's tensors, as torchvision's present version calls them.
        wanted: names of the model's tensors; empty where there is no model.
    """
    body = _body(names, wanted)
    num_levels = len(indices(names, r"backbone\.fpn\.inner_blocks\.(\d+)\..*"))
    levels = ordered(wanted, r"neck\.laterals\.([^.]+)\..*")
    if len(levels) != num_levels:
        levels = list(_usual_levels(num_levels, body))
    convs = indices(names, r"roi_heads\.box_head\.(\d+)\.0\.weight")
    two_fcs = "roi_heads.box_head.fc6.weight" in names
    return DetectorLayout(tuple(levels), len(convs), two_fcs, body, _dense_step(names))


def _dense_step(names: Collection[str]) -> int:
    if "head.classification_head.conv.0.weight" not in names:
        return 0
    return 3 if "head.classification_head.conv.1.weight" in names else 2


def layout_of_ours(names: Collection[str]) -> DetectorLayout:
    """The layout in which a detkit model with these names is written."""
    in_body = [name for name in names if name.startswith("backbone.body.")]
    numbered = all(re.match(r"backbone\.body\.features\.\d+\.", name) for name in in_body)
    convs = indices(names, r"roi_heads\.box_head\.convs\.(\d+)\.weight")
    fcs = indices(names, r"roi_heads\.box_head\.fcs\.(\d+)\.weight")
    return DetectorLayout(
        levels=tuple(ordered(names, r"neck\.laterals\.([^.]+)\..*")),
        num_box_convs=len(convs),
        two_fcs=not convs and len(fcs) == 2,
        body=("features." if numbered else "") if in_body else RESNET,
        dense_step=3 if "head.centreness.weight" in names else 0,
    )


def _usual_levels(number: int, body: str) -> Sequence[str]:
    """The names of the maps of a pyramid of that many levels, where there is no model to ask."""
    if body == "features." and number == 2:  # torchvision's MobileNet detectors: two maps of stride 32
        return "res5", "res5_2"
    return [f"res{6 - number + i}" for i in range(number)]


def _body(names: Collection[str], wanted: Collection[str]) -> str:
    """``DetectorLayout.body`` for a file and a model."""
    start = "backbone.body."
    rests = [name.removeprefix(start) for name in names if name.startswith(start)]
    ours = {name for name in wanted if name.startswith(start)}
    if not ours:
        if "conv1.weight" in rests:
            return RESNET
        return "features." if rests and all(rest[0].isdigit() for rest in rests) else ""
    parts = dict.fromkeys(["", *(name.split(".")[2] + "." for name in ours)])
    return max(parts, key=lambda part: sum(f"{start}{part}{rest}" in ours for rest in rests))
