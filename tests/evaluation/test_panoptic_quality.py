"""Panoptic quality equals the published algorithm's, and results are written as COCO has them."""

import collections
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import in_processes

from detkit.config import ConfigError, Recipe
from detkit.data import ConcatDataset, Dataset, Shapes, TiledDataset
from detkit.evaluation import EVALUATORS, PanopticEvaluator, evaluate
from detkit.registry import DataError
from detkit.structures import Panoptic, Prediction, Sample, Segment
from detkit.utils import distributed


class Truth(Dataset):
    """A dataset of panoptic maps alone."""

    class_names, category_ids = ("cat", "dog"), (3, 5)
    semantic_names, stuff_ids = ("things", "sky", "sea"), (7, 9)

    def __init__(self, maps):
        super().__init__()
        self.maps_of = maps

    def __len__(self):
        return len(self.maps_of)

    def image_id(self, index):
        return index

    def panoptic_map(self, index):
        return self.maps_of[index]


CLASSES = [(True, 0), (True, 1), (False, 1), (False, 2)]


def quality(pairs):
    """Panoptic quality of a list of (truth, prediction), pixel sets instead of tables: class -> PQ, SQ, RQ."""
    iou, tp, fp, fn = (collections.Counter() for _ in range(4))
    for truth, found in pairs:

        def pixels(panoptic, id_):
            return set(np.flatnonzero(panoptic.ids.numpy() == id_).tolist())

        void = pixels(truth, 0)
        true = {s.id: (s, pixels(truth, s.id)) for s in truth.segments}
        predicted = {s.id: (s, pixels(found, s.id)) for s in found.segments}
        hit = set()
        for t, (a, own) in true.items():
            for p, (b, other) in predicted.items():
                name = (a.is_thing, a.class_index)
                both = len(own & other)
                if both and not a.crowd and name == (b.is_thing, b.class_index):
                    value = both / (len(other) + len(own) - both - len(void & other))
                    if value > 0.5:
                        tp[name] += 1
                        iou[name] += value
                        hit |= {("t", t), ("p", p)}
        crowds = {}
        for t, (a, own) in true.items():
            if ("t", t) not in hit and a.crowd:
                crowds[a.is_thing, a.class_index] = own
            elif ("t", t) not in hit:
                fn[a.is_thing, a.class_index] += 1
        for p, (b, other) in predicted.items():
            name = (b.is_thing, b.class_index)
            excused = len(void & other) + len(crowds.get(name, set()) & other)
            if ("p", p) not in hit and not excused / len(other) > 0.5:
                fp[name] += 1
    out = {}
    for name in CLASSES:
        weight = tp[name] + 0.5 * fp[name] + 0.5 * fn[name]
        if weight:
            out[name] = (iou[name] / weight, iou[name] / tp[name] if tp[name] else 0.0, tp[name] / weight)
    return out


def random_map(rng, crowds):
    """Rectangles one over the other, some of them crowds, on void."""
    ids, segments = np.zeros((24, 32), np.int64), []
    for number in range(1, int(rng.integers(1, 9))):
        y, x = rng.integers(0, 20, 2)
        ids[y : y + rng.integers(3, 16), x : x + rng.integers(3, 20)] = 10 * number
        is_thing, class_index = CLASSES[rng.integers(4)]
        segments.append(Segment(10 * number, class_index, is_thing, crowd=crowds and bool(rng.random() < 0.3)))
    there = set(np.unique(ids).tolist())
    return Panoptic(torch.from_numpy(ids), tuple(s for s in segments if s.id in there))


def nudged(rng, truth):
    """The true map as a model may have found it: moved a little, some segments of another class or gone."""
    ids = np.roll(truth.ids.numpy(), rng.integers(-2, 3, 2), (0, 1))
    segments = []
    for s in truth.segments:
        chance = rng.random()
        if chance < 0.15 or not (ids == s.id).any():
            ids = np.where(ids == s.id, 0, ids)
        else:
            is_thing, class_index = CLASSES[rng.integers(4)] if chance < 0.3 else (s.is_thing, s.class_index)
            segments.append(Segment(s.id, class_index, is_thing))
    return Panoptic(torch.from_numpy(ids.copy()), tuple(segments))


def evaluated(pairs):
    evaluator = PanopticEvaluator(Truth([truth for truth, _ in pairs]))
    for number, (_, found) in enumerate(pairs):
        evaluator.update([Sample(torch.zeros(3, 1, 1), (1, 1), number)], [Prediction(panoptic=found)])
    return evaluator


