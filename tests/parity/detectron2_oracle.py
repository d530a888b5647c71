"""Detectron2's Faster and Mask R-CNN, written down a second time: functions over a state dict with Detectron2's names.

Nothing of detkit is used, only torch, torchvision's operators and pycocotools; so what agrees with this agrees for
another reason than sharing code. A batch goes through ``features``, ``proposals``, ``detections`` and ``losses``.
"""

import dataclasses
import math

import numpy as np
import pycocotools.mask
import torch
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_iou, deform_conv2d, roi_align

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
MAX_LOG = math.log(1000.0 / 16)


class Weights(dict):
    """A state dict that remembers what was read."""

    def __init__(self, *args):
        super().__init__(*args)
        self.read = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)

    def maybe(self, name):
        """The tensor, or None where there is none."""
        return self[name] if name in self else None  # noqa: SIM401 - dict.get would not see it read


@dataclasses.dataclass(frozen=True)
class Model:
    """What a config of Detectron2 says beside the weights. ``kind``: FPN, C4 or DC5."""

    kind: str = "FPN"
    depth: int = 50
    stride_in_1x1: bool = True
    modulated: bool = False
    pixel_std: tuple[float, ...] = (1.0, 1.0, 1.0)
    mask: bool = True
    box_convs: int = 0
    box_fcs: int = 2
    pre_nms_topk: int = 1000
    post_nms_topk: int = 1000
    score_thresh: float = 0.05
    max_detections: int = 100
    rpn_batch: int = 256

    @property
    def levels(self):
        """Name, stride and anchor sizes of each map that the RPN looks at."""
        if self.kind == "FPN":
            return [(f"p{i}", 2**i, (2 ** (i + 3),)) for i in range(2, 7)]
        return [("res4" if self.kind == "C4" else "res5", 16, (32, 64, 128, 256, 512))]


def batch_images(model, images):
    """RGB bytes (3, H, W) -> the normalised BGR batch, zeros to the right and below. Only FPN asks for multiples."""
    mean = torch.tensor([103.530, 116.280, 123.675])[:, None, None]
    std = torch.tensor(model.pixel_std)[:, None, None]
    normal = [(image[[2, 1, 0]].float() - mean) / std for image in images]
    multiple = 32 if model.kind == "FPN" else 1
    height, width = (math.ceil(max(i.shape[d] for i in normal) / multiple) * multiple for d in (1, 2))
    batch = torch.zeros(len(images), 3, height, width)
    for row, image in zip(batch, normal):
        row[:, : image.shape[1], : image.shape[2]] = image
    return batch, [tuple(image.shape[1:]) for image in images]


def norm(w, name, x):
    """Frozen, synchronised and plain batch norms in evaluation have statistics, group norms none."""
    if f"{name}.norm.weight" not in w:
        return x
    weight, bias = w[f"{name}.norm.weight"], w[f"{name}.norm.bias"]
    if f"{name}.norm.running_mean" not in w:
        return F.group_norm(x, 32, weight, bias, eps=1e-5)
    mean, var = w[f"{name}.norm.running_mean"], w[f"{name}.norm.running_var"]
    return F.batch_norm(x, mean, var, weight, bias, training=False, eps=1e-5)


