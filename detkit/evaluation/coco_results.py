"""COCO's results form: a list with one dict for each detection."""

from typing import Any

from detkit.structures import Boxes, Instances


def coco_results(instances: Instances, image_id: int | str) -> list[dict[str, Any]]:
    """The detections of one image as JSON-ready COCO results.

    Args:
        instances: ``boxes``, ``scores``, ``classes`` and, where there are any, ``masks``, in the pixels of the file.
        image_id: what stands in ``image_id`` of every row.

    Returns:
        One dict a detection, in the order of the instances: ``image_id``, ``category_id`` (class index + 1),
        ``bbox`` (x, y, width, height), ``score`` and, with masks, ``segmentation`` (compressed RLE).
    """
    boxes = xywh(instances.boxes)
    scores, classes = instances.scores.tolist(), instances.classes.tolist()
    rows = [
        {"image_id": image_id, "category_id": c + 1, "bbox": b, "score": s} for b, s, c in zip(boxes, scores, classes)
    ]
    if "masks" in instances:
        for row, rle in zip(rows, instances.masks.rle()):
            row["segmentation"] = rle
    return rows


def xywh(boxes: Boxes) -> list[list[float]]:
    """COCO's form of boxes: x, y, width, height. The widths are subtracted in double precision, so exactly."""
    corners = boxes.tensor.detach().cpu().double()
    corners[:, 2:] -= corners[:, :2]
    return corners.tolist()
