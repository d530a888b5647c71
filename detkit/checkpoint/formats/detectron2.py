"""Weights of Detectron2: its R-CNNs with all their heads, Semantic FPN, RetinaNet, FCOS, and backbones alone."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from detkit.checkpoint.formats.importing import IMPORTERS, Imported, Importer, Rules, import_by_rules, place_backbone
from detkit.checkpoint.formats.torchvision import coco_names
from detkit.checkpoint.formats.transformers import DERIVED, TRANSFORMER, fit_positions
from detkit.checkpoint.formats.two_way import Pairs, to_ours

_MOST_CONVS = 16

BACKBONE: Pairs = (("stem.{r}", "backbone.stem.{r}"), ("res{s}.{r}", "backbone.res{s}.{r}"), *TRANSFORMER)
"""A network whose maps the heads use as they are (C4, DC5); in whole models after ``backbone.``."""

PYRAMID: Pairs = (
    ("bottom_up.stem.{r}", "backbone.stem.{r}"),
    ("bottom_up.res{s}.{r}", "backbone.res{s}.{r}"),
    ("fpn_lateral{s}.{r}", "neck.laterals.res{s}.{r}"),
    ("fpn_output{s}.{r}", "neck.outputs.res{s}.{r}"),
    ("top_block.{r}", "neck.top_block.{r}"),
    *((f"bottom_up.{theirs}", ours) for theirs, ours in TRANSFORMER),
)
"""A network with a feature pyramid; in whole models after ``backbone.``."""

SIMPLE_PYRAMID: Pairs = (
    *((f"net.{theirs}", ours) for theirs, ours in TRANSFORMER),
    ("simfp_{s}.{r}", "neck.levels.p{s}.{r}"),
    ("top_block.{r}", "neck.top_block.{r}"),
)
"""A network with ViTDet's pyramid; in whole models after ``backbone.``."""

RPN_CONV: Pairs = (("proposal_generator.rpn_head.conv.{p}", "proposal_generator.head.convs.0.{p}"),)
"""The RPN's convolution, where it has one."""

RPN_CONVS: Pairs = (("proposal_generator.rpn_head.conv.conv{i}.{p}", "proposal_generator.head.convs.{i}.{p}"),)
"""The RPN's convolutions, where it has several."""

_POINTREND: Pairs = [
    (f"roi_heads.{prefix}{theirs}.{{p}}", f"roi_heads.mask_head.{ours}.{{p}}")
    for prefix in ("mask_head.", "mask_", "mask_head.mask_")  # today's names, and those of its earlier versions
    for theirs, ours in (
        ("coarse_head.reduce_channel_dim_conv", "coarse_head.reduce_channels"),
        ("coarse_head.reduce_spatial_dim_conv", "coarse_head.reduce_size"),
        *((f"coarse_head.fc{i + 1}", f"coarse_head.fcs.{i}") for i in range(_MOST_CONVS)),
        *((f"coarse_head.coarse_mask_fc{i + 1}", f"coarse_head.fcs.{i}") for i in range(_MOST_CONVS)),
        ("coarse_head.prediction", "coarse_head.predictor"),
        *((f"point_head.fc{i + 1}", f"point_head.fcs.{i}") for i in range(_MOST_CONVS)),
        ("point_head.predictor", "point_head.predictor"),
    )
]
"""PointRend's mask head."""

HEADS: Pairs = (
    ("proposal_generator.rpn_head.objectness_logits.{p}", "proposal_generator.head.objectness.{p}"),
    ("proposal_generator.rpn_head.anchor_deltas.{p}", "proposal_generator.head.anchor_deltas.{p}"),
    ("roi_heads.res5.{r}", "roi_heads.res5.{r}"),
    *(
        (f"roi_heads.{theirs}{i + 1}.{{r}}", f"roi_heads.{ours}.{i}.{{r}}")
        for theirs, ours in (
            ("box_head.conv", "box_head.convs"),
            ("box_head.fc", "box_head.fcs"),
            ("box_head.{n}.conv", "box_head.{n}.convs"),
            ("box_head.{n}.fc", "box_head.{n}.fcs"),
            ("mask_head.mask_fcn", "mask_head.convs"),
        )
        for i in range(_MOST_CONVS)
    ),
    *_POINTREND,
    ("roi_heads.box_predictor.cls_score.{p}", "roi_heads.box_head.cls_score.{p}"),
    ("roi_heads.box_predictor.bbox_pred.{p}", "roi_heads.box_head.bbox_pred.{p}"),
    ("roi_heads.box_predictor.{n}.cls_score.{p}", "roi_heads.box_head.{n}.cls_score.{p}"),
    ("roi_heads.box_predictor.{n}.bbox_pred.{p}", "roi_heads.box_head.{n}.bbox_pred.{p}"),
    ("roi_heads.mask_head.deconv.{p}", "roi_heads.mask_head.deconv.{p}"),
    ("roi_heads.mask_head.predictor.{p}", "roi_heads.mask_head.predictor.{p}"),
    *(
        (f"roi_heads.keypoint_head.conv_fcn{i + 1}.{{p}}", f"roi_heads.keypoint_head.convs.{i}.{{p}}")
        for i in range(_MOST_CONVS)
    ),
    ("roi_heads.keypoint_head.score_lowres.{p}", "roi_heads.keypoint_head.deconv.{p}"),
    *((f"sem_seg_head.p{{s}}.{2 * i}.{{r}}", f"semantic_head.convs.p{{s}}.{i}.{{r}}") for i in range(_MOST_CONVS)),
    ("sem_seg_head.predictor.{p}", "semantic_head.predictor.{p}"),
)
"""Everything behind the features. Rows are in detkit's order: background last, deltas (dx, dy, dw, dh)."""