def conv(w, name, x, stride=1, dilation=1):
    """Convolution that keeps the size at stride 1, and norm; groups follow from the weight's shape."""
    weight = w[f"{name}.weight"]
    pad = dilation * (weight.shape[2] // 2)
    groups = x.shape[1] // weight.shape[1]
    return norm(w, name, F.conv2d(x, weight, w.maybe(f"{name}.bias"), stride, pad, dilation, groups))


def deform(w, name, x, stride, modulated):
    """Offsets from a convolution beside it; modulated, its three thirds are the offsets' two halves and a mask."""
    offset, mask = conv(w, f"{name}_offset", x, stride), None
    if modulated:
        first, second, mask = offset.chunk(3, dim=1)
        offset, mask = torch.cat([first, second], dim=1), mask.sigmoid()
    return norm(w, name, deform_conv2d(x, offset, w[f"{name}.weight"], None, stride, 1, 1, mask))


def stage(w, prefix, x, blocks, stride, model, dilation=1):
    for i in range(blocks):
        name, step = f"{prefix}.{i}", stride if i == 0 else 1
        first, second = (step, 1) if model.stride_in_1x1 else (1, step)
        y = F.relu(conv(w, f"{name}.conv1", x, first))
        if f"{name}.conv2_offset.weight" in w:
            y = deform(w, f"{name}.conv2", y, second, model.modulated)
        else:
            y = conv(w, f"{name}.conv2", y, second, dilation)
        y = conv(w, f"{name}.conv3", F.relu(y))
        x = F.relu(y + (conv(w, f"{name}.shortcut", x, step) if i == 0 else x))
    return x


def features(w, model, batch):
    """The maps by Detectron2's names."""
    prefix = "backbone.bottom_up" if model.kind == "FPN" else "backbone"
    x = F.max_pool2d(F.relu(conv(w, f"{prefix}.stem.conv1", batch, 2)), 3, 2, 1)
    maps = {}
    for number, blocks in zip((2, 3, 4, 5), BLOCKS[model.depth]):
        if number == 5 and model.kind == "C4":
            break
        dilated = number == 5 and model.kind == "DC5"
        x = stage(w, f"{prefix}.res{number}", x, blocks, 1 if number == 2 or dilated else 2, model, 1 + dilated)
        maps[f"res{number}"] = x
    if model.kind != "FPN":
        return {name: maps[name] for name, _, _ in model.levels}
    levels, above = {}, None
    for number in (5, 4, 3, 2):
        here = conv(w, f"backbone.fpn_lateral{number}", maps[f"res{number}"])
        above = here if above is None else here + F.interpolate(above, scale_factor=2.0, mode="nearest")
        levels[f"p{number}"] = conv(w, f"backbone.fpn_output{number}", above)
    levels["p6"] = F.max_pool2d(levels["p5"], 1, 2, 0)
    return dict(sorted(levels.items()))


def grid_anchors(sizes, stride, height, width):
    """(H * W * A, 4); at a place the sizes, and within each the ratios 0.5, 1, 2 of height to width."""
    shapes = [(math.sqrt(size**2 / r), r * math.sqrt(size**2 / r)) for size in sizes for r in (0.5, 1.0, 2.0)]
    cell = torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in shapes])
    y, x = torch.meshgrid(torch.arange(height) * stride, torch.arange(width) * stride, indexing="ij")
    return (torch.stack([x, y, x, y], -1).float().reshape(-1, 1, 4) + cell).reshape(-1, 4)


def apply_deltas(boxes, deltas, weights):
    """Boxes (R, 4), deltas (R, 4k) -> (R, 4k)."""
    size = boxes[:, 2:] - boxes[:, :2]
    centre = boxes[:, :2] + 0.5 * size
    deltas = deltas.reshape(len(boxes), -1, 4) / torch.tensor(weights)
    middle = deltas[..., :2] * size[:, None] + centre[:, None]
    sides = deltas[..., 2:].clamp(max=MAX_LOG).exp() * size[:, None]
    return torch.cat([middle - 0.5 * sides, middle + 0.5 * sides], -1).reshape(len(boxes), -1)


def get_deltas(boxes, targets, weights):
    def parts(b):
        return (b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]

    (centre, size), (their_centre, their_size) = parts(boxes), parts(targets)
    return torch.cat([(their_centre - centre) / size, (their_size / size).log()], 1) * torch.tensor(weights)


def clip(boxes, size):
    return torch.stack([boxes[..., i].clamp(0, size[1 - i % 2]) for i in range(4)], -1)


def rpn(w, model, maps):
    """A level: anchors (HWA, 4), logits (N, HWA), deltas (N, HWA, 4)."""
    head, out = "proposal_generator.rpn_head", []
    for name, stride, sizes in model.levels:
        x = F.relu(conv(w, f"{head}.conv", maps[name]))
        logits, deltas = conv(w, f"{head}.objectness_logits", x), conv(w, f"{head}.anchor_deltas", x)
        n, _, height, width = logits.shape
        deltas = deltas.reshape(n, -1, 4, height, width).permute(0, 3, 4, 1, 2).reshape(n, -1, 4)
        out.append((grid_anchors(sizes, stride, height, width), logits.permute(0, 2, 3, 1).reshape(n, -1), deltas))
    return out


@torch.no_grad()
def proposals(w, model, maps, image_sizes):
    """An image: boxes and logits, best first. The best of each level are clipped, emptied and suppressed by level."""
    found, levels = [], rpn(w, model, maps)
    for image, size in enumerate(image_sizes):
        boxes, scores, level_of = [], [], []
        for number, (anchors, logits, deltas) in enumerate(levels):
            score, index = logits[image].topk(min(model.pre_nms_topk, logits.shape[1]))
            boxes.append(clip(apply_deltas(anchors[index], deltas[image][index], (1.0, 1.0, 1.0, 1.0)), size))
            scores.append(score)
            level_of.append(torch.full_like(index, number))
        boxes, scores, level_of = torch.cat(boxes), torch.cat(scores), torch.cat(level_of)
        solid = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
        boxes, scores, level_of = boxes[solid], scores[solid], level_of[solid]
        keep = batched_nms(boxes, scores, level_of, 0.7)[: model.post_nms_topk]
        found.append((boxes[keep], scores[keep]))
    return found


