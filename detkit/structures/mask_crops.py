"""Masks cut to regions and resampled: the operators that the references make their mask targets with."""

from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import roi_align

from detkit.layers import crop_and_resize

CropMethod = Literal["roi_align", "roi_align_unaligned", "crop_and_resize"]
"""roi_align: RoIAlign with pixel centres at half-integers (Detectron2). roi_align_unaligned: its first version with
pixel centres at integers (torchvision's detection models). crop_and_resize: TensorFlow's operator, one bilinear sample
a cell and the outermost samples on the region's corners (matterport, pytorch-mask-rcnn)."""


def crop_maps(maps: Tensor, boxes: Tensor, size: int, method: CropMethod, sampling_ratio: int = 0) -> Tensor:
    """Map i inside box i, resampled.

    Args:
        maps: ``(N, H, W)`` bool or float.
        boxes: ``(N, 4)`` xyxy in pixels of the maps, on their device.
        size: side S of the result.
        method: the operator.
        sampling_ratio: samples a cell and axis of RoIAlign; 0 follows the size of the box.

    Returns:
        ``(N, S, S)`` float32, 0..1.
    """
    height, width = maps.shape[1:]
    index = torch.arange(len(maps), device=maps.device)
    if method == "crop_and_resize":
        parts = boxes / boxes.new_tensor([width, height] * 2)  # not by size - 1: as pytorch-mask-rcnn has it
        return crop_and_resize(maps[:, None], parts, index, size)[:, 0]
    rois = torch.cat([index[:, None].to(boxes), boxes], 1)
    values, aligned = maps[:, None].float(), method == "roi_align"
    return roi_align(values, rois, (size, size), 1.0, sampling_ratio, aligned)[:, 0]


def to_bits(values: Tensor, method: CropMethod) -> Tensor:
    """Resampled masks as bool: from one half on; ``crop_and_resize`` rounds as TensorFlow does, one half to 0."""
    return torch.round(values) > 0 if method == "crop_and_resize" else values >= 0.5


def check_pairs(num_masks: int, num_boxes: int) -> None:
    """Raises ValueError unless there are as many boxes as masks."""
    if num_boxes != num_masks:
        raise ValueError(f"crop_and_resize: {num_masks} masks but {num_boxes} boxes")