def test_quality_is_that_of_the_published_algorithm():
    rng = np.random.default_rng(0)
    seen = collections.Counter()
    for _ in range(40):
        pairs = []
        for _ in range(3):
            truth = random_map(rng, crowds=True)
            pairs.append((truth, nudged(rng, truth) if rng.random() < 0.8 else random_map(rng, crowds=False)))
        expected = quality(pairs)
        results = evaluated(pairs).compute()["panoptic"]
        for kind, end in ((None, ""), (True, "_things"), (False, "_stuff")):
            values = [v for name, v in expected.items() if kind in (None, name[0])]
            for i, metric in enumerate(("PQ", "SQ", "RQ")):
                mean = np.mean([v[i] for v in values]) if values else -1
                assert results[metric + end] == pytest.approx(mean, abs=1e-9)
        for name, label in zip(CLASSES, ("cat", "dog", "sky", "sea")):
            assert results["per_class"][label] == pytest.approx(expected.get(name, (-1,))[0], abs=1e-9)
            seen[expected.get(name, (-1,))[0] > 0] += 1
    assert min(seen.values()) > 20


def panoptic(rows, *segments):
    return Panoptic(torch.tensor(rows), tuple(Segment(i, c, t, crowd=crowd) for i, c, t, crowd in segments))


def test_hand_made_cases():
    cat, sky = (1, 0, True, False), (2, 1, False, False)
    truth = panoptic([[1, 1, 1, 1, 2, 2, 0, 0]], cat, sky)
    same = evaluated([(truth, truth)]).compute()["panoptic"]
    assert (same["PQ"], same["PQ_things"], same["PQ_stuff"]) == (1, 1, 1)
    assert same["per_class"] == {"cat": 1, "dog": -1, "sky": 1, "sea": -1}
    half = evaluated([(truth, panoptic([[1, 1, 0, 0, 2, 2, 2, 2]], cat, sky))]).compute()["panoptic"]
    assert half["per_class"]["cat"] == 0, "an IoU of exactly one half is no match"
    assert half["per_class"]["sky"] == 1, "what lies on pixels that nobody labelled does not count"
    three = evaluated([(truth, panoptic([[1, 1, 1, 0, 3, 3, 0, 0]], cat, (3, 1, True, False)))]).compute()["panoptic"]
    assert three["class_metrics"]["cat"] == {"PQ": 0.75, "SQ": 0.75, "RQ": 1}
    assert three["per_class"]["dog"] == three["per_class"]["sky"] == 0
    herd = panoptic([[4, 4, 4, 4, 2, 2, 0, 0]], (4, 0, True, True), sky)
    on_crowd = evaluated([(herd, panoptic([[1, 1, 1, 0, 2, 2, 0, 0]], cat, sky))]).compute()["panoptic"]
    assert on_crowd["per_class"]["cat"] == -1, "neither found, nor missed, nor false"
    other = evaluated([(herd, panoptic([[1, 1, 1, 0, 2, 2, 0, 0]], (1, 1, True, False), sky))]).compute()["panoptic"]
    assert other["per_class"]["dog"] == 0, "a crowd excuses its own class alone"
    nothing = evaluated([(truth, panoptic([[0] * 8]))]).compute()["panoptic"]
    assert nothing["PQ"] == nothing["SQ"] == nothing["RQ"] == 0
    empty = evaluated([(panoptic([[0] * 8]), panoptic([[0] * 8]))]).compute()["panoptic"]
    assert empty["PQ"] == -1


