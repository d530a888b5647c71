"""The reference implementation, written down a second time: functions over a state dict with its names.

Nothing of detkit is used. One image at a time, as the reference does it; boxes are (y1, x1, y2, x2), in shares of the
padded image where a name says ``norm`` and in its pixels elsewhere; class 0 is the background.
"""

import dataclasses
import math

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.ops import nms

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STD = torch.tensor([0.1, 0.1, 0.2, 0.2])
MEAN = torch.tensor([123.7, 116.8, 103.9])[:, None, None]


@dataclasses.dataclass(frozen=True)
class Config:
    """The reference implementation's config, in its words."""

    depth: int = 50
    rpn_anchor_stride: int = 1
    rpn_nms_threshold: float = 0.7
    pre_nms_limit: int = 6000
    post_nms_rois: int = 1000
    detection_min_confidence: float = 0.7
    detection_nms_threshold: float = 0.3
    detection_max_instances: int = 100


def shapes(depth=50, classes=5, width=256):
    """Name -> shape of every tensor."""
    out = {}

    def layer(name, *shape, bias=None):
        out[f"{name}.weight"], out[f"{name}.bias"] = shape, (bias or shape[0],)

    def norm(name, channels):
        out.update({f"{name}.{kind}": (channels,) for kind in ("weight", "bias", "running_mean", "running_var")})

    layer("fpn.C1.0", 64, 3, 7, 7)
    norm("fpn.C1.1", 64)
    channels = 64
    for stage, blocks in zip((2, 3, 4, 5), BLOCKS[depth]):
        inner = 64 * 2 ** (stage - 2)
        for i in range(blocks):
            for n, (o, c, k) in enumerate(((inner, channels, 1), (inner, inner, 3), (4 * inner, inner, 1)), 1):
                layer(f"fpn.C{stage}.{i}.conv{n}", o, c, k, k)
                norm(f"fpn.C{stage}.{i}.bn{n}", o)
            if i == 0:
                layer(f"fpn.C{stage}.0.downsample.0", 4 * inner, channels, 1, 1)
                norm(f"fpn.C{stage}.0.downsample.1", 4 * inner)
            channels = 4 * inner
        layer(f"fpn.P{stage}_conv1", width, channels, 1, 1)
        layer(f"fpn.P{stage}_conv2.1", width, width, 3, 3)
    layer("rpn.conv_shared", 512, width, 3, 3)
    layer("rpn.conv_class", 6, 512, 1, 1)
    layer("rpn.conv_bbox", 12, 512, 1, 1)
    for n, (c, k) in enumerate(((width, 7), (1024, 1)), 1):
        layer(f"classifier.conv{n}", 1024, c, k, k)
        norm(f"classifier.bn{n}", 1024)
    layer("classifier.linear_class", classes, 1024)
    layer("classifier.linear_bbox", 4 * classes, 1024)
    for n in range(1, 5):
        layer(f"mask.conv{n}", 256, width if n == 1 else 256, 3, 3)
        norm(f"mask.bn{n}", 256)
    layer("mask.deconv", 256, 256, 2, 2)
    layer("mask.conv5", classes, 256, 1, 1)
    return out


