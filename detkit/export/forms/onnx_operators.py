"""The operators of ``static/nms.py`` in those of ONNX. Needs onnxscript, which reads the source of ``soft_nms``."""

from typing import Any

from onnxscript import FLOAT, INT64, opset18, script
from onnxscript.values import Opset

op: Any = opset18


def nms_mask(boxes: Any, scores: Any, iou_thresh: float) -> Any:
    """See ``static.nms.nms_mask``."""
    shape = op.Shape(scores)
    number = op.Gather(shape, op.Constant(value_ints=[1]))
    threshold, lowest = op.Constant(value_float=iou_thresh), op.Constant(value_float=-3e38)
    kept = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, op.Constant(value_ints=[1])), number, threshold, lowest)
    places = op.Gather(kept, op.Constant(value_ints=[0, 2]), axis=1)  # set and row, without the class
    ones = op.Expand(op.Constant(value_float=1.0), op.Gather(op.Shape(kept), op.Constant(value_ints=[0])))
    return op.Cast(op.ScatterND(op.Expand(op.Constant(value_float=0.0), shape), places, ones), to=9)


@script(Opset("detkit", 1), default_opset=op)
def soft_nms(boxes: FLOAT, scores: FLOAT, classes: INT64, linear_from: float, power: float, num: int) -> FLOAT:
    """See ``modeling.suppression.soft_nms``, of which these are the scores of the boxes that were taken."""
    low, high = op.Split(boxes, num_outputs=2, axis=2)
    width, height = op.Split(high - low, num_outputs=2, axis=2)
    areas, kinds = width * height, op.Unsqueeze(op.CastLike(classes, boxes), [2])
    table = op.Concat(boxes, areas, kinds, axis=2)
    nothing = op.Constant(value_float=float("-inf"))
    now, taken = scores, op.Expand(nothing, op.Shape(scores))
    for _ in range(num):
        score, row = op.TopK(now, [1], axis=1)
        best = op.GatherElements(table, op.Expand(op.Unsqueeze(row, [2]), [1, 1, 6]), axis=1)
        best_low, best_high, best_area, best_kind = op.Split(best, [2, 2, 1, 1], axis=2)
        sides = op.Max(op.Min(high, best_high) - op.Max(low, best_low), 0.0)
        shared_width, shared_height = op.Split(sides, num_outputs=2, axis=2)
        inter = shared_width * shared_height
        union = op.Max(areas + best_area - inter, 1e-12)
        iou = inter / union * op.CastLike(kinds == best_kind, boxes)
        factor = op.Where(iou >= linear_from, 1.0 - iou, op.Exp(iou * iou * power))
        factor = op.Squeeze(op.Max(factor, 1e-12), [2])
        taken = op.ScatterElements(taken, row, score, axis=1)
        now = op.ScatterElements(now * factor, row, op.Expand(nothing, op.Shape(row)), axis=1)
    return taken