def test_what_does_not_belong_together_is_said():
    truth = panoptic([[1, 1]], (1, 0, True, False))
    for found, words in (
        (panoptic([[5, 5]]), "id 5"),
        (panoptic([[1], [1]], (1, 0, True, False)), "size"),
        (panoptic([[1, 1]], (1, 2, True, False)), "class 2 of things"),
        (None, "no panoptic map"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluated([(truth, found)])
    for name in ("PanopticEvaluator", "SemanticEvaluator"):
        with pytest.raises(ConfigError, match=f"{name} needs.*semantic maps"):
            EVALUATORS.get(name)(Shapes(num_images=1))


class SemanticShapes(Shapes):
    """Shapes whose maps are semantic alone."""

    panoptic_map = Dataset.panoptic_map


def test_every_image_of_the_data_must_have_a_panoptic_map():
    whole, semantic = (Recipe(cls, {"num_images": 1, "panoptic": True}) for cls in (Shapes, SemanticShapes))
    assert PanopticEvaluator(ConcatDataset(datasets=(whole, whole))).compute()["panoptic"]["PQ"] == -1
    mixed = Recipe(ConcatDataset, {"datasets": (whole, semantic)})
    for data in (semantic(), mixed(), TiledDataset(dataset=mixed, size=64, keep_empty=1.0)):
        assert data.semantic_names
        with pytest.raises(ConfigError, match=r"PanopticEvaluator needs.*every image.*take SemanticEvaluator"):
            PanopticEvaluator(data)


def test_tiles_are_evaluated():
    data = TiledDataset(dataset=Recipe(Shapes, {"num_images": 2, "panoptic": True}), size=96, keep_empty=1.0)
    evaluator = PanopticEvaluator(data)
    for index in range(len(data)):
        sample = Sample(torch.zeros(3, 1, 1), (1, 1), data.image_id(index))
        evaluator.update([sample], [Prediction(panoptic=data.panoptic_map(index))])
    assert evaluator.compute()["panoptic"]["PQ"] == 1


def test_results_are_written_as_coco_has_them(tmp_path):
    data = Shapes(num_images=3, panoptic=True)
    evaluator = PanopticEvaluator(data)
    for index in range(3):
        found = data.panoptic_map(index)
        evaluator.update([Sample(torch.zeros(3, 1, 1), (1, 1), index)], [Prediction(panoptic=found)])
    results = evaluator.compute()
    assert results["panoptic"]["PQ"] == 1
    assert "stripes" in evaluator.report(results)
    file = evaluator.write_results(tmp_path / "coco_results.json")
    content = json.loads(file.read_text())
    numbers = {entry["id"]: entry for entry in content["categories"]}
    assert [entry["isthing"] for entry in numbers.values()] == [1] * 5 + [0] * 4
    for entry in content["annotations"]:
        colors = np.array(Image.open(file.with_suffix("") / entry["file_name"]), np.int64)
        ids = colors @ [1, 256, 65536]
        truth = data.panoptic_map(entry["image_id"])
        assert np.array_equal(ids, truth.ids.numpy())
        for segment, row in zip(truth.segments, entry["segments_info"], strict=True):
            names = data.class_names if segment.is_thing else data.semantic_names
            assert (row["id"], row["area"]) == (segment.id, (ids == segment.id).sum())
            assert numbers[row["category_id"]]["name"] == names[segment.class_index]


def test_written_results_are_read_again(tmp_path):
    data = Shapes(num_images=3, panoptic=True)
    evaluator = PanopticEvaluator(data)
    rng = np.random.default_rng(1)
    for index in range(3):
        truth = data.panoptic_map(index)
        kept = rng.random(truth.ids.shape) < 0.7
        found = Panoptic(truth.ids * torch.from_numpy(kept), truth.segments)
        evaluator.update([Sample(torch.zeros(3, 1, 1), (1, 1), index)], [Prediction(panoptic=found)])
    expected = evaluator.compute()
    assert 0 < expected["panoptic"]["PQ"] < 1
    file = evaluator.write_results(tmp_path / "coco_results.json")
    again = PanopticEvaluator(data)
    again.read_results(file)
    assert again.compute() == expected

    content = json.loads(file.read_text())
    content["annotations"][1]["segments_info"][0]["category_id"] = 77
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"image 1 has category 77.*--annotations FILE"):
        again.read_results(file)
    file.write_text(json.dumps({"annotations": content["annotations"][:1]}))
    with pytest.raises(DataError, match="no map of image 1"):
        again.read_results(file)
    file.write_text("[]")
    with pytest.raises(DataError, match="holds no panoptic maps"):
        again.read_results(file)


class Echo(torch.nn.Module):
    """Predicts the truth of every image but the first, for which it finds nothing."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def forward(self, samples):
        maps = [self.data.panoptic_map(s.image_id) for s in samples]
        maps = [m if s.image_id else Panoptic(torch.zeros_like(m.ids)) for s, m in zip(samples, maps)]
        semantic = [m.semantic.long().where(m.semantic != 255, 0) for m in maps]
        return [Prediction(semantic=s, panoptic=m) for s, m in zip(semantic, maps)]


def evaluated_in_a_process(rank: int, folder: str) -> None:
    data = Shapes(num_images=7, panoptic=True)
    share = range(len(data))[rank :: distributed.world_size()]
    batches = [[Sample(torch.zeros(3, 1, 1), (1, 1), i)] for i in (*share, 3)]  # one that all have
    evaluators = [EVALUATORS.get(name)(data) for name in ("PanopticEvaluator", "SemanticEvaluator")]
    results = evaluate(Echo(data), batches, evaluators, progress=False)
    results.pop("timing", None)
    if rank == 0:
        Path(folder, f"{distributed.world_size()}.json").write_text(json.dumps(results))


def test_results_are_the_same_in_several_processes(tmp_path):
    evaluated_in_a_process(0, str(tmp_path))
    in_processes(partial(evaluated_in_a_process), str(tmp_path))
    alone, together = ((tmp_path / f"{n}.json").read_text() for n in (1, 2))
    assert json.loads(alone)["panoptic"]["PQ"] < 1
    assert alone == together
