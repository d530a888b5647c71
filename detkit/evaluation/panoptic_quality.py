"""PanopticEvaluator: panoptic quality."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from detkit.data.interfaces import Dataset
from detkit.evaluation.interfaces import EVALUATORS
from detkit.evaluation.panoptic_results import PanopticWriter, categories_of, encoded, maps_file, read_maps
from detkit.evaluation.per_image import PerImageEvaluator, metric_tables
from detkit.registry import ConfigError, DataError
from detkit.structures import Panoptic, Prediction, Segment


@dataclasses.dataclass(frozen=True)
class Matches:
    """What became of the segments of an image.

    Args:
        matched: class (as ``key`` gives it) and IoU of each pair of a true and a predicted segment.
        false: classes of the predicted segments without a partner.
        missed: classes of the true segments without a partner.
    """

    matched: list[tuple[tuple[bool, int], float]]
    false: list[tuple[bool, int]]
    missed: list[tuple[bool, int]]


def key(segment: Segment) -> tuple[bool, int]:
    """The class of a segment: whether it is a thing, and the number."""
    return segment.is_thing, segment.class_index


def match_segments(truth: Panoptic, found: Panoptic) -> Matches:
    """Pairs the segments of an image by the rules of panoptic quality (Kirillov et al. 2019, section 4.1).

    A pair has one class and an IoU above 0.5, for which predicted pixels that nobody labelled do not count; so a
    segment has one partner at most. A predicted segment that lies for more than half on what nobody labelled, or on a
    crowd of its class, is no mistake. Crowds are not missed.

    Raises:
        ValueError: maps of different sizes, or one whose ids are not those of its segments.
    """
    if truth.ids.shape != found.ids.shape:
        raise ValueError(f"the true map has the size {tuple(truth.ids.shape)}, the predicted {tuple(found.ids.shape)}")
    true, predicted = ({0: None, **{s.id: s for s in map_.segments}} for map_ in (truth, found))
    rows, columns = truth.ids.numpy().ravel(), found.ids.numpy().ravel()
    width = int(columns.max(initial=0)) + 1
    pairs = rows * width + columns
    values, counts = np.unique(pairs, return_counts=True)
    area = {(int(v) // width, int(v) % width): int(n) for v, n in zip(values, counts)}
    own, other = (dict.fromkeys(segments, 0) for segments in (true, predicted))
    for (t, p), pixels in area.items():
        if t not in own or p not in other:
            raise ValueError(f"a panoptic map has the id {p if t in own else t}, which is that of none of its segments")
        own[t] += pixels
        other[p] += pixels
    matched, partners = list[tuple[tuple[bool, int], float]](), (set[int](), set[int]())
    for (t, p), both in area.items():
        a, b = true[t], predicted[p]
        if a is None or b is None or a.crowd or key(a) != key(b):
            continue
        iou = both / (own[t] + other[p] - both - area.get((0, p), 0))
        if iou > 0.5:
            matched.append((key(a), iou))
            partners[0].add(t)
            partners[1].add(p)
    crowds = {key(s): s.id for s in truth.segments if s.crowd}
    missed = [key(s) for s in truth.segments if s.id not in partners[0] and not s.crowd]
    false = []
    for segment in found.segments:
        if segment.id not in partners[1]:
            excused = area.get((0, segment.id), 0) + area.get((crowds.get(key(segment), -1), segment.id), 0)
            if excused <= 0.5 * other[segment.id] or not other[segment.id]:
                false.append(key(segment))
    return Matches(matched, false, missed)


@EVALUATORS.register()
class PanopticEvaluator(PerImageEvaluator):
    """Panoptic quality (Kirillov et al. 2019, arXiv:1801.00868), equal to panopticapi's.

    Of a class, SQ is the mean IoU of the matched segments, RQ is TP / (TP + FP / 2 + FN / 2), and PQ their product.
    Results are means over the classes that have a segment, in 0..1, -1 where there is nothing to measure:
    ``{"panoptic": {"PQ", "SQ", "RQ", "PQ_things", ..., "RQ_stuff", "per_class": {name: PQ}, "class_metrics": {name:
    {"PQ", "SQ", "RQ"}}}}``.

    Raises:
        ConfigError: not all images of the dataset have a panoptic map.
    """

    result_names = ("panoptic",)

    def __init__(self, dataset: Dataset):
        super().__init__(dataset)
        if not dataset.has_panoptic_maps:
            raise ConfigError(
                "evaluators: PanopticEvaluator needs a test dataset with a panoptic map of every image, such as"
                f" CocoPanoptic; the maps of {type(dataset).__name__} are semantic alone, or those of one of its parts"
                " are: take SemanticEvaluator, or another dataset"
            )
        self._categories = categories_of(
            dataset.class_names, dataset.category_ids, dataset.semantic_names, dataset.stuff_ids
        )

    def count(self, index: int, prediction: Prediction) -> tuple[Matches, Any]:
        """The matches of an image, and what is written of it."""
        truth, found = self.dataset.panoptic_map(index), prediction.panoptic
        if found is None:
            raise ValueError("the model predicts no panoptic map; take PanopticEvaluator out of evaluators")
        if truth is None:
            raise ValueError(f"the data have no panoptic map of image {self.dataset.image_id(index)!r}")
        unknown = [s for s in found.segments if key(s) not in self._categories]
        if unknown:
            what = f"class {unknown[0].class_index} of {'things' if unknown[0].is_thing else 'stuff'}"
            raise ValueError(f"the model predicted {what}, which the dataset lacks: they do not belong together")
        return match_segments(truth, found), encoded(found, self._categories)

    def metrics(self, counts: list[tuple[Matches, Any]]) -> dict[str, Any]:
        """The results."""
        totals = {name: np.zeros(4) for name in self._categories}  # IoU, TP, FP, FN
        for matches, _ in counts:
            for name, iou in matches.matched:
                totals[name] += (iou, 1, 0, 0)
            for name in matches.false:
                totals[name][2] += 1
            for name in matches.missed:
                totals[name][3] += 1
        quality = {name: _quality(total) for name, total in totals.items()}
        results: dict[str, Any] = {}
        for kind, end in ((None, ""), (True, "_things"), (False, "_stuff")):
            values = [q for name, q in quality.items() if q["PQ"] != -1 and kind in (None, name[0])]
            for metric in ("PQ", "SQ", "RQ"):
                results[f"{metric}{end}"] = float(np.mean([v[metric] for v in values])) if values else -1.0
        classes = {self._categories[name]["name"]: found for name, found in quality.items()}
        results["per_class"] = {name: found["PQ"] for name, found in classes.items()}
        return {"panoptic": {**results, "class_metrics": classes}}

    def report(self, results: dict[str, Any]) -> str:
        """``compute()``'s results as tables: all, things, stuff, and every class."""
        found, kinds = results["panoptic"], {"all": "", "things": "_things", "stuff": "_stuff"}
        overall = {kind: {m: found[f"{m}{end}"] for m in ("PQ", "SQ", "RQ")} for kind, end in kinds.items()}
        return metric_tables("panoptic", overall, found["class_metrics"])

    def read_results(self, path: str | Path) -> None:
        """Takes the maps of COCO's panoptic results in the place of ``update``; see ``maps_file`` and ``read_maps``."""
        self.reset()
        file = maps_file(path)
        if file is None:
            raise DataError(f"{path}: holds no panoptic maps, a JSON whose entries have 'segments_info'")
        maps = read_maps(file, self.dataset, self._categories)
        for index in range(len(self.dataset)):
            found = maps.panoptic_map(index, self.dataset.image_size(index))
            self._counts[self.dataset.image_id(index)] = self.count(index, Prediction(panoptic=found))

    def write_results(self, path: str | Path) -> Path:
        """Writes ``panoptic_results.json`` beside ``path``, COCO's panoptic results, and a folder of PNGs; its path."""
        writer = PanopticWriter(Path(path).with_name("panoptic_results"), self._categories)
        for image_id, (_, written) in self._counts.items():
            writer.add(image_id, written)
        writer.close()
        return writer.json_file


def _quality(total: np.ndarray) -> dict[str, float]:
    iou, tp, fp, fn = total.tolist()
    if tp + fp + fn == 0:
        return {"PQ": -1.0, "SQ": -1.0, "RQ": -1.0}
    weight = tp + 0.5 * fp + 0.5 * fn
    return {"PQ": iou / weight, "SQ": iou / tp if tp else 0.0, "RQ": tp / weight}