def same(x, kernel, stride):
    """Zeros as TensorFlow's SAME puts them: as many as are needed, the odd one below and to the right."""
    pads = []
    for size in (x.shape[3], x.shape[2]):
        lacking = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        pads += [lacking // 2, lacking - lacking // 2]
    return F.pad(x, pads)


def conv(w, name, x, norm=None, stride=1, pad=0):
    x = F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride, pad)
    if norm is None:
        return x
    parts = (w[f"{norm}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts, training=False, eps=0.001)


def features(w, config, image):
    """Bytes (3, H, W) with their padding -> P2 .. P6."""
    x = (image.float() - MEAN)[None]
    x = F.relu(conv(w, "fpn.C1.0", x, "fpn.C1.1", 2, 3))
    x = F.max_pool2d(same(x, 3, 2), 3, 2)
    maps = {}
    for stage, blocks in zip((2, 3, 4, 5), BLOCKS[config.depth]):
        for i in range(blocks):
            name, stride = f"fpn.C{stage}.{i}", 2 if stage > 2 and i == 0 else 1
            y = F.relu(conv(w, f"{name}.conv1", x, f"{name}.bn1", stride))
            y = F.relu(conv(w, f"{name}.conv2", same(y, 3, 1), f"{name}.bn2"))
            y = conv(w, f"{name}.conv3", y, f"{name}.bn3")
            x = conv(w, f"{name}.downsample.0", x, f"{name}.downsample.1", stride) if i == 0 else x
            x = F.relu(x + y)
        maps[stage] = x
    out, above = {}, None
    for stage in (5, 4, 3, 2):
        here = conv(w, f"fpn.P{stage}_conv1", maps[stage])
        above = here if above is None else here + F.interpolate(above, scale_factor=2, mode="nearest")
        out[f"p{stage}"] = conv(w, f"fpn.P{stage}_conv2.1", same(above, 3, 1))
    out["p6"] = F.max_pool2d(out["p5"], 1, 2)
    return dict(sorted(out.items()))


def rpn(w, config, maps):
    """Class logits (M, 2) and deltas (M, 4) of all levels: level, y, x, ratio."""
    logits, deltas = [], []
    for x in maps.values():
        x = F.relu(conv(w, "rpn.conv_shared", same(x, 3, config.rpn_anchor_stride), None, config.rpn_anchor_stride))
        logits.append(conv(w, "rpn.conv_class", x)[0].permute(1, 2, 0).reshape(-1, 2))
        deltas.append(conv(w, "rpn.conv_bbox", x)[0].permute(1, 2, 0).reshape(-1, 4))
    return torch.cat(logits), torch.cat(deltas)


def anchors(config, padded):
    """(M, 4) pixels: around every ``rpn_anchor_stride``-th place of a level; width / height 0.5, 1, 2."""
    rows = []
    for scale, stride in zip((32, 64, 128, 256, 512), (4, 8, 16, 32, 64)):
        height, width = (math.ceil(side / stride) for side in padded)
        for y in range(0, height, config.rpn_anchor_stride):
            for x in range(0, width, config.rpn_anchor_stride):
                for ratio in (0.5, 1, 2):
                    h, w = scale / math.sqrt(ratio), scale * math.sqrt(ratio)
                    cy, cx = y * stride, x * stride
                    rows.append([cy - h / 2, cx - w / 2, cy + h / 2, cx + w / 2])
    return torch.tensor(rows)


def apply_deltas(boxes, deltas):
    """Deltas in units of ``STD``."""
    deltas = deltas * STD
    size = boxes[:, 2:] - boxes[:, :2]
    centre = boxes[:, :2] + 0.5 * size + deltas[:, :2] * size
    size = size * deltas[:, 2:].exp()
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], 1)


def clip(boxes, region):
    y1, x1, y2, x2 = region
    return torch.stack([boxes[:, i].clamp(*((y1, y2), (x1, x2))[i % 2]) for i in range(4)], 1)


def proposals(config, logits, deltas, padded):
    """(R, 4) in shares of the padded image."""
    scores = logits.softmax(1)[:, 1]
    best = scores.sort(descending=True).indices[: config.pre_nms_limit]
    boxes = clip(apply_deltas(anchors(config, padded)[best], deltas[best]), (0, 0, *padded))
    keep = nms(boxes, scores[best], config.rpn_nms_threshold)[: config.post_nms_rois]
    return boxes[keep] / scale_of(padded)


def scale_of(padded):
    return torch.tensor([*padded, *padded], dtype=torch.float32)


