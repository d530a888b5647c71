"""Non-maximum suppression of a batch on the GPU, in Triton: nothing waits for the device. Imports triton.

Letters: ``N`` images, ``M`` boxes of each. Two kernels: :func:`mark_overlaps` writes down who suppresses whom, a bit a
pair, for all pairs at once; :func:`walk` goes through an image's boxes from the best to the worst, 32 at a time.
"""

# mypy: allow-untyped-defs
import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_BYTES = 256 * 2**20
"""Of bits at a time: more images wait for their turn (on the device). One image needs M * M / 8 bytes."""
ROWS, SPAN = 64, 8  # boxes that suppress, and words of boxes that are suppressed, a program of mark_overlaps


@triton.jit
def corners(boxes, index, inside):
    """Left, top, right, bottom and area of the boxes at ``index``."""
    left = tl.load(boxes + index * 4, mask=inside, other=0.0)
    top = tl.load(boxes + index * 4 + 1, mask=inside, other=0.0)
    right = tl.load(boxes + index * 4 + 2, mask=inside, other=0.0)
    bottom = tl.load(boxes + index * 4 + 3, mask=inside, other=0.0)
    return left, top, right, bottom, (right - left) * (bottom - top)


@triton.jit(do_not_specialize=["num_boxes"])
def mark_overlaps(
    boxes, groups, order, bits, thresh, num_boxes, GROUPED: tl.constexpr, ROWS: tl.constexpr, SPAN: tl.constexpr
):
    """``bits`` (N, M, words): bit b of word w of row i says that the i-th best box suppresses the (32 w + b)-th.

    Words left of a row's own are not written: the best come first, and only a better box suppresses.
    """
    image = tl.program_id(0).to(tl.int64)
    first_row, first_word = tl.program_id(1) * ROWS, tl.program_id(2) * SPAN
    num_words = tl.cdiv(num_boxes, 32)
    boxes += image * num_boxes * 4
    groups += image * num_boxes
    order += image * num_boxes

    rows = first_row + tl.arange(0, ROWS)
    rows_inside = rows < num_boxes
    row_index = tl.load(order + rows, mask=rows_inside, other=0)
    left, top, right, bottom, area = corners(boxes, row_index, rows_inside)
    if GROUPED:
        group = tl.load(groups + row_index, mask=rows_inside, other=0)
    bits += (image * num_boxes + rows) * num_words

    lanes = tl.arange(0, 32)
    for word in range(tl.maximum(first_word, first_row // 32), tl.minimum(first_word + SPAN, num_words)):
        columns = word * 32 + lanes
        columns_inside = columns < num_boxes
        index = tl.load(order + columns, mask=columns_inside, other=0)
        other_left, other_top, other_right, other_bottom, other_area = corners(boxes, index, columns_inside)
        width = tl.minimum(right[:, None], other_right[None, :]) - tl.maximum(left[:, None], other_left[None, :])
        height = tl.minimum(bottom[:, None], other_bottom[None, :]) - tl.maximum(top[:, None], other_top[None, :])
        inter = tl.maximum(width, 0.0) * tl.maximum(height, 0.0)
        iou = tl.div_rn(inter, area[:, None] + other_area[None, :] - inter)
        over = (iou > thresh) & (columns[None, :] > rows[:, None])
        if GROUPED:
            other_group = tl.load(groups + index, mask=columns_inside, other=0)
            over &= group[:, None] == other_group[None, :]
        tl.store(bits + word, tl.sum(over.to(tl.int32) << lanes[None, :], axis=1), mask=rows_inside)


@triton.jit(do_not_specialize=["num_boxes"])
def walk(bits, candidates, order, keep, num_boxes, WORDS: tl.constexpr):
    """``keep`` (N, M), in the order that the boxes came in; ``candidates`` best first. A program an image."""
    image = tl.program_id(0).to(tl.int64)
    num_words = tl.cdiv(num_boxes, 32)
    bits += image * num_boxes * num_words
    candidates += image * num_boxes
    order += image * num_boxes
    keep += image * num_boxes

    lanes = tl.arange(0, 32)
    columns = tl.arange(0, WORDS)
    removed = tl.zeros((WORDS,), tl.int32)
    for word in range(num_words):
        rows = word * 32 + lanes
        inside = rows < num_boxes
        chosen = tl.load(candidates + rows, mask=inside, other=0).to(tl.int32)
        alive = tl.sum(chosen << lanes, axis=0) & ~tl.sum(tl.where(columns == word, removed, 0), axis=0)
        # among the 32: whoever still stands when its turn comes is kept, and its bits (all of worse boxes) fall
        own = bits + word * num_words.to(tl.int64) * 32
        for bit in tl.static_range(32):
            suppressed = tl.load(own + bit * num_words + word, mask=word * 32 + bit < num_boxes, other=0)
            alive &= ~(suppressed * ((alive >> bit) & 1))
        # the later words (a box that is kept is a candidate, so its row is inside); 16 loads on their way at a time
        # hide each other's latency, 32 would not fit into the registers
        later = (columns > word) & (columns < num_words)
        for start in range(0, 32, 16):
            for step in tl.static_range(16):
                kept = ((alive >> (start + step)) & 1) != 0
                removed |= tl.load(own + (start + step) * num_words + columns, mask=later & kept, other=0)
        index = tl.load(order + rows, mask=inside, other=0)
        tl.store(keep + index, ((alive >> lanes) & 1).to(tl.uint8), mask=inside)


def padded_words(num_boxes: int) -> int:
    """Words of 32 boxes that :func:`walk` is compiled for: a power of 2, 32 or more."""
    return max(32, triton.next_power_of_2(triton.cdiv(num_boxes, 32)))


def num_warps(words: int) -> int:
    """Of a program of :func:`walk`: so many that a thread has 4 words, but for the smallest and the largest."""
    return min(8, max(1, words // 128))


def nms_keep_on_device(
    boxes: Tensor, scores: Tensor, groups: Tensor | None, candidates: Tensor, iou_thresh: float
) -> Tensor:
    """What :func:`detkit.layers.nms_best` chooses from, all of it on the device of the boxes; no shape depends on what
    is found.

    The bits of all pairs are the idea of the usual GPU operators; the greedy rule is that of Neubeck and Van Gool 2006,
    "Efficient Non-Maximum Suppression". Arithmetic is float32, each operation rounded by itself.

    Args:
        boxes: ``(N, M, 4)`` xyxy, float32.
        scores: ``(N, M)``.
        groups: ``(N, M)`` integer, or None.
        candidates: ``(N, M)`` bool.
        iou_thresh: a box that overlaps a better one of its group by more than this is dropped.

    Returns:
        ``(N, M)`` bool: the candidates that are kept.
    """
    keep = torch.zeros(candidates.shape, dtype=torch.uint8, device=boxes.device)
    images, num_boxes = candidates.shape
    if not keep.numel():
        return keep.bool()
    order = scores.sort(dim=1, descending=True, stable=True).indices  # where the others come in it does not matter
    boxes, ranked = boxes.contiguous(), candidates.gather(1, order).to(torch.uint8)
    group = order if groups is None else groups.long().contiguous()  # where there are none, it is not read
    num_words, padded = triton.cdiv(num_boxes, 32), padded_words(num_boxes)
    at_once = min(images, max(1, MAX_BYTES // (4 * num_boxes * num_words)))
    bits = torch.empty(at_once, num_boxes, num_words, dtype=torch.int32, device=boxes.device)
    with torch.cuda.device_of(boxes):
        for start in range(0, images, at_once):
            part = slice(start, start + at_once)
            count = len(order[part])
            mark_overlaps[(count, triton.cdiv(num_boxes, ROWS), triton.cdiv(num_words, SPAN))](
                boxes[part], group[part], order[part], bits, float(iou_thresh), num_boxes,
                GROUPED=groups is not None, ROWS=ROWS, SPAN=SPAN, num_warps=4, enable_fp_fusion=False,
            )  # fmt: skip
            walk[(count,)](
                bits, ranked[part], order[part], keep[part], num_boxes,
                WORDS=padded, num_warps=num_warps(padded),
            )  # fmt: skip
    return keep.bool()
