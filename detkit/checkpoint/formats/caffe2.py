"""Weights of Caffe2: backbones (MSRA's R-50 and R-101, FAIR's X-101) and models of the first Detectron."""

import functools
import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from detkit.checkpoint.formats.importing import (
    IMPORTERS,
    Imported,
    Importer,
    Rules,
    background_last,
    import_by_rules,
    place_backbone,
    renamed,
    without_background,
)

_LAYERS: Rules = (
    (r"(?:res_)?conv1", "backbone.stem.conv1"),
    (r"res([2-5])_(\d+)_branch1", r"backbone.res\1.\2.shortcut"),
    (r"res([2-5])_(\d+)_branch2([abc])", lambda m: f"backbone.res{m[1]}.{m[2]}.conv{'abc'.index(m[3]) + 1}"),
    (r"fpn_inner_res([2-5])_\d+_sum(?:_lateral)?", r"neck.laterals.res\1"),
    (r"fpn_res([2-5])_\d+_sum", r"neck.outputs.res\1"),
    (r"conv_rpn(?:_fpn2)?", "proposal_generator.head.convs.0"),  # shared by all levels, named after the first
    (r"rpn_cls_logits(?:_fpn2)?", "proposal_generator.head.objectness"),
    (r"rpn_bbox_pred(?:_fpn2)?", "proposal_generator.head.anchor_deltas"),
    (r"head_conv(\d+)", lambda m: f"roi_heads.box_head.convs.{int(m[1]) - 1}"),
    (r"fc([67])", lambda m: f"roi_heads.box_head.fcs.{int(m[1]) - 6}"),
    (r"cls_score|bbox_pred", r"roi_heads.box_head.\g<0>"),
    (r"_\[?mask\]?_fcn(\d+)", lambda m: f"roi_heads.mask_head.convs.{int(m[1]) - 1}"),
    (r"conv5_mask", "roi_heads.mask_head.deconv"),
    (r"mask_fcn_logits", "roi_heads.mask_head.predictor"),
    (r"conv_fcn(\d+)", lambda m: f"roi_heads.keypoint_head.convs.{int(m[1]) - 1}"),
    (r"kps_score_lowres", "roi_heads.keypoint_head.deconv"),
)

_TENSORS = {
    "w": "weight",
    "b": "bias",
    "bn_s": "norm.weight",
    "bn_b": "norm.bias",
    "bn_gamma": "norm.weight",
    "bn_beta": "norm.bias",
    "bn_rm": "norm.running_mean",
    "bn_riv": "norm.running_var",
    "bn_running_mean": "norm.running_mean",
    "bn_running_var": "norm.running_var",
    "gn_s": "norm.weight",
    "gn_b": "norm.bias",
}

_BLOB = rf"(.+?)_({'|'.join(_TENSORS)})"

_UNUSED: Rules = (
    (r".*_momentum", "the optimizer's momentum"),
    (r"(pred|fc1000)_[wb]", "classifier: a detector has its own"),
    (r"lr|iter|model_iter|weight_order", "the optimizer's state"),
    (r"kps_score_[wb]", "bilinear enlargement, which has no weights here"),
)

_MARKS = re.compile(
    r"(res_)?conv1_(w|bn_s|gn_s)|res\d_\d+_branch(1|2[abc])_w|fpn_(inner_)?res\d_\d+_sum.*|conv_rpn.*_w"
)


@IMPORTERS.register()
class Caffe2Importer(Importer):
    """Blobs of Caffe2, by the names that both generations of Detectron read.

    The first Detectron has the background as class 0: its row of the scores goes to the end, those of boxes and masks
    go away. Its anchors of several sizes on one map (C4) stand in another order than Detectron2's, which Detectron2
    does not correct either.
    """

    name = "Caffe2"

    def recognises(self, names: Collection[str]) -> bool:
        return any(_MARKS.fullmatch(name) for name in names)

    def convert(self, state: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> Imported:
        shared = "cls_score_w" in state and "fc6_w" not in state  # heads without layers of their own: on a common res5
        rename = functools.partial(_rename, res5="roi_heads.res5" if shared else "backbone.res5")
        imported = import_by_rules(state, ((_BLOB, rename),), _unused(state))
        place_backbone(imported, wanted)
        _drop_background(imported)
        _add_statistics(imported, wanted)
        imported.match_counters(wanted)
        return imported


def _rename(blob: re.Match[str], res5: str) -> str | None:
    layer = renamed(blob[1], _LAYERS)
    return None if layer is None else f"{layer.replace('backbone.res5', res5)}.{_TENSORS[blob[2]]}"


def _unused(state: Mapping[str, Tensor]) -> Rules:
    """The reasons, with one for the biases of convolutions before a norm, which networks of Caffe2 may have."""
    normed = {re.sub("^res_conv1$", "conv1", name[:-5]) for name in state if name.endswith(("_bn_s", "_gn_s"))}
    biases = "|".join(re.escape(f"{name}_b") for name in normed) or "(?!)"
    return (*_UNUSED, (biases, "bias before a norm, which Detectron2 leaves out too"))


def _drop_background(imported: Imported) -> None:
    head = r"roi_heads\.(?:box|mask)_head"
    imported.change(rf"{head}\.cls_score\..*", background_last, "rows reordered: background from first to last")
    imported.change(
        rf"{head}\.bbox_pred\..*", lambda rows: without_background(rows, 4), "the background's 4 rows dropped"
    )
    masks = rf"{head}\.predictor\..*"
    if not any(re.fullmatch(masks, name) and len(tensor) == 1 for name, tensor in imported.model.items()):
        imported.change(masks, without_background, "the background's row dropped")  # else one mask for all classes


def _add_statistics(imported: Imported, wanted: Mapping[str, torch.Size]) -> None:
    """Adds mean 0 and variance 1 for the batch norms that come without statistics.

    Such a file has them merged into scale and shift: y = scale * x + shift. Detectron2 reads a norm without statistics
    as one of mean 0 and variance 1, and adds its epsilon to that variance when it runs. So the scale that it works with
    is smaller than the file's by the factor 1 / sqrt(1 + 1e-5), and everything that was trained from there, its zoo
    included, has it so. The same numbers come out here because the same statistics go in.
    """
    scales = [name for name, theirs in imported.origin.items() if theirs.endswith(("_bn_s", "_bn_gamma"))]
    for name in scales:
        for statistic, fill in (("running_mean", torch.zeros_like), ("running_var", torch.ones_like)):
            ours = name.removesuffix("weight") + statistic
            if ours not in imported.model and (ours in wanted or not wanted):
                imported.model[ours] = fill(imported.model[name])
                imported.changes[ours] = "mean 0 and variance 1: the file's batch norms are a scale and a shift alone"