def crop_and_resize(x, norm_boxes, side):
    """One map (C, H, W) -> (R, C, side, side): a bilinear sample a place, corners at corners, 0 outside."""
    height, width = x.shape[1:]
    out = torch.zeros(len(norm_boxes), len(x), side, side)
    step = torch.arange(side)
    for row, (y1, x1, y2, x2) in zip(out, norm_boxes):
        # in this order: the last bit decides whether a sample on the map's rim is inside
        ys = y1 * (height - 1) + step * ((y2 - y1) * (height - 1) / (side - 1))
        xs = x1 * (width - 1) + step * ((x2 - x1) * (width - 1) / (side - 1))
        inside = ((ys >= 0) & (ys <= height - 1))[:, None] & ((xs >= 0) & (xs <= width - 1))
        ys, xs = ys.clamp(0, height - 1), xs.clamp(0, width - 1)
        top, left = ys.floor().long(), xs.floor().long()
        bottom, right = ys.ceil().long(), xs.ceil().long()
        down, along = (ys - top)[:, None], xs - left
        upper = x[:, top][:, :, left] * (1 - along) + x[:, top][:, :, right] * along
        lower = x[:, bottom][:, :, left] * (1 - along) + x[:, bottom][:, :, right] * along
        row[:] = (upper * (1 - down) + lower * down) * inside
    return out


def pyramid_roi_align(maps, norm_boxes, side, padded):
    """From p2 to p5, the level rounded to the nearest."""
    h, w = (norm_boxes[:, 2:] - norm_boxes[:, :2]).unbind(1)
    level = 4 + torch.log2((h * w).sqrt() / (224.0 / math.sqrt(padded[0] * padded[1])))
    level = level.round().clamp(2, 5).int()
    out = torch.zeros(len(norm_boxes), maps["p2"].shape[1], side, side)
    for number in range(2, 6):
        rows = torch.nonzero(level == number).squeeze(1)
        out[rows] = crop_and_resize(maps[f"p{number}"][0], norm_boxes[rows], side)
    return out


def classifier(w, maps, norm_boxes, padded):
    """Class logits (R, C) and deltas (R, C, 4)."""
    x = pyramid_roi_align(maps, norm_boxes, 7, padded)
    for n in (1, 2):
        x = F.relu(conv(w, f"classifier.conv{n}", x, f"classifier.bn{n}"))
    x = x.flatten(1)
    name = "classifier.linear_"
    logits, deltas = (F.linear(x, w[f"{name}{part}.weight"], w[f"{name}{part}.bias"]) for part in ("class", "bbox"))
    return logits, deltas.reshape(len(x), -1, 4)


def masks(w, maps, norm_boxes, padded):
    """Probabilities (R, C, 28, 28)."""
    x = pyramid_roi_align(maps, norm_boxes, 14, padded)
    for n in range(1, 5):
        x = F.relu(conv(w, f"mask.conv{n}", same(x, 3, 1), f"mask.bn{n}"))
    x = F.relu(F.conv_transpose2d(x, w["mask.deconv.weight"], w["mask.deconv.bias"], stride=2))
    return conv(w, "mask.conv5", x).sigmoid()


def refine_detections(config, norm_boxes, probs, deltas, region, padded):
    """The best class alone of each region -> whole pixels (N, 4), classes from 1, scores; best first."""
    norm_boxes, probs, deltas = (x.detach() for x in (norm_boxes, probs, deltas))
    rows = torch.arange(len(probs))
    classes = probs.argmax(1)
    scores = probs[rows, classes]
    boxes = clip(apply_deltas(norm_boxes, deltas[rows, classes]) * scale_of(padded), region).round()
    keep = []
    for label in range(1, probs.shape[1]):
        own = np.flatnonzero((classes == label) & (scores >= config.detection_min_confidence))
        left = sorted(own, key=lambda i: -float(scores[i]))
        chosen = 0
        while left and chosen < config.detection_max_instances:
            best = left.pop(0)
            keep.append(best)
            chosen += 1
            left = [i for i in left if iou(boxes[best].tolist(), boxes[i].tolist()) <= config.detection_nms_threshold]
    keep = sorted(keep, key=lambda i: -float(scores[i]))[: config.detection_max_instances]
    return boxes[keep], classes[keep], scores[keep]