def pool(model, maps, boxes, side):
    """RoIAlignV2 with as many samples as a bin has pixels; from p2 to p5 by size, else from the one map."""
    rois = torch.cat([F.pad(b, (1, 0), value=float(i)) for i, b in enumerate(boxes)])
    if model.kind != "FPN":
        ((_, stride, _),) = model.levels
        return roi_align(next(iter(maps.values())), rois, side, 1 / stride, 0, aligned=True)
    area = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
    level = torch.floor(4 + torch.log2(area.sqrt() / 224 + 1e-8)).clamp(2, 5)
    out = torch.zeros(len(rois), maps["p2"].shape[1], side, side)
    for number in range(2, 6):
        rows = torch.nonzero(level == number).squeeze(1)
        out = out.index_put((rows,), roi_align(maps[f"p{number}"], rois[rows], side, 0.5**number, 0, aligned=True))
    return out


def box_features(w, model, maps, boxes):
    """What the box predictor sees; for C4 before its mean over the region."""
    if model.kind == "C4":
        return stage(w, "roi_heads.res5", pool(model, maps, boxes, 14), 3, 2, model)
    x = pool(model, maps, boxes, 7)
    for i in range(model.box_convs):
        x = F.relu(conv(w, f"roi_heads.box_head.conv{i + 1}", x))
    x = x.flatten(1)
    for i in range(model.box_fcs):
        x = F.relu(F.linear(x, w[f"roi_heads.box_head.fc{i + 1}.weight"], w[f"roi_heads.box_head.fc{i + 1}.bias"]))
    return x


def box_predictor(w, x):
    x = x.mean((2, 3)) if x.ndim == 4 else x
    name = "roi_heads.box_predictor"
    return (F.linear(x, w[f"{name}.{part}.weight"], w[f"{name}.{part}.bias"]) for part in ("cls_score", "bbox_pred"))


def mask_inner(w, model, x):
    """What the mask predictor sees, from pooled features (C4: from res5's)."""
    for i in range(0 if model.kind == "C4" else 4):
        x = F.relu(conv(w, f"roi_heads.mask_head.mask_fcn{i + 1}", x))
    name = "roi_heads.mask_head.deconv"
    return F.relu(F.conv_transpose2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=2))


def mask_logits(w, model, maps, boxes):
    pooled = box_features(w, model, maps, boxes) if model.kind == "C4" else pool(model, maps, boxes, 14)
    return conv(w, "roi_heads.mask_head.predictor", mask_inner(w, model, pooled))


@torch.no_grad()
def detections(w, model, maps, found, image_sizes, output_sizes):
    """An image: boxes, scores, classes and (with a mask head) bitmaps, in pixels of the output."""
    logits, deltas = box_predictor(w, box_features(w, model, maps, [boxes for boxes, _ in found]))
    boxes = apply_deltas(torch.cat([boxes for boxes, _ in found]), deltas, (10.0, 10.0, 5.0, 5.0))
    counts, kept = [len(b) for b, _ in found], []
    for rows, probs, size in zip(boxes.split(counts), logits.softmax(1).split(counts), image_sizes):
        rows = clip(rows.reshape(len(rows), -1, 4), size)
        chosen, classes = torch.nonzero(probs[:, :-1] > model.score_thresh, as_tuple=True)
        rows, scores = rows[chosen, classes], probs[chosen, classes]
        keep = batched_nms(rows, scores, classes, 0.5)[: model.max_detections]
        kept.append((rows[keep], scores[keep], classes[keep]))
    masks = [None] * len(kept)
    if model.mask:
        masks = mask_logits(w, model, maps, [boxes for boxes, _, _ in kept]).sigmoid()
        masks = masks[torch.arange(len(masks)), torch.cat([classes for _, _, classes in kept])]
        masks = masks.split([len(boxes) for boxes, _, _ in kept])
    return [rescaled(*parts, m, s, o) for parts, m, s, o in zip(kept, masks, image_sizes, output_sizes)]


def rescaled(boxes, scores, classes, masks, size, output):
    """To the pixels of the output, where what is empty is dropped."""
    scale_y, scale_x = output[0] / size[0], output[1] / size[1]
    boxes = clip(boxes * torch.tensor([scale_x, scale_y, scale_x, scale_y]), output)
    solid = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    masks = None if masks is None else paste(masks[solid], boxes[solid], output)
    return boxes[solid], scores[solid], classes[solid], masks


