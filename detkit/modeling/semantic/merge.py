"""PanopticMerge: instances and a semantic map to a panoptic map."""

import dataclasses

import torch
from torch import Tensor

from detkit.config import CountOrZero, Fraction
from detkit.structures import CroppedMasks, Instances, Panoptic, Segment


@dataclasses.dataclass(frozen=True)
class PanopticMerge:
    """Joins instances and stuff (Panoptic Segmentation, Kirillov et al. 2019, arXiv:1801.00868, section 6).

    The best instance takes its pixels first; the next ones take those that are still free, and one of which too much is
    taken is left out. What is free then belongs to the stuff that the semantic map says, if that stuff is large enough.
    The rest belongs to nothing.

    Args:
        score_thresh: instances below this score are left out.
        overlap_thresh: an instance of which a larger part is taken by better ones is left out.
        stuff_area: stuff of fewer free pixels in the image is left out.
    """

    score_thresh: Fraction = 0.5
    overlap_thresh: Fraction = 0.5
    stuff_area: CountOrZero = 4096

    def __call__(self, instances: Instances, semantic: Tensor) -> Panoptic:
        """The panoptic map of an image.

        Args:
            instances: with ``masks``, ``scores`` and ``classes``, in pixels of the map.
            semantic: ``(H, W)`` int64 classes; class 0 is all things.
        """
        ids = torch.zeros_like(semantic)
        segments: list[Segment] = []
        order = instances.scores.argsort(descending=True, stable=True)
        rows = zip(order.tolist(), instances.scores[order].tolist(), instances.classes[order].tolist())
        masks = CroppedMasks.around(instances.masks)
        crops, regions = masks.crops(), masks.regions.tolist()
        for row, score, class_index in rows:
            if score < self.score_thresh:
                break
            x1, y1, x2, y2 = regions[row]
            place, mask = ids[y1:y2, x1:x2], crops[row]
            free = mask & (place == 0)
            area, num_free = int(mask.sum()), int(free.sum())
            if area == 0 or num_free == 0 or (area - num_free) / area > self.overlap_thresh:
                continue
            segments.append(Segment(len(segments) + 1, class_index, True, score, row))
            place[free] = len(segments)
        areas = torch.bincount(semantic[ids == 0]).tolist()
        for class_index, area in enumerate(areas):
            if class_index == 0 or area == 0 or area < self.stuff_area:
                continue
            segments.append(Segment(len(segments) + 1, class_index, False))
            ids[(semantic == class_index) & (ids == 0)] = len(segments)
        return Panoptic(ids, tuple(segments))