def dense_head_pairs(with_norms: bool) -> Pairs:
    """The head of a one-stage detector: sequences of convolutions, norms if there are any, and activations."""
    pairs = [
        ("head.ctrness.{p}", "head.centreness.{p}"),
        *((f"head.{n}.{{p}}",) * 2 for n in ("cls_score", "bbox_pred")),
    ]
    for theirs, ours in (("head.cls_subnet", "head.cls_convs"), ("head.bbox_subnet", "head.box_convs")):
        for i in range(_MOST_CONVS):
            first = (3 if with_norms else 2) * i
            pairs.append((f"{theirs}.{first}.{{p}}", f"{ours}.{i}.{{p}}"))
            if with_norms:
                pairs.append((f"{theirs}.{first + 1}.{{q}}", f"{ours}.{i}.norm.{{q}}"))
                pairs.append((f"{theirs}.{first + 1}.{{n}}.{{q}}", f"{ours}.{i}.norm.levels.{{n}}.{{q}}"))
    return pairs


_RULES: Rules = to_ours(
    [
        *((f"backbone.{theirs}", ours) for theirs, ours in (*BACKBONE, *PYRAMID, *SIMPLE_PYRAMID)),
        *BACKBONE,
        *PYRAMID,
        *SIMPLE_PYRAMID,
        *RPN_CONV,
        *RPN_CONVS,
        *HEADS,
    ]
)

_UNUSED: Rules = (
    (r"pixel_(mean|std)", "the config has it: model.preprocess.pixel_mean and pixel_std"),
    (r"(proposal_generator\.)?anchor_generator\.cell_anchors\..*", "anchors: the config describes them"),
    (
        r"(backbone\.)?(bottom_up\.)?((stem\.)?fc|linear)\.(weight|bias)",
        "ImageNet's classifier: a detector has its own",
    ),
    *DERIVED,
)

_MARKS = re.compile(
    r"(backbone\.)?(bottom_up\.(stem|res\d)\.|fpn_(lateral|output)\d\.|(net|bottom_up)\.patch_embed\.).*"
    r"|proposal_generator\.rpn_head\..*"
    r"|(stem\.conv1|res[2-5]\.\d+\.(conv\d|shortcut))\..*"
)


@IMPORTERS.register()
class Detectron2Importer(Importer):
    """Detectron2's models and backbones (ResNets with any norm and with deformable convolutions, ViT, Swin).

    A backbone alone goes to where the model has those layers: into its backbone, with a res5 that the heads share
    into ``roi_heads.res5``.
    """

    name = "Detectron2"

    def recognises(self, names: Collection[str]) -> bool:
        return any(_MARKS.fullmatch(name) for name in names)

    def convert(self, state: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> Imported:
        dense = to_ours(dense_head_pairs("head.cls_subnet.1.weight" in state))
        imported = import_by_rules(state, [*_RULES, *dense], _UNUSED)
        place_backbone(imported, wanted)
        fit_positions(imported, wanted)
        imported.match_counters(wanted)
        return imported


def zoo_class_names(content: Mapping[Any, Any]) -> tuple[str, ...] | None:
    """COCO's 80 class names for a model of Detectron2's zoo with that many classes, its one for keypoints; else None.

    No file of Detectron2 names its classes. Those of the zoo name it as their author, and its only dataset with 80
    classes is COCO; its only one with keypoints is COCO's persons.

    Args:
        content: the whole file: ``model``, ``__author__``, ...
    """
    state = content.get("model")
    if content.get("__author__") != "Detectron2 Model Zoo" or not isinstance(state, Mapping):
        return None
    rows = [len(t) for n, t in state.items() if isinstance(t, Tensor) and str(n).endswith("cls_score.bias") and t.ndim]
    if rows and set(rows) == {2} and "roi_heads.keypoint_head.score_lowres.weight" in state:
        return ("person",)
    return coco_class_names() if set(rows) in ({81}, {9 * 80}) else None  # R-CNNs; RetinaNet with nine anchors


def coco_class_names() -> tuple[str, ...]:
    """The 80 classes of COCO by ascending category id, as Detectron2 numbers them."""
    return tuple(name for name in coco_names() if name != "N/A")


def coco_category_ids() -> tuple[int, ...]:
    """The ids that these classes have in COCO's files."""
    return tuple(id_ for id_, name in enumerate(coco_names(), 1) if name != "N/A")
