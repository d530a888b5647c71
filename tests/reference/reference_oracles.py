"""Independent small computations, box by box and in numpy, of what matterport's Mask R-CNN states."""

import math

import numpy as np


def iou(a, b):
    """Of two boxes xyxy."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def greedy_nms(boxes, scores, thresh):
    """Indices of what is kept, best first; a box without area suppresses nothing."""
    boxes, kept = np.asarray(boxes, float), []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i in np.argsort(-np.asarray(scores), kind="stable"):
        low, high = np.maximum(boxes[i, :2], boxes[kept, :2]), np.minimum(boxes[i, 2:], boxes[kept, 2:])
        inter = (high - low).clip(min=0).prod(1)
        if not (inter > thresh * (areas[i] + areas[kept] - inter)).any():
            kept.append(int(i))
    return kept


def apply_deltas(box, deltas, std=(0.1, 0.1, 0.2, 0.2)):
    """A box y1, x1, y2, x2 moved by (dy, dx, log dh, log dw) / std."""
    dy, dx, dh, dw = (d * s for d, s in zip(deltas, std))
    y1, x1, y2, x2 = box
    height, width = y2 - y1, x2 - x1
    y, x = y1 + 0.5 * height + dy * height, x1 + 0.5 * width + dx * width
    height, width = height * math.exp(dh), width * math.exp(dw)
    return y - 0.5 * height, x - 0.5 * width, y + 0.5 * height, x + 0.5 * width


def refinement(box, truth, std=(0.1, 0.1, 0.2, 0.2)):
    """The deltas (dy, dx, log dh, log dw) / std from a box y1, x1, y2, x2 to the true one."""
    height, width, gt_height, gt_width = box[2] - box[0], box[3] - box[1], truth[2] - truth[0], truth[3] - truth[1]
    dy = ((truth[0] + truth[2]) / 2 - (box[0] + box[2]) / 2) / height
    dx = ((truth[1] + truth[3]) / 2 - (box[1] + box[3]) / 2) / width
    return [d / s for d, s in zip((dy, dx, math.log(gt_height / height), math.log(gt_width / width)), std)]


def crop_and_resize(image, box, size):
    """One bilinear sample a bin; ``box`` is y1, x1, y2, x2 in 0..1 of the (H, W) map; 0 outside of it."""
    height, width = image.shape
    out = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            y = box[0] * (height - 1) + i * (box[2] - box[0]) * (height - 1) / (size - 1)
            x = box[1] * (width - 1) + j * (box[3] - box[1]) * (width - 1) / (size - 1)
            if not (0 <= y <= height - 1 and 0 <= x <= width - 1):
                continue
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = image[top, left] * (1 - x + left) + image[top, right] * (x - left)
            lower = image[bottom, left] * (1 - x + left) + image[bottom, right] * (x - left)
            out[i, j] = upper * (1 - y + top) + lower * (y - top)
    return out


def anchors(scale, ratios, shape, feature_stride, anchor_stride):
    """matterport's anchors of one level, (A, 4) as y1, x1, y2, x2; ratios are width / height."""
    heights, widths = (np.array([scale / r**0.5 for r in ratios]), np.array([scale * r**0.5 for r in ratios]))
    rows = []
    for y in np.arange(0, shape[0], anchor_stride) * feature_stride:
        for x in np.arange(0, shape[1], anchor_stride) * feature_stride:
            rows += [(y - h / 2, x - w / 2, y + h / 2, x + w / 2) for h, w in zip(heights, widths)]
    return np.array(rows)


def smooth_l1(x):
    """Of numbers, with beta 1."""
    x = np.abs(x)
    return np.where(x < 1, 0.5 * x**2, x - 0.5)


def swap(boxes):
    """xyxy to yxyx and back."""
    return np.asarray(boxes)[..., [1, 0, 3, 2]]