def iou(a, b):
    """Of two boxes, without +1; nothing over nothing is nothing."""
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(height, 0) * max(width, 0)
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / either if either else 0.0


def overlaps(first, second):
    """(N, M) IoU."""
    table = [[iou(a, b) for b in second.tolist()] for a in first.tolist()]
    return torch.tensor(table).reshape(len(first), len(second))


def refinement(boxes, targets):
    """Deltas from boxes to targets, in units of ``STD``."""
    size, wanted = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    move = ((targets[:, :2] + wanted / 2) - (boxes[:, :2] + size / 2)) / size
    return torch.cat([move, (wanted / size).log()], 1) / STD


def rpn_targets(config, padded, gt, crowds):
    """(M,) 1 positive, -1 negative, 0 neutral, and the box of each, where all of them are taken."""
    boxes = anchors(config, padded)
    table = overlaps(boxes, gt)
    best, match = table.max(1)
    clear = overlaps(boxes, crowds).amax(1) < 0.001 if len(crowds) else torch.ones(len(boxes), dtype=torch.bool)
    labels = torch.zeros(len(boxes), dtype=torch.long)
    labels[(best < 0.3) & clear] = -1
    labels[table.argmax(0)] = 1  # of several that are equally good the first
    labels[best >= 0.7] = 1
    return labels, match


def rpn_losses(config, padded, logits, deltas, gt, crowds):
    labels, match = rpn_targets(config, padded, gt, crowds)
    positive, counted = labels == 1, labels != 0
    wanted = refinement(anchors(config, padded)[positive], gt[match[positive]])
    return {
        "loss_rpn_cls": F.cross_entropy(logits[counted], positive[counted].long()),
        "loss_rpn_loc": F.smooth_l1_loss(deltas[positive], wanted),
    }


def detection_targets(norm_boxes, norm_gt, norm_crowds):
    """Rows of positives and of negatives, and the ground truth of each region."""
    best, match = overlaps(norm_boxes, norm_gt).max(1)
    clear = torch.ones(len(norm_boxes), dtype=torch.bool)
    if len(norm_crowds):
        clear = overlaps(norm_boxes, norm_crowds).amax(1) < 0.001
    return torch.nonzero(best >= 0.5).squeeze(1), torch.nonzero((best < 0.5) & clear).squeeze(1), match


def roi_losses(w, maps, padded, norm_boxes, gt, gt_classes, gt_masks, crowds):
    """Where all positives and all negatives are taken; ``gt_classes`` from 1, ``gt_masks`` (G, H, W) are padded."""
    scale = scale_of(padded)
    positive, negative, match = detection_targets(norm_boxes, gt / scale, crowds / scale)
    assert len(positive), "nothing to learn from"
    rows = torch.cat([positive, negative])
    logits, deltas = classifier(w, maps, norm_boxes[rows], padded)
    classes = gt_classes[match[positive]]
    all_classes = torch.cat([classes, torch.zeros(len(negative), dtype=torch.long)])
    index = torch.arange(len(positive))
    wanted = refinement(norm_boxes[positive], gt[match[positive]] / scale)
    small = masks(w, maps, norm_boxes[positive], padded)[index, classes]
    cut = [
        crop_and_resize(gt_masks[m][None].float(), norm_boxes[p][None], 28)[0, 0]
        for p, m in zip(positive, match[positive])
    ]
    return {
        "loss_cls": F.cross_entropy(logits, all_classes),
        "loss_box_reg": F.smooth_l1_loss(deltas[index, classes], wanted),
        "loss_mask": F.binary_cross_entropy(small, torch.stack(cut).round()),
    }
