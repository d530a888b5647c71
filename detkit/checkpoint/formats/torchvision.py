"""Weights of torchvision: its R-CNNs, RetinaNet and FCOS, and its classification networks as backbones."""

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
from detkit.checkpoint.formats.torchvision_names import layout_of_theirs, resnet_pairs
from detkit.checkpoint.formats.transformers import DERIVED, TORCHVISION_SWIN
from detkit.checkpoint.formats.two_way import to_ours

NUM_COCO_ROWS = 91
"""Rows of torchvision's COCO models: the background and the category ids 1 to 90, ten of which mean nothing."""

_OLD_NAMES: Rules = (  # of files from before torchvision 0.13, which the published ones are
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    (r"roi_heads\.mask_head\.mask_fcn(\d+)\.(weight|bias)", lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.0.{m[2]}"),
)

_DENSE_SCORES = "head.classification_head.cls_logits.weight"
_DENSE_BIASES = ("head.classification_head.cls_logits.bias", "head.regression_head.bbox_reg.bias")

_UNUSED_OF_DETECTOR: Rules = ((r"rpn\.anchor_generator\..*", "anchors: the config describes them"),)


@IMPORTERS.register()
class TorchvisionImporter(Importer):
    """torchvision's R-CNNs with a feature pyramid, RetinaNet and FCOS, of every version.

    The maps of the pyramid and the names of the backbone's layers are chosen by the model: those of detkit's residual
    networks, or those of a ``TorchvisionBackbone``. torchvision's background is class 0: its row of the class scores
    goes to the end, those of the boxes and masks go away, as nothing ever reads them. Anchors stay in their order: the
    config's anchor generator must use torchvision's. A file with 91 rows has the classes of COCO by category id.

    RetinaNet and FCOS have no background; labels from 1 on, as COCO's category ids, leave class 0 unused there. That is
    taken to be so, and its rows go away, for a model of one class less than the file, and in a file of 91 classes
    unless the model has 91 too.
    """

    name = "torchvision"

    def recognises(self, names: Collection[str]) -> bool:
        two_stages = "rpn.head.cls_logits.weight", "roi_heads.box_predictor."
        return all(any(n.startswith(part) for n in names) for part in two_stages) or _DENSE_SCORES in names

    def convert(self, state: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> Imported:
        present = {name: renamed(name, _OLD_NAMES) or name for name in state}
        rules = to_ours(layout_of_theirs(list(present.values()), wanted).pairs)
        old = [(pattern, lambda match: renamed(present[match[0]], rules)) for pattern, _ in _OLD_NAMES]
        imported = import_by_rules(state, [*rules, *old], _UNUSED_OF_DETECTOR)
        scores = imported.model.get("roi_heads.box_head.cls_score.weight")
        if scores is not None:
            _drop_background(imported, len(scores))
            imported.class_names = coco_names() if len(scores) == NUM_COCO_ROWS else None
        elif "head.cls_score.weight" in imported.model:
            _drop_unused_class(imported, wanted, dense_rows(state))
            _give_levels_statistics(imported, wanted)
        imported.match_counters(wanted)
        return imported


def dense_rows(state: Mapping[str, Tensor]) -> int:
    """How many classes torchvision's RetinaNet or FCOS has; 0 for other models."""
    scores, boxes = (len(state.get(name, ())) for name in _DENSE_BIASES)
    return 4 * scores // max(boxes, 1)


def _drop_unused_class(imported: Imported, wanted: Mapping[str, torch.Size], num_classes: int) -> None:
    num_anchors = len(imported.model["head.cls_score.weight"]) // num_classes
    ours = wanted.get("head.cls_score.weight", [0])[0] // num_anchors
    if ours == num_classes - 1 or (num_classes == NUM_COCO_ROWS and ours != num_classes):
        imported.change(
            r"head\.cls_score\..*",
            lambda rows: rows.unflatten(0, (num_anchors, num_classes))[:, 1:].flatten(0, 1),
            "the rows of class 0, which is no class, dropped",
        )
        imported.class_names = coco_names() if num_classes == NUM_COCO_ROWS else None


def _give_levels_statistics(imported: Imported, wanted: Mapping[str, torch.Size]) -> None:
    """A batch norm of torchvision's dense heads has one mean and one variance: each level of the model begins there."""
    for name in [name for name in imported.model if name not in wanted]:
        norm, _, kind = name.rpartition(".")
        levels = [level for level in wanted if re.fullmatch(rf"{re.escape(norm)}\.levels\.\d+\.{kind}", level)]
        if levels:
            value = imported.model[name]
            imported.compute(dict.fromkeys(levels, value), dict.fromkeys(levels, (name,)), "that of all levels")


def _drop_background(imported: Imported, num_rows: int) -> None:
    head = r"roi_heads\.(?:box|mask)_head"
    imported.change(rf"{head}\.cls_score\..*", background_last, "rows reordered: background from first to last")
    for module, per_class, rows in (("bbox_pred", 4, "4 rows"), ("predictor", 1, "row")):
        names = [name for name in imported.model if re.fullmatch(rf"{head}\.{module}\..*", name)]
        fit = [re.escape(name) for name in names if len(imported.model[name]) == num_rows * per_class]
        drop = functools.partial(without_background, per_class=per_class)
        imported.change("|".join(fit) or "(?!)", drop, f"the background's {rows} dropped")


@IMPORTERS.register()
class TorchvisionClassifierImporter(Importer):
    """torchvision's classification networks, without their classifier, as a model's backbone.

    ResNet, wide ResNet and ResNeXt become detkit's ``ResNet`` and ``ResNeXt`` unless the model has a
    ``TorchvisionBackbone``, and Swin becomes detkit's ``Swin`` where the model has that; every other network becomes
    the body of a ``TorchvisionBackbone``. Also files that only look like torchvision's, such as those of many
    self-supervised methods.
    """

    name = "torchvision classifier"

    def recognises(self, names: Collection[str]) -> bool:
        tops = {name.split(".")[0] for name in names}
        return bool(tops & _BODY_PARTS) and all(
            top in _BODY_PARTS | _OTHER_PARTS or re.fullmatch(_NUMBERED_PARTS, top) for top in tops
        )

    def convert(self, state: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> Imported:
        as_body = any(name.startswith("backbone.body.") for name in wanted)
        as_swin = "features.1.0.attn.relative_position_bias_table" in state and any("stages.0." in n for n in wanted)
        rules = _AS_BODY if as_body or "layer1.0.conv1.weight" not in state else to_ours(resnet_pairs(""))
        if as_swin:
            rules = to_ours(TORCHVISION_SWIN)
        imported = import_by_rules(state, rules, (*_CLASSIFIERS, *(_OF_SWIN if as_swin else ())))
        place_backbone(imported, wanted)
        imported.match_counters(wanted)
        return imported


_BODY_PARTS = {"features", "layer1", "layers", "trunk_output", "blocks", "stage2", "inception3a", "Mixed_5b"}
_OTHER_PARTS = {"classifier", "fc", "head", "norm", "stem", "bn1"}
_NUMBERED_PARTS = r"conv\d|layer\d|stage\d|inception\d\w|aux\d|(Conv2d|Mixed)_\w+|AuxLogits"
_AS_BODY: Rules = (
    (r"(.*denselayer\d+\.(?:norm|conv))\.(\d.*)", r"backbone.body.\1\2"),  # DenseNet's norm1 was norm.1 once
    (r"(.*)", r"backbone.body.\1"),
)
_OF_SWIN: Rules = (*DERIVED, (r"norm\..*", "the norm before the classifier"))
_CLASSIFIERS: Rules = ((r"(fc|classifier|head|AuxLogits|aux\d)\..*", "classifier: a detector has its own"),)


def coco_names() -> tuple[str, ...]:
    """The 90 names of COCO by category id, "N/A" where COCO has no category, as torchvision's models use them."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights  # slow to load, and seldom needed

    return tuple(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:])