def paste(masks, boxes, size):
    """The image is looked up in each mask."""
    ys, xs = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
    out = torch.zeros(len(masks), *size, dtype=torch.bool)
    for row, mask, (x1, y1, x2, y2) in zip(out, masks, boxes):
        y, x = (ys - y1) / (y2 - y1) * 2 - 1, (xs - x1) / (x2 - x1) * 2 - 1
        grid = torch.stack([x[None].expand(len(y), -1), y[:, None].expand(-1, len(x))], -1)
        row[:] = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0] >= 0.5
    return out


@torch.no_grad()
def losses(w, model, maps, image_sizes, targets):
    """The five (or four) losses where sampling takes everything; targets are (boxes, classes, polygons) an image."""
    levels, terms = rpn(w, model, maps), {}
    anchors, logits = torch.cat([a for a, _, _ in levels]), torch.cat([s for _, s, _ in levels], 1)
    deltas, normaliser = torch.cat([d for _, _, d in levels], 1), model.rpn_batch * len(image_sizes)
    terms["loss_rpn_cls"] = terms["loss_rpn_loc"] = torch.zeros(())
    for image_logits, moves, (gt, _, _) in zip(logits, deltas, targets):
        iou = box_iou(gt, anchors)
        best, match = iou.max(0)
        positive = (best >= 0.7) | (iou == iou.max(1, keepdim=True).values).any(0)
        counted = positive | (best < 0.3)
        cls = F.binary_cross_entropy_with_logits(image_logits[counted], positive[counted].float(), reduction="sum")
        wanted = get_deltas(anchors[positive], gt[match[positive]], (1.0, 1.0, 1.0, 1.0))
        terms["loss_rpn_cls"] = terms["loss_rpn_cls"] + cls / normaliser
        terms["loss_rpn_loc"] = terms["loss_rpn_loc"] + (moves[positive] - wanted).abs().sum() / normaliser
    found = proposals(w, model, maps, image_sizes)
    return terms | roi_losses(
        w, model, maps, [torch.cat([b, gt]) for (b, _), (gt, _, _) in zip(found, targets)], targets
    )


def roi_losses(w, model, maps, boxes, targets):
    shared = box_features(w, model, maps, boxes)
    logits, deltas = box_predictor(w, shared)
    background, classes, gt_boxes, polygons = logits.shape[1] - 1, [], [], []
    for own, (gt, gt_classes, gt_polygons) in zip(boxes, targets):
        best, match = box_iou(gt, own).max(0)
        classes.append(torch.where(best >= 0.5, gt_classes[match], background))
        gt_boxes.append(gt[match])
        polygons += [gt_polygons[i] for i in match.tolist()]
    all_boxes, classes, gt_boxes = torch.cat(boxes), torch.cat(classes), torch.cat(gt_boxes)
    rows = torch.nonzero(classes < background).squeeze(1)
    assert len(rows), "no foreground, nothing to learn from"
    wanted = get_deltas(all_boxes[rows], gt_boxes[rows], (10.0, 10.0, 5.0, 5.0))
    moves = deltas.reshape(len(all_boxes), -1, 4)[rows, classes[rows]]
    terms = {
        "loss_cls": F.cross_entropy(logits, classes),
        "loss_box_reg": (moves - wanted).abs().sum() / len(all_boxes),
    }
    if not model.mask:
        return terms
    counts = [int((part < background).sum()) for part in classes.split([len(b) for b in boxes])]
    pooled = shared[rows] if model.kind == "C4" else pool(model, maps, all_boxes[rows].split(counts), 14)
    masks = conv(w, "roi_heads.mask_head.predictor", mask_inner(w, model, pooled))[
        torch.arange(len(rows)), classes[rows]
    ]
    side = masks.shape[-1]
    target = torch.stack([rasterise(polygons[i], all_boxes[i], side) for i in rows.tolist()])
    return terms | {"loss_mask": F.binary_cross_entropy_with_logits(masks, target)}


def rasterise(polygons, box, side):
    """The polygons of an object on the grid of a box."""
    x1, y1, x2, y2 = box.double().tolist()
    parts = []
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2) - (x1, y1)
        parts.append((points * (side / max(x2 - x1, 0.1), side / max(y2 - y1, 0.1))).ravel().tolist())
    merged = pycocotools.mask.merge(pycocotools.mask.frPyObjects(parts, side, side))
    return torch.from_numpy(pycocotools.mask.decode(merged)).float()
