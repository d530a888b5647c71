"""The two models that are compared: torchvision's Mask R-CNN, and detkit's with its weights."""

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detkit.checkpoint import load_weights
from detkit.comparisons.torchvision_reference import NUM_COCO_CLASSES, Settings, build_torchvision
from detkit.comparisons.weights import calibrate
from detkit.data import read_image
from detkit.experiment import load_experiment
from detkit.modeling import MetaArch
from detkit.structures import Sample

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "torchvision" / "mask_rcnn_R_50_FPN.yaml"
"""torchvision's maskrcnn_resnet50_fpn, as detkit builds it."""

CLASS_GAIN = 3.0
"""How much further apart class scores lie than ``calibrate`` puts them: far enough for 100 detections an image."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two models with the same weights.

    Args:
        theirs: torchvision's, in evaluation mode.
        ours: detkit's, in evaluation mode.
    """

    theirs: nn.Module
    ours: MetaArch

    def to(self, device: torch.device) -> "Pair":
        """Both on ``device``, in place."""
        self.theirs.to(device)
        self.ours.to(device)
        return self


def make_image(size: tuple[int, int] = (480, 640), seed: int = 0) -> Tensor:
    """``(3, height, width)`` uint8: smooth noise of several scales, always the same."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for cells in (4, 12, 40, 120):
        noise = torch.randn(1, 3, cells, cells * size[1] // size[0], generator=generator)
        layers.append(F.interpolate(noise, size, mode="bicubic", align_corners=False)[0])
    image = torch.stack(layers).sum(dim=0)
    return ((image - image.mean()) / image.std() * 50 + 115).clamp(0, 255).to(torch.uint8)


def images_of(path: Path | None, count: int) -> list[Tensor]:
    """``count`` images: of a file, flipped for every second, or made up."""
    if path is None:
        return [make_image(seed=seed) for seed in range(count)]
    image = torch.from_numpy(np.ascontiguousarray(read_image(str(path)))).permute(2, 0, 1).contiguous()
    return [image.flip(2) if number % 2 else image for number in range(count)]


def as_samples(images: list[Tensor]) -> list[Sample]:
    """The images as detkit takes them."""
    return [Sample(image, (image.shape[1], image.shape[2]), image_id=n) for n, image in enumerate(images)]


def make_pair(short_edge: int, image: Tensor, seed: int = 0, overrides: Sequence[str] = ()) -> Pair:
    """torchvision's model with random weights that find 100 objects in ``image``, and detkit's with the same weights.

    Args:
        short_edge: pixels that both resize the shorter side to; the longer one has at most 5/3 of it.
        image: ``(3, H, W)`` uint8.
        seed: of the weights.
        overrides: ``key.path=value`` changes to detkit's config.
    """
    settings = Settings(short_edge=short_edge, max_size=round(short_edge * 1333 / 800))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        theirs = build_torchvision("maskrcnn_resnet50_fpn", NUM_COCO_CLASSES, settings)
        calibrate(theirs, image.float() / 255, seed)
        with torch.no_grad():
            scores = theirs.roi_heads.box_predictor.cls_score  # type: ignore[union-attr]
            for parameter in scores.parameters():  # type: ignore[union-attr]
                parameter.mul_(CLASS_GAIN)
        ours = load_experiment(CONFIG, [*settings.overrides(), *overrides]).build_model(NUM_COCO_CLASSES)
    load_weights(ours, {name: value.clone() for name, value in theirs.state_dict().items()}, strict=True)
    return Pair(theirs, ours.eval())
