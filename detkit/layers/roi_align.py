"""RoIAlign: torchvision's operator, and the same for channels-last maps on the CPU, which that operator copies."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align as _roi_align


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
        rois: ``(R, 5)``: image index, x1, y1, x2, y2 in input pixels.
        output_size: side S of the result.
        scale: feature pixels per input pixel.
        sampling_ratio: samples a bin and axis; 0 takes ceil(RoI size / S).
        aligned: true for pixel centres at half-integers. False is the operator's first version (torchvision's
            default): pixel centres at integers, which is half a feature pixel off, and RoIs of at least one feature
            pixel.

    Returns:
        ``(R, C, S, S)``.
    """
    if features.is_cpu and features.is_contiguous(memory_format=torch.channels_last):
        return roi_align_channels_last(features, rois, output_size, scale, sampling_ratio, aligned)
    return plain_roi_align(features, rois, output_size, scale, sampling_ratio, aligned)


def plain_roi_align(
    features: Tensor, rois: Tensor, output_size: int, scale: float, sampling_ratio: int = 0, aligned: bool = True
) -> Tensor:
    """``roi_align`` by torchvision's operator, whatever the layout."""
    wide = features if features.dtype == torch.float64 else features.float()  # in bf16 a place is off by pixels
    pooled = _roi_align(wide, rois.to(wide.dtype), (output_size, output_size), scale, sampling_ratio, aligned=aligned)
    return pooled.to(features.dtype)


def roi_align_channels_last(
    features: Tensor, rois: Tensor, output_size: int, scale: float, sampling_ratio: int, aligned: bool = True
) -> Tensor:
    """RoIAlign as weighted sums of rows of a table: a channels-last map is one, with a pixel a row.

    A bin is the sum of a few pixels, four a sample, each times its weight, and ``embedding_bag`` adds up such rows on
    all cores, whole vectors of channels at a time, forward and backward. torchvision's kernel for the CPU takes plain
    layout alone and runs on one core.

    Arguments and result as for ``roi_align``; ``features`` in channels-last layout.
    """
    channels, height, width = features.shape[1:]
    boxes = rois[:, 1:].float() * scale  # in pixels of the map, from centre to centre
    if aligned:
        boxes = boxes - 0.5
    else:
        boxes = torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)], dim=1)
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    size = (boxes[:, 2:] - boxes[:, :2]) / output_size
    samples = torch.full_like(size, float(sampling_ratio)) if sampling_ratio > 0 else size.ceil().clamp(min=0)
    largest = samples.amax(dim=1).clamp(min=1)
    groups = [torch.nonzero(largest == k).squeeze(1) for k in largest.unique().tolist()]  # RoIs with as many samples
    pooled = []
    for rows in groups:
        x, weight_x = _taps(boxes[rows, 0], size[rows, 0], samples[rows, 0], output_size, width)
        y, weight_y = _taps(boxes[rows, 1], size[rows, 1], samples[rows, 1], output_size, height)
        y = y + rois[rows, 0].long()[:, None, None] * height
        index = (y[:, :, None, :, None] * width + x[:, None, :, None, :]).flatten(3).flatten(0, 2)
        weight = (weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]).flatten(3).flatten(0, 2)
        bins = F.embedding_bag(index, table, mode="sum", per_sample_weights=weight.to(table.dtype))
        pooled.append(bins.reshape(len(rows), output_size, output_size, channels))
    if len(groups) != 1:
        order = torch.argsort(torch.cat(groups)) if groups else rois.new_zeros(0, dtype=torch.long)
        empty = table[:0].reshape(0, output_size, output_size, channels)
        pooled = [torch.cat([*pooled, empty])[order]]
    return pooled[0].permute(0, 3, 1, 2)


def _taps(low: Tensor, bin_size: Tensor, samples: Tensor, bins: int, size: int) -> tuple[Tensor, Tensor]:
    """``(R, bins, 2K)`` pixels of one axis that each bin adds up, two a sample, and their weights; K: most samples."""
    step = torch.arange(max(int(samples.max()), 1), device=low.device)
    index = torch.arange(bins, device=low.device)
    number = samples.clamp(min=1)[:, None, None]
    bin_size = bin_size[:, None, None]
    at = low[:, None, None] + index[:, None] * bin_size + (step + 0.5) * bin_size / number  # (R, bins, K)
    share = ((at >= -1) & (at <= size) & (step < samples[:, None, None])) / number
    at = at.clamp(0, size - 1)
    pixel = at.floor()
    beyond = at - pixel
    pixels = torch.stack([pixel, (pixel + 1).clamp(max=size - 1)], dim=-1).long()
    return pixels.flatten(2), (torch.stack([1 - beyond, beyond], dim=-1) * share[..., None]).flatten(2)
