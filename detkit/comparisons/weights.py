"""Weights that anyone can make again, so that two implementations can be compared without a checkpoint."""

import re
import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from detkit.comparisons.hooks import recorded


def weights_by_name(shapes: Mapping[str, Sequence[int]], gains: Sequence[tuple[str, float]] = ()) -> dict[str, Tensor]:
    """A state dict that follows from names and shapes alone.

    Each tensor is normal noise from a generator whose seed is the CRC-32 of its name. Matrices and kernels are divided
    by the root of their inputs; of vectors, running variances are 1 and a tenth of the noise's size, weights 1 and a
    twentieth of it, all others a fiftieth of it. Then every pattern of ``gains`` that is found in the name multiplies.
    Counters of batch norms (``num_batches_tracked``) are 0.

    Args:
        shapes: name -> shape.
        gains: pairs of (regular expression, factor).
    """
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros(tuple(shape), dtype=torch.long)
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        noise = torch.randn(tuple(shape), generator=generator)
        if len(shape) > 1:
            value = noise / noise[0].numel() ** 0.5
        elif name.endswith("running_var"):
            value = 1.0 + 0.1 * noise.abs()
        elif name.endswith("weight"):
            value = 1.0 + 0.05 * noise
        else:
            value = 0.02 * noise
        for pattern, factor in gains:
            if re.search(pattern, name):
                value = value * factor
        state[name] = value
    return state


DEVIATIONS = (
    {"rpn.head.cls_logits": 2.0, "rpn.head.bbox_pred": 0.3},
    {"roi_heads.box_predictor.cls_score": 1.0, "roi_heads.box_predictor.bbox_pred": 1.0},
    {"roi_heads.mask_predictor.mask_fcn_logits": 2.0},
)
"""torchvision's last layers -> the standard deviation that their outputs get, stage by stage."""


@torch.no_grad()
def calibrate(reference: nn.Module, image: Tensor, seed: int) -> None:
    """Makes an untrained torchvision detector decide: statistics for its norms, and last layers whose outputs differ.

    A network as it is initialised gives every region nearly the same scores, and which of equals is kept is arbitrary.
    Here norms get random weights and the statistics of this image, so that what they give depends on it, and each last
    layer is scaled and shifted so that, on this image, every one of its channels has mean 0 and all together have the
    standard deviation in ``DEVIATIONS``.

    Args:
        reference: in place, in evaluation mode.
        image: ``(3, H, W)`` in 0..1.
        seed: of the norms' weights.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in reference.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.weight.uniform_(0.8, 1.2, generator=generator)
        norm.bias.uniform_(-0.1, 0.1, generator=generator)
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over what is seen
        norm.train()
    reference([image])
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()
    modules = dict(reference.named_modules())
    for stage in DEVIATIONS:
        layers = {name: modules[name] for name in stage if name in modules}  # Faster R-CNN has no masks
        with recorded(layers) as outputs:
            reference([image])
        for name, layer in layers.items():
            values = torch.cat([o.transpose(0, 1).flatten(1) for o in outputs[name]], dim=1)  # (channels, places)
            mean = values.mean(dim=1)
            factor = stage[name] / float((values - mean[:, None]).std().clamp(min=1e-12))
            layer.weight.mul_(factor)  # type: ignore[union-attr, operator]
            layer.bias.sub_(mean).mul_(factor)  # type: ignore[union-attr, operator]
