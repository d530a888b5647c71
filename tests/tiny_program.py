"""The smallest Mask R-CNN, of one convolution and a single map, and its programs, made once for all tests."""

import fcntl
import functools
import importlib.util
from pathlib import Path
from unittest import mock

import torch
from tiny_detector import CONFIG, TINY
from torch import Tensor, nn

from detkit.experiment import Experiment, load_experiment
from detkit.export import InputShape, export, program
from detkit.layers import ShapeSpec
from detkit.modeling.interfaces import BACKBONES, Backbone, Features
from detkit.modeling.meta_archs.features import FeatureModel
from detkit.structures import Instances, Sample

NOT_ASCII = "output/größe 😀"
"""A value in the config."""
FIXED = InputShape(2, (96, 160))
OVERRIDES = [
    *TINY,
    "model.backbone={name: OneConv}",
    "model.neck=null",
    "model.proposal_generator.in_features=[c3]",
    "model.proposal_generator.anchor_generator.sizes=[[32]]",
    "model.proposal_generator.selection.pre_nms_topk_test=20",
    "model.proposal_generator.selection.post_nms_topk_test=12",
    "model.roi_heads.in_features=[c3]",
    "model.roi_heads.box_head.detection.max_detections=6",
    "model.roi_heads.box_head.detection.score_thresh=0.2",
    "data.test_augmentations=[{name: ResizeShortestEdge, short_edge: [96], max_size: 160}]",
]


@BACKBONES.register()
class OneConv(Backbone):
    """One convolution of stride 8."""

    def __init__(self, input_shape: ShapeSpec):
        super().__init__(input_shape)
        self.conv = nn.Conv2d(input_shape.channels, 8, 8, 8)
        self.output_shape = {"c3": ShapeSpec(channels=8, stride=8)}

    def forward(self, images: Tensor) -> Features:
        return {"c3": self.conv(images).relu()}


def experiment(*overrides: str) -> Experiment:
    """The model's experiment, with further overrides."""
    return load_experiment(CONFIG, [*OVERRIDES, f"train.output_dir={NOT_ASCII}", *overrides])


def model(exp: Experiment, seed: int = 1) -> FeatureModel:
    """The model with random weights, of which it is sure."""
    torch.manual_seed(seed)
    made = exp.build_model(class_names=exp.data.train_set.class_names, pretrained=False).eval()
    assert isinstance(made, FeatureModel)
    factors = {"objectness": 20.0, "anchor_deltas": 4.0, "cls_score": 12.0, "bbox_pred": 30.0, "predictor": 12.0}
    with torch.no_grad():
        for name, layer in made.named_modules():
            if (factor := factors.get(name.rpartition(".")[2])) is not None and hasattr(layer, "weight"):
                layer.weight.mul_(factor)
    return made


def write_programs(folder: Path) -> Path:
    """Makes ``model.pt2``, ``fixed.pt2`` (``FIXED``) and, where the libraries are there, ``model.onnx`` and
    ``model.xml``, unless another process has."""
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            exp = experiment()
            made, steps = model(exp), exp.tree["data"]["test_augmentations"]
            with mock.patch.object(program, "traced", functools.cache(program.traced)):
                export(made, folder / "model.pt2", config=exp.tree, steps=steps)
                export(made, folder / "fixed.pt2", config=exp.tree, steps=steps, shape=FIXED)
                for suffix, library in ((".onnx", "onnxruntime"), (".xml", "openvino")):
                    if importlib.util.find_spec(library) is not None:
                        export(made, folder / f"model{suffix}", config=exp.tree, steps=steps)
            (folder / "done").touch()
    return folder


def samples(*sizes: tuple[int, int], seed: int = 0) -> list[Sample]:
    """Images of smooth noise of ``(height, width)``."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for size in sizes:
        coarse = torch.rand(1, 3, 6, 8, generator=generator) * 255
        found.append(Sample(nn.functional.interpolate(coarse, size, mode="bilinear")[0].byte(), size))
    return found


def assert_same(expected: Instances, found: Instances) -> int:
    """That both are the same detections; returns their number."""
    assert found.image_size == expected.image_size
    assert len(found) == len(expected)
    torch.testing.assert_close(found.boxes.tensor, expected.boxes.tensor, atol=0.01, rtol=0)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
    assert torch.equal(found.classes, expected.classes)
    if "masks" in expected:
        mine, others = (torch.as_tensor(instances.masks.tensor) for instances in (expected, found))
        assert (mine != others).float().mean() <= 1e-4 if mine.numel() else mine.shape == others.shape
    return len(expected)
