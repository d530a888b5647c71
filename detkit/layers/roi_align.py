"""RoIAlign: torchvision's operator, and the same as matrix products where those are faster."""

import torch
from torch import Tensor
from torchvision.ops import roi_align as _roi_align

MATMUL_MAX_PIXELS = 5500
"""On the CPU, maps up to this size are pooled by matrix products. torchvision's kernel runs on one core and its time
follows the samples; the products run on all cores and their time follows the map. They meet near this size."""


def roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: int,
    scale: float,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Average of bilinear samples in each bin (Mask R-CNN, He et al. 2017).

    Args:
        features: ``(N, C, H, W)``.
        rois: ``(R, 5)``: image index, x1, y1, x2, y2 in input pixels; sorted by image.
        output_size: side S of the result.
        scale: feature pixels per input pixel.
        sampling_ratio: samples a bin and axis; 0 takes ceil(RoI size / S).
        aligned: true for pixel centres at half-integers. False is the operator's first version (torchvision's
            default): pixel centres at integers, which is half a feature pixel off, and RoIs of at least one feature
            pixel.

    Returns:
        ``(R, C, S, S)``.
    """
    if features.device.type == "cpu" and features.shape[-2] * features.shape[-1] <= MATMUL_MAX_PIXELS:
        return roi_align_matmul(features, rois, output_size, scale, sampling_ratio, aligned)
    if features.dtype in (torch.bfloat16, torch.float16):  # in which a place is off by pixels
        pooled = roi_align(features.float(), rois, output_size, scale, sampling_ratio, aligned)
        return pooled.to(features.dtype)
    rois = rois.to(features.dtype)
    return _roi_align(features, rois, (output_size, output_size), scale, sampling_ratio, aligned=aligned)


def roi_align_matmul(
    features: Tensor, rois: Tensor, output_size: int, scale: float, sampling_ratio: int, aligned: bool = True
) -> Tensor:
    """RoIAlign as rows x map x columns: bilinear interpolation and averaging both separate into the two axes.

    Arguments and result as for ``roi_align``.
    """
    height, width = features.shape[-2:]
    boxes = rois[:, 1:].float() * scale
    if aligned:
        boxes = boxes - 0.5
    else:
        boxes = torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)], dim=1)
    rows = _axis_weights(boxes[:, 1], boxes[:, 3], output_size, height, sampling_ratio).to(features.dtype)
    columns = _axis_weights(boxes[:, 0], boxes[:, 2], output_size, width, sampling_ratio).to(features.dtype)
    counts = torch.bincount(rois[:, 0].long(), minlength=len(features)).tolist()
    pooled = []
    for image, of_rows, of_columns in zip(features, rows.split(counts), columns.split(counts)):
        pixels = image.permute(1, 2, 0).reshape(height, -1)  # (H, W * C), a view where the map is channels-last
        strips = (of_rows.reshape(-1, height) @ pixels).reshape(len(of_rows), output_size, width, len(image))
        pooled.append(of_columns[:, None] @ strips)  # (r, S, S, C)
    return torch.cat(pooled).permute(0, 3, 1, 2)


def _axis_weights(low: Tensor, high: Tensor, bins: int, size: int, sampling_ratio: int) -> Tensor:
    """``(R, bins, size)``: what each pixel of one axis adds to each bin."""
    bin_size = (high - low) / bins
    samples = torch.full_like(low, float(sampling_ratio)) if sampling_ratio > 0 else bin_size.ceil()
    most = int(samples.max()) if len(samples) else 1
    step = torch.arange(most, device=low.device)
    place = (step + 0.5) / samples.clamp(min=1)[:, None]  # (R, K): where in its bin a sample lies
    index = torch.arange(bins, device=low.device)
    at = low[:, None, None] + (index[:, None] + place[:, None, :]) * bin_size[:, None, None]  # (R, bins, K)
    counted = (at >= -1) & (at <= size) & (step < samples[:, None, None])
    at = at.clamp(0, size - 1)
    pixel = torch.arange(size, device=low.device)
    weight = (1 - (at[..., None] - pixel).abs()).clamp(min=0) * counted[..., None]
    return weight.sum(dim=2) / samples.clamp(min=1)[:, None, None]
