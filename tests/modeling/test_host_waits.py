"""How often a training step makes the host wait for a device.

A GPU computes while the host goes ahead, until the host asks for a number or for rows whose count only the data tell.
On the CPU nothing waits, but the operators that would can be counted.
"""

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import roi_align as kernel

from detkit.data import Mapper, Shapes
from detkit.experiment import load_experiment
from detkit.layers import roi_align

CONFIG = Path(__file__).parents[2] / "configs/quick_start/mask_rcnn_shapes.yaml"
NAMES = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "nms", "equal"}
COPIES = {"lift_fresh"}
"""A tensor from numbers of the host: torch waits until such have been copied."""
CALLS = {torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.__bool__}


class Operators(TorchDispatchMode):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        if name in NAMES | COPIES:
            self.seen[name] += 1
        masks = (
            [i for i in args[1] if i is not None and i.dtype == torch.bool] if name in ("index", "index_put_") else []
        )
        if masks and not (name == "index_put_" and args[2].numel() == 1):  # a single value fills, without rows
            self.seen[f"{name} by a mask"] += 1
        return func(*args, **(kwargs or {}))


class Calls(TorchFunctionMode):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in CALLS:
            self.seen[func.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def waits(monkeypatch):
    """A function: batch size -> what a step waits for, and how often."""

    def on_a_gpu(features, rois, size, scale, sampling_ratio, aligned):
        return kernel(features, rois, size, scale, sampling_ratio, aligned)

    monkeypatch.setattr(sys.modules[roi_align.__module__], "roi_align_bags", on_a_gpu)
    dataset = Shapes(num_images=4, image_size=(64, 96))
    mapper = Mapper(dataset)
    model = load_experiment(CONFIG).build_model_for(dataset.class_names).train()

    def count(batch_size):
        samples, seen = [mapper(0, i) for i in range(batch_size)], Counter()
        with Operators(seen), Calls(seen):
            model(samples).total().backward()
        return seen

    return count


def test_a_few_times_a_step_and_twice_an_image_for_its_suppression(waits):
    """Suppression gives as many boxes as it finds, and torchvision's sends it a number of the host's."""
    one, two, four = waits(1), waits(2), waits(4)
    per_image = {"nms": 1, "lift_fresh": 1}
    assert sum((one - Counter(per_image)).values()) <= 12, one
    for batch_size, seen in ((2, two), (4, four)):
        assert seen - one == Counter({name: number * (batch_size - 1) for name, number in per_image.items()})
