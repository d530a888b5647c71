"""Fixture files: what a reference computed on one image, with weights that anyone can make again."""

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from detkit.comparisons.measure import SCORE
from detkit.comparisons.weights import weights_by_name
from detkit.registry import DataError

Kind = Literal["Detectron2", "pytorch-mask-rcnn"]


@dataclasses.dataclass(frozen=True)
class Fixture:
    """A JSON of settings, and an ``.npz`` of arrays beside it.

    Args:
        path: the JSON.
        kind: which reference computed it.
        meta: the JSON's content.
        arrays: name -> array.
    """

    path: Path
    kind: Kind
    meta: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    def tensor(self, name: str) -> Tensor:
        """An array. Raises DataError where the file lacks it."""
        if name not in self.arrays:
            raise DataError(f"{self.path.with_suffix('.npz')}: has no array '{name}'; it has {', '.join(self.arrays)}")
        return torch.from_numpy(np.asarray(self.arrays[name]))

    def weights(self) -> dict[str, Tensor]:
        """The reference's state dict, made again (``weights_by_name``)."""
        return weights_by_name(self.meta["state_dict"], self.meta.get("gains", ()))

    @property
    def num_classes(self) -> int:
        """K, from the shapes of the weights. Raises DataError where these are of no detector."""
        if self.is_dense:  # of each anchor as many class scores, and four numbers of a box
            scores, boxes = (self.meta["state_dict"][f"head.{name}.bias"][0] for name in ("cls_score", "bbox_pred"))
            return 4 * int(scores) // int(boxes)
        last = ".cls_score.bias" if self.kind == "Detectron2" else "classifier.linear_class.bias"
        found = [int(shape[0]) for name, shape in self.meta["state_dict"].items() if name.endswith(last)]
        if not found:
            raise DataError(f"{self.path}: its weights have no class scores, so it is not of a detector")
        return found[0] - 1

    @property
    def is_dense(self) -> bool:
        """Whether it is of a one-stage detector."""
        return "head.cls_score.bias" in self.meta["state_dict"]

    @property
    def config_file(self) -> str:
        """The config that is the same model, below ``configs/``. Raises DataError where the fixture names none."""
        if self.kind == "Detectron2":
            if "config" not in self.meta["reference"]:
                raise DataError(f"{self.path}: does not name a config of the zoo; give detkit's by --config-file FILE")
            name = Path(self.meta["reference"]["config"]).stem
            return f"coco/{name.replace('_32x8d', '')}.yaml"
        blocks = {name.split(".")[2] for name in self.meta["state_dict"] if name.startswith("fpn.C4.")}
        return f"matterport/mask_rcnn_R_{101 if len(blocks) > 6 else 50}_FPN.yaml"

    def overrides(self) -> list[str]:
        """What the reference had set otherwise than the config."""
        if self.kind == "Detectron2":
            scores = self.tensor("scores")
            if self.is_dense:  # what scores less than the last detection has no part in choosing the others
                least = max(float(scores.min()) - SCORE, 0.0) if len(scores) else 1.0
                return ["data.test_augmentations=[]", f"model.head.score_thresh={least}", f"{_HEAD_LIMIT}=100000"]
            return [*DETECTRON2_SETTINGS, f"{_BOX}.detection.max_detections={max(len(scores), 1)}"]
        return _matterport_overrides(self.meta["config"])


_BOX, _HEAD_LIMIT = "model.roi_heads.box_head", "model.head.max_detections"

DETECTRON2_SETTINGS = (
    "data.test_augmentations=[]",
    f"{_BOX}.detection.score_thresh=0.013",
    "model.proposal_generator.sampling.batch_size_per_image=200000",
    "model.roi_heads.sampling.batch_size_per_image=8192",
)
"""Of the fixtures of Detectron2, which do not say so themselves: images as they are, many detections, and losses whose
sampling takes everything."""


def read_fixture(path: str | Path) -> Fixture:
    """A fixture of Detectron2 or of pytorch-mask-rcnn.

    Raises:
        DataError: a file is missing, cannot be read, or is no fixture.
    """
    path = Path(path)
    arrays = path.with_suffix(".npz")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        with np.load(arrays, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as a fixture, a JSON with an .npz of its name: {error}") from error
    keys = set(meta) if isinstance(meta, dict) else set()
    if {"state_dict", "reference"} <= keys:
        return Fixture(path, "Detectron2", meta, content)
    if {"state_dict", "config"} <= keys:
        return Fixture(path, "pytorch-mask-rcnn", meta, content)
    raise DataError(f"{path}: is no fixture: it has neither 'reference' (Detectron2) nor 'config' (pytorch-mask-rcnn)")


_MATTERPORT_OPTIONS = {
    "RPN_NMS_THRESHOLD": "model.proposal_generator.selection.nms_thresh",
    "POST_NMS_ROIS_INFERENCE": "model.proposal_generator.selection.post_nms_topk_test",
    "MEAN_PIXEL": "model.preprocess.pixel_mean",
    "POOL_SIZE": f"{_BOX}.pooler.output_size",
    "MASK_POOL_SIZE": "model.roi_heads.mask_head.pooler.output_size",
    "DETECTION_MIN_CONFIDENCE": f"{_BOX}.detection.score_thresh",
    "DETECTION_NMS_THRESHOLD": f"{_BOX}.detection.nms_thresh",
    "DETECTION_MAX_INSTANCES": f"{_BOX}.detection.max_detections",
}
"""pytorch-mask-rcnn's name of a setting -> detkit's option."""


def _matterport_overrides(config: Mapping[str, Any]) -> list[str]:
    values: dict[str, Any] = {option: config[name] for name, option in _MATTERPORT_OPTIONS.items() if name in config}
    if config.get("RPN_ANCHOR_STRIDE", 1) != 1:  # else every head will do
        values["model.proposal_generator.head.anchor_stride"] = config["RPN_ANCHOR_STRIDE"]
    anchors = "model.proposal_generator.anchor_generator"
    if "RPN_ANCHOR_SCALES" in config:
        values[f"{anchors}.sizes"] = [[scale] for scale in config["RPN_ANCHOR_SCALES"]]
    if "RPN_ANCHOR_RATIOS" in config:  # pytorch-mask-rcnn's are width / height
        values[f"{anchors}.aspect_ratios"] = [1 / ratio for ratio in config["RPN_ANCHOR_RATIOS"]]
    for name, coder in (("RPN_BBOX_STD_DEV", "model.proposal_generator"), ("BBOX_STD_DEV", _BOX)):
        if name in config:  # of dy, dx, dh, dw
            y, x, h, w = (round(1 / float(std), 6) for std in config[name])
            values[f"{coder}.box_coder.weights"] = [x, y, w, h]
    if "IMAGE_MAX_DIM" in config:
        mode = "square" if config.get("IMAGE_PADDING", True) else "none"
        sizes = f"min_size: {config.get('IMAGE_MIN_DIM') or 0}, max_size: {config['IMAGE_MAX_DIM']}"
        values["data.test_augmentations"] = f"[{{name: ResizeAndPad, mode: {mode}, {sizes}}}]"
    return [f"{option}={value}" for option, value in values.items()]
