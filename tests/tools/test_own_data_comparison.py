"""tools/comparisons/own_data.py: torchvision's classes beside the templates."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from detkit.experiment import load_experiment
from detkit.structures import BitMasks, Boxes, Instances, Sample

TOOLS = Path(__file__).parents[2] / "tools" / "comparisons"


@pytest.fixture(scope="module")
def comparison():
    spec = importlib.util.spec_from_file_location("own_data_comparison", TOOLS / "own_data.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["mask", "faster"])
def pair(request, comparison):
    """A template, and torchvision's class in its place."""
    tree = load_experiment(f"own_data/{request.param}_rcnn_small", ["train.init_weights=null"]).tree
    return tree, comparison.torchvision(tree)


def sample():
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    masks[0, 10:40, 10:50] = masks[1, 20:60, 50:90] = True
    boxes = Boxes([[10, 10, 50, 40], [50, 20, 90, 60]])
    target = Instances((64, 96), boxes=boxes, classes=torch.tensor([0, 1]), masks=BitMasks(masks))
    return Sample(torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8), (128, 192), 0, target=target)


def test_only_the_model_differs(pair):
    ours, theirs = (load_experiment(tree).tree for tree in pair)
    for name in ("data", "solver", "train", "evaluators"):
        assert ours[name] == theirs[name]
    assert theirs["model"]["name"] == "TorchvisionDetector"


def test_torchvisions_class_learns_and_predicts_as_a_model_of_detkit(pair):
    torch.manual_seed(0)
    model = load_experiment(pair[1]).build_model(2)
    with_masks = pair[0]["model"]["roi_heads"]["mask_head"] is not None
    losses = model.train()([sample(), sample()])
    assert ("loss_mask" in losses.terms) == with_masks
    losses.total().backward()
    found = model.eval()([sample()])[0].instances
    assert found.image_size == (128, 192)
    assert ("masks" in found) == with_masks
    boxes = found.boxes.tensor
    assert len(boxes)
    assert bool((boxes >= 0).all() and (boxes[:, 2] <= 192).all() and (boxes[:, 3] <= 128).all())
