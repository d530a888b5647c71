"""RoIAlign: torchvision's operator, and the same in other forms where those are faster."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align as _roi_align

MATMUL_MAX_PIXELS = 5500
"""On the CPU, maps in plain layout up to this size are pooled by matrix products. torchvision's kernel runs on one core
and its time follows the samples; the products run on all cores and their time follows the map. They meet near this
size."""


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
    if features.device.type == "cpu":
        if features.is_contiguous(memory_format=torch.channels_last):
            return roi_align_bags(features, rois, output_size, scale, sampling_ratio, aligned)
        if features.shape[-2] * features.shape[-1] <= MATMUL_MAX_PIXELS:
            return roi_align_matmul(features, rois, output_size, scale, sampling_ratio, aligned)
    wide = features if features.dtype == torch.float64 else features.float()  # in bf16 a place is off by pixels
    pooled = _roi_align(wide, rois.to(wide.dtype), (output_size, output_size), scale, sampling_ratio, aligned=aligned)
    return pooled.to(features.dtype)


def roi_align_bags(
    features: Tensor, rois: Tensor, output_size: int, scale: float, sampling_ratio: int, aligned: bool = True
) -> Tensor:
    """RoIAlign as weighted sums of rows of a table: a channels-last map is one, with a pixel a row.

    A bin is the sum of a few pixels, four a sample, each times its weight, and ``embedding_bag`` adds up such rows on
    all cores, whole vectors of channels at a time, forward and backward.

    Arguments and result as for ``roi_align``; ``features`` in channels-last layout.
    """
    channels, height, width = features.shape[1:]
    boxes = _sampled_boxes(rois, scale, aligned)
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    size = (boxes[:, 2:] - boxes[:, :2]) / output_size
    samples = torch.full_like(size, float(sampling_ratio)) if sampling_ratio > 0 else size.ceil().clamp(min=0)
    most = samples.amax(dim=1).clamp(min=1)
    groups = [torch.nonzero(most == k).squeeze(1) for k in most.unique().tolist()]  # as many samples: one table of taps
    pooled = []
    for rows in groups:
        x, of_x = _taps(boxes[rows, 0], size[rows, 0], samples[rows, 0], output_size, width)
        y, of_y = _taps(boxes[rows, 1], size[rows, 1], samples[rows, 1], output_size, height)
        y = y + rois[rows, 0].long()[:, None, None] * height
        index = (y[:, :, None, :, None] * width + x[:, None, :, None, :]).flatten(3).flatten(0, 2)
        weight = (of_y[:, :, None, :, None] * of_x[:, None, :, None, :]).flatten(3).flatten(0, 2)
        bins = F.embedding_bag(index, table, mode="sum", per_sample_weights=weight.to(table.dtype))
        pooled.append(bins.reshape(len(rows), output_size, output_size, channels))
    if len(groups) != 1:
        order = torch.argsort(torch.cat(groups)) if groups else rois.new_zeros(0, dtype=torch.long)
        empty = table[:0].reshape(0, output_size, output_size, channels)
        pooled = [torch.cat([*pooled, empty])[order]]
    return pooled[0].permute(0, 3, 1, 2)


def _sampled_boxes(rois: Tensor, scale: float, aligned: bool) -> Tensor:
    """``(R, 4)`` in pixels of the map, from centre to centre."""
    boxes = rois[:, 1:].float() * scale
    if aligned:
        return boxes - 0.5
    return torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)], dim=1)


def _taps(low: Tensor, bin_size: Tensor, samples: Tensor, bins: int, size: int) -> tuple[Tensor, Tensor]:
    """``(R, bins, 2K)`` pixels of one axis that each bin adds up, two a sample, and their weights; K: most samples."""
    most = max(int(samples.max()), 1)
    step, index = torch.arange(most, device=low.device), torch.arange(bins, device=low.device)
    number = samples.clamp(min=1)[:, None, None]
    bin_size = bin_size[:, None, None]
    at = low[:, None, None] + index[:, None] * bin_size + (step + 0.5) * bin_size / number  # (R, bins, K)
    share = ((at >= -1) & (at <= size) & (step < samples[:, None, None])) / number
    at = at.clamp(0, size - 1)
    pixel = at.floor()
    beyond = at - pixel
    pixels = torch.stack([pixel, (pixel + 1).clamp(max=size - 1)], dim=-1).long()
    return pixels.flatten(2), (torch.stack([1 - beyond, beyond], dim=-1) * share[..., None]).flatten(2)


def roi_align_matmul(
    features: Tensor, rois: Tensor, output_size: int, scale: float, sampling_ratio: int, aligned: bool = True
) -> Tensor:
    """RoIAlign as rows x map x columns: bilinear interpolation and averaging both separate into the two axes.

    Arguments and result as for ``roi_align``.
    """
    height, width = features.shape[-2:]
    boxes = _sampled_boxes(rois, scale, aligned)
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
