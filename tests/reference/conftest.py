"""The matterport preset, as its YAMLs make it: with all its weights on no device, and small on the CPU."""

import numpy as np
import pytest
import torch
from reference_overrides import SHAPES, SMALL

from detkit.experiment import load_experiment
from detkit.structures import BitMasks, Boxes, Instances, Sample


@pytest.fixture(scope="session")
def preset(pytestconfig):
    """``configs/matterport/mask_rcnn_R_<depth>_FPN.yaml``, checked."""

    def load(*overrides, depth=50):
        return load_experiment(
            pytestconfig.rootpath / f"configs/matterport/mask_rcnn_R_{depth}_FPN.yaml", list(overrides)
        )

    return load


@pytest.fixture(scope="session")
def meta_models(preset):
    """The preset's two networks for COCO's 80 classes, without memory for weights."""
    with torch.device("meta"):
        return {depth: preset(depth=depth).build_model(80) for depth in (50, 101)}


@pytest.fixture
def small(preset):
    """The preset's network, narrow, for three classes; norms that do something, and tame activations."""
    model = preset(*SMALL).build_model(3)
    generator = torch.Generator().manual_seed(5)
    for name, buffer in model.named_buffers():
        if ".norm." in name:
            buffer.copy_(0.5 + 0.3 * torch.rand(buffer.shape, generator=generator))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.uniform_(parameter, -0.1, 0.1)
    return model.eval()


@pytest.fixture(scope="session")
def shapes(preset):
    """The preset on drawn shapes in squares of 128 pixels."""
    return preset(*SMALL, *SHAPES)


@pytest.fixture
def sample():
    """Noise with a few rectangles as objects."""

    def make(height=128, width=128, boxes=((10, 20, 60, 50), (40, 60, 110, 120)), classes=(0, 2), seed=0, **more):
        masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes):
            mask[y1:y2, x1:x2] = True
        target = Instances(
            (height, width),
            boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
            classes=torch.tensor(classes, dtype=torch.int64),
            masks=BitMasks(masks),
        )
        pixels = np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)
        return Sample(torch.from_numpy(pixels), (height, width), image_id=seed, target=target, **more)

    return make
