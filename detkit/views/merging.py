"""The objects of overlapping tiles as those of the image: each of them once.

A detection is *cut* where its box reaches an inner border of its tile, which is one that does not lie on the image's.
(1) What another tile shows better is that tile's to say, and is dropped: a cut detection if the other tile shows it
beyond that border, a whole one if there is more around it in the other tile. Left over is what several tiles show
equally well, and what is larger than the overlap. (2) Detections of two tiles are of one object where they agree in
what both tiles show; the best of those that are whole stays, cut ones are joined. (3) Where two tiles give one place
different classes, the better score is right, unless one of them gives it both.

N detections, T tiles. Sides are x1, y1, x2, y2, as coordinates that grow outwards: (-x1, -y1, x2, y2).
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from detkit.structures import Boxes, CropAndPad, CroppedMasks, Instances, Keypoints, Region

AGREEMENT = 0.5
"""IoU from which two boxes, or masks, are of the same object; of two cut ones the share of the smaller in the other,
because a border may cut one object into several pieces."""
SAME_PLACE = 0.7
"""IoU from which boxes of different classes are one object about which two tiles disagree."""
MARGIN, LEAST_MARGIN = 0.05, 2.0
"""How near to a border a box is cut: as a share of its side, and at least so many pixels; boxes are not exact."""


def merge_tiles(parts: Sequence[Instances], regions: Sequence[Region]) -> Instances:
    """The objects of the image, best first.

    An object that was joined has the box around its pieces, the union of their masks, each keypoint from the piece that
    is surest of it, and its score, class and other fields from the best piece.

    Args:
        parts: the detections of each of the T tiles, in pixels of the image: ``boxes``, ``scores``, ``classes``, and
            whatever else the model gives; masks as ``CroppedMasks``.
        regions: the part of the image that each tile shows.
    """
    found = Instances.cat(parts)
    pieces = _Pieces(found, [len(part) for part in parts], torch.tensor(regions, dtype=torch.float32))
    groups, scores = pieces.groups(), found.scores.tolist()
    best_rows = [max(rows, key=scores.__getitem__) for rows in groups]
    order = sorted(range(len(groups)), key=lambda number: scores[best_rows[number]], reverse=True)
    groups = [groups[number] for number in order]
    best = found[torch.tensor([best_rows[number] for number in order], dtype=torch.int64)]
    fields = {name: _joined(found.fields[name], field, groups) for name, field in best.fields.items()}
    return best.with_fields(**fields)


class _Pieces:
    """The detections of all tiles, and which of them are of the same object."""

    def __init__(self, found: Instances, counts: Sequence[int], regions: Tensor):
        outwards = torch.tensor([-1.0, -1.0, 1.0, 1.0])
        self.boxes, self.classes, self.scores = found.boxes.tensor, found.classes, found.scores
        self.masks: Any = found.fields.get("masks")
        self.regions, self.borders = regions, regions * outwards
        self.tile = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        self.rows = torch.arange(len(self.tile)).split(list(counts))
        sides = (self.boxes[:, 2:] - self.boxes[:, :2]).repeat(1, 2)
        self.margin = (sides * MARGIN).clamp(min=LEAST_MARGIN)
        self.reach = self.boxes * outwards
        inner = self.borders < self.borders.amax(0)
        self.cut = inner[self.tile] & (self.reach >= self.borders[self.tile] - self.margin)
        self.inner_borders = torch.where(inner, self.borders, torch.inf)
        self.is_cut = self.cut.any(1)

    def groups(self) -> list[list[int]]:
        """The detections of each object."""
        kept = ~self._shown_better()
        links: dict[int, list[int]] = {row: [] for row in kept.nonzero()[:, 0].tolist()}
        rivals: dict[int, list[int]] = {row: [] for row in links}
        for first, second in self._neighbours():
            rows, others = (self.rows[tile][kept[self.rows[tile]]] for tile in (first, second))
            for found, pairs in zip((links, rivals), self._agreeing(rows, others)):
                for i, j in pairs.tolist():
                    found[i].append(j)
                    found[j].append(i)
        group_of: dict[int, list[int]] = {}
        for row in self.scores.argsort(descending=True, stable=True).tolist():
            tiles = {int(self.tile[other]) for other in links.get(row, ())}
            opposed = any(r in group_of and int(self.tile[r]) not in tiles for r in rivals.get(row, ()))
            if row in links and not opposed:
                self._place(row, [other for other in links[row] if other in group_of], group_of)
        return list({id(group): group for group in group_of.values()}.values())

    def _place(self, row: int, linked: Sequence[int], group_of: dict[int, list[int]]) -> None:
        """Adds a detection to the objects that it is a piece of, or as a new one; or not, where it says no more."""
        if any(not self.is_cut[other] for other in linked):
            return
        group = [row]
        for others in {id(group_of[other]): group_of[other] for other in linked}.values():
            if not self._claimed_twice(group, others):
                group = group + others
        if not linked or len(group) > 1:
            group_of.update(dict.fromkeys(group, group))

    def _claimed_twice(self, rows: Sequence[int], others: Sequence[int]) -> bool:
        """Whether one tile has given two detections for the same place."""
        pairs = [pair for pair in itertools.product(rows, others) if self.tile[pair[0]] == self.tile[pair[1]]]
        shares = (_agreement(self.boxes[[i]], self.boxes[[j]], torch.ones(1, 1, dtype=torch.bool)) for i, j in pairs)
        return any(float(share) >= AGREEMENT for share in shares)

    def _neighbours(self) -> Iterator[tuple[int, int]]:
        """The pairs of tiles that overlap, each once."""
        for tile in range(len(self.regions)):
            low = torch.maximum(self.regions[tile, :2], self.regions[tile + 1 :, :2])
            high = torch.minimum(self.regions[tile, 2:], self.regions[tile + 1 :, 2:])
            for step in (low < high).all(1).nonzero()[:, 0].tolist():
                yield tile, tile + 1 + step

    def _shown_better(self) -> Tensor:
        """``(N,)`` bool: another tile shows the place of a detection better."""
        better = torch.zeros(len(self.tile), dtype=torch.bool)
        for pair in self._neighbours():
            for tile, other in (pair, pair[::-1]):
                rows = self.rows[tile]
                reach, margin, cut = self.reach[rows], self.margin[rows], self.cut[rows]
                as_much = (self.borders[other] >= self.borders[tile]) | (reach <= self.borders[other] - margin)
                beyond = as_much.all(1) & (cut & (self.borders[other] > self.borders[tile])).any(1)
                around, around_other = ((self.inner_borders[t] - reach).amin(1) for t in (tile, other))
                better[rows] |= torch.where(cut.any(1), beyond, around_other > around + margin.amax(1))
        return better

    def _agreeing(self, rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """``(P, 2)`` each: the pairs of detections of two tiles that are of one object; those that only one can be."""
        if not (len(rows) and len(others)):
            return (torch.zeros(0, 2, dtype=torch.int64),) * 2
        cut, others_cut = self.is_cut[rows][:, None], self.is_cut[others][None]
        seen = _clipped(self.boxes[rows][:, None], self.regions[self.tile[others[0]]], others_cut)
        others_seen = _clipped(self.boxes[others][None], self.regions[self.tile[rows[0]]], cut)
        values = _agreement(seen, others_seen, cut & others_cut)
        same_class = self.classes[rows][:, None] == self.classes[others][None]
        rivals = ~same_class & (_agreement(seen, others_seen, torch.zeros_like(same_class)) >= SAME_PLACE)
        if self.masks is not None:
            for i, j in ((values > 0) & same_class & (cut | others_cut)).nonzero().tolist():
                values[i, j] = self._agreement_of_masks(int(rows[i]), int(others[j]))
        pairs = [where.nonzero() for where in (same_class & (values >= AGREEMENT), rivals)]
        return tuple(torch.stack([rows[i], others[j]], 1) for i, j in (p.unbind(1) for p in pairs))  # type: ignore

    def _agreement_of_masks(self, row: int, other: int) -> float:
        """As that of boxes, in the part of the image that both tiles show."""
        x1, y1 = torch.maximum(*(self.regions[self.tile[r], :2] for r in (row, other))).int().tolist()
        x2, y2 = torch.minimum(*(self.regions[self.tile[r], 2:] for r in (row, other))).int().tolist()
        first, second = (_union(self.masks[[r]], (x1, y1, x2, y2)) for r in (row, other))
        both, areas = int((first & second).sum()), (int(first.sum()), int(second.sum()))
        whole = min(areas) if self.is_cut[row] and self.is_cut[other] else sum(areas) - both
        return both / max(1, whole)


def _clipped(boxes: Tensor, region: Tensor, where: Tensor) -> Tensor:
    return torch.where(where[..., None], boxes.clamp(region[:2].repeat(2), region[2:].repeat(2)), boxes)


def _agreement(boxes: Tensor, others: Tensor, pieces: Tensor) -> Tensor:
    """IoU of boxes ``(..., 4)``; the share of the smaller in the other where both are ``pieces``."""
    sides = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])
    both = sides.clamp(min=0).prod(-1)
    areas = [(b[..., 2:] - b[..., :2]).prod(-1) for b in (boxes, others)]
    return both / torch.where(pieces, torch.minimum(*areas), areas[0] + areas[1] - both).clamp(min=1e-6)


def _joined(field: Any, best: Any, groups: Sequence[Sequence[int]]) -> Any:
    """A field of the objects: ``best`` has that of each one's best piece, ``field`` those of all detections."""
    joined = [number for number, rows in enumerate(groups) if len(rows) > 1]
    if not joined:
        return best
    if isinstance(field, Boxes):
        boxes = best.tensor.clone()
        for number in joined:
            corners = field.tensor[groups[number]]
            boxes[number] = torch.cat([corners[:, :2].amin(0), corners[:, 2:].amax(0)])
        return Boxes(boxes)
    if isinstance(field, Keypoints):
        points = best.tensor.clone()
        for number in joined:
            pieces = field.tensor[groups[number]]
            points[number] = pieces[pieces[..., 2].argmax(0), torch.arange(pieces.shape[1])]
        return field.with_points(points)
    if isinstance(field, CroppedMasks):
        crops, regions = best.crops(), best.regions.tolist()
        for number in joined:
            masks = field[torch.tensor(groups[number])]
            region = (*masks.regions[:, :2].amin(0).tolist(), *masks.regions[:, 2:].amax(0).tolist())
            crops[number], regions[number] = _union(masks, region), region
        return CroppedMasks.of(crops, regions, field.image_size, field.bits.device)
    return best


def _union(masks: CroppedMasks, region: Sequence[int]) -> Tensor:
    """``(h, w)`` bool: the pixels of any of the masks in a part of the image."""
    x1, y1, x2, y2 = region
    return masks.transform(CropAndPad(masks.image_size, x1, y1, y2 - y1, x2 - x1)).union()
