"""The page: it loads nothing, strangers' names stay text, its numbers are those of the evaluation."""

import base64
import dataclasses
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from report_cases import FAR, NEAR, OBJECT, dataset, evaluated, instances, random_case, sample

from detkit.data import Shapes
from detkit.doctor import Finding
from detkit.evaluation import CocoEvaluator
from detkit.evaluation.errors import KINDS, DetectionErrors
from detkit.report import About, ReportData, write_report
from detkit.report.analysis import Analysis
from detkit.report.page import metric
from detkit.report.pictures import worst_images
from detkit.structures import Instances, Keypoints, Prediction, Sample
from detkit.visualization.comparison import COLORS, FALSE, MISSED

SECTIONS = ["ap", "thresholds", "mistakes", "confusion", "sizes", "worst", "curves", "data", "doctor", "time", "config"]
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """The tags, texts and rows of a page; its tags must be closed in order."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self.rows, self.open = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.rows and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.strip("\n")

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def checked(path):
    """The page, which loads nothing and can be read by anyone."""
    page, content = Page(path), path.read_text(encoding="utf-8")
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "data", "action"):
                assert value.startswith(("data:image/jpeg;base64,", "#")) or value in (
                    "report_ema.html",
                    "run_report.html",
                ), value[:80]
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes["aria-label"]
    assert "@import" not in content
    assert content.count("url(") == content.count("url(#")  # a chart's own clip paths
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    linked = {a.get("xlink:href", a.get("href", "#"))[1:] for _, a in page.tags if "#" in str(a.values())} - {""}
    assert {name for name in linked if "." not in name} <= set(ids)
    assert len(content) < 5e6
    return page


METRICS = [
    {"iteration": 0, "total_loss": 2.0, "loss_$odd_{": 1.0, "lr": 0.1, "step_time": 0.5, "data_time": 0.1},
    {"iteration": 19, "total_loss": 1.0, "loss_$odd_{": None, "lr": 0.01, "step_time": 0.5, "data_time": 0.1},
    {"iteration": 9, "box/AP": 0.625, "box/AP50": 0.8},
    {"iteration": 14, "box/AP": None, "box/AP50": 0.8},
    {"iteration": 19, "box/AP": 0.5, "box/AP50": 0.7},
]


def about(folder, data, **others):
    """Everything that a report may know."""
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in METRICS))
    finding = Finding("warning", "data.<b>", "a <i>what</i>", "a fix", ("x", "y", "z", "more"))
    known = {
        "title": "run <1>",
        "weights": "weights of step 20",
        "config": "model: <none>\n",
        "metrics_file": folder / "metrics.jsonl",
        "datasets": {"training": data, "test": data},
        "findings": [dataclasses.asdict(finding)],
        "others": {"ema weights": "report_ema.html"},
    }
    return About(**{**known, **others})


@pytest.mark.parametrize("seed", range(2))
def test_the_page_has_all_sections_and_the_numbers_of_the_evaluation(tmp_path, seed):
    data, guesses, *_ = random_case(tmp_path, seed)
    evaluator, results = evaluated(data, guesses)
    page = checked(write_report(tmp_path / "report.html", results, evaluator, about(tmp_path, data)))
    assert [a["id"] for tag, a in page.tags if tag == "section"] == SECTIONS
    assert {a["href"][1:] for tag, a in page.tags if tag == "a" and a["href"][0] == "#"} == set(SECTIONS)
    for task in ("box", "mask"):
        keys = [key for key, value in results[task].items() if isinstance(value, float)]
        assert [task, *(metric(results[task][key]) for key in keys)] in page.rows
    for name in data.class_names:
        more = ("AP50", "AP75", "APs", "APm", "APl")
        (row,) = [row for row in page.rows if row[0] == name and len(row) >= 14]
        for n, task in enumerate(("box", "mask")):
            expected = [results[task]["per_class"][name], *(results[task]["class_metrics"][name][k] for k in more)]
            assert row[2 + 6 * n : 8 + 6 * n] == [metric(value) for value in expected]
    for key in ("AP50", "AP75", "APm"):
        values = [results["box"]["class_metrics"][name][key] for name in data.class_names]
        assert results["box"][key] == pytest.approx(np.mean([v for v in values if v != -1]))
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 5  # thresholds, loss, rate, precision, sizes
    for words in (
        "run <1>",
        "a <i>what</i>",
        "model: <none>",
        "x; y; z",
        "20 steps of 0.5 s, about 10 s",
        "box/AP was best, 0.625, after 10 steps.",
    ):
        assert words in page.text
    assert "box/AP was best, 0.625, after 10 steps." in page.text


NAMES = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$\\frac{1$",
    "{{ 7 * 7 }}",
    "קלאב",
    "猫",
    "🦊",
    "a" * 300,
    "&amp;",
]


def test_names_of_strangers_stay_text(tmp_path):
    objects = [[(k, OBJECT)] for k in range(len(NAMES))]
    guesses = [[(k, NEAR, 0.9), ((k + 1) % len(NAMES), OBJECT, 0.8)] for k in range(len(NAMES))]
    data = dataset(tmp_path, objects, NAMES, files=["<b onclick=x>.png", "a\udcff\"'.png", "$$.png"])
    evaluator, results = evaluated(data, guesses)
    page = checked(write_report(tmp_path / "report.html", results, evaluator, about(tmp_path, data, title=NAMES[0])))
    for name in [*NAMES, "<b onclick=x>.png", "a?\"'.png"]:
        assert name in "".join(page.texts)
    assert "49" not in {row[0] for row in page.rows}


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize(
    ("objects", "guesses"),
    [
        ([[], []], [[], []]),
        ([[(0, OBJECT)], []], [[], []]),
        ([[], []], [[(1, FAR, 0.7)], []]),
        ([[(0, OBJECT)], []], [[(0, OBJECT, 0.9)], []]),
        ([[(0, OBJECT)], []], [[(0, FAR, 0.9)], []]),
    ],
    ids=["nothing", "no detections", "no objects", "all right", "nothing right"],
)
def test_little_is_said_of_little(tmp_path, objects, guesses, masks):
    data = dataset(tmp_path, objects, ("thing", "other"), masks=masks)
    evaluator, results = evaluated(data, guesses, masks)
    page = checked(write_report(tmp_path / "report.html", results, evaluator, about(tmp_path, data)))
    assert [a["id"] for tag, a in page.tags if tag == "section"] == SECTIONS


def test_without_a_class_list_or_an_evaluator_the_metrics_stand_alone(tmp_path):
    results = {"box": {"AP": 0.25, "AP50": 0.5}, "other": {"score": 1}}
    page = checked(write_report(tmp_path / "report.html", results))
    assert ["box", "0.250", "0.500"] in page.rows
    assert ["other/score", "1"] in page.rows
    data = dataset(tmp_path, [[(0, OBJECT)]], ("only",))
    evaluator, results = evaluated(data, [[(0, OBJECT, 0.9)]], per_class=False)
    checked(write_report(tmp_path / "report.html", results, evaluator, about(tmp_path, data, findings=None)))
    checked(write_report(tmp_path / "report.html", {}))


@pytest.mark.parametrize("odd", [{"errors": {"AP50": -1.0, "counts": {}, "cost": {}}}, {"errors": 0.5}, {"mask": 0.5}])
def test_results_of_a_name_that_is_known_may_be_others(tmp_path, odd):
    data, other = (dataset(tmp_path, [[(0, OBJECT)]], names) for names in (NAMES[:2], ("only",)))
    evaluator, results = evaluated(data, [[(0, OBJECT, 0.9)]])
    known = about(tmp_path, data, datasets={"test": data, "training": other})
    page = checked(write_report(tmp_path / "report.html", {**results, **odd}, evaluator, known))
    assert len([row for row in page.rows if row[0] == "duplicate"]) == 1


def test_what_a_detection_errors_says_is_taken(tmp_path):
    data = dataset(tmp_path, [[(0, OBJECT)]])
    evaluator, results = evaluated(data, [[(0, FAR, 0.35)]])
    errors = DetectionErrors(data, score_thresh=0.3)
    errors.update([sample(0)], [Prediction(instances([(0, FAR, 0.35)]))])
    page = checked(write_report(tmp_path / "report.html", {**results, **errors.compute()}, evaluator))
    assert "AP50 of boxes is 0.000" in page.text
    assert "detections of at least 0.30." in page.text
    assert next(row for row in page.rows if row[0] == "background")[:3] == ["background", "1", "0.000"]


def test_mistakes_of_masks_are_taken_before_those_of_boxes_which_are_said_too(tmp_path):
    data = dataset(tmp_path, [[(0, OBJECT)]])
    evaluator, results = evaluated(data, [[(0, FAR, 0.35)]])
    results |= {"errors": made("box", 3), "mask_errors": made("mask", 7)}
    page = checked(write_report(tmp_path / "report.html", results, evaluator))
    assert next(row for row in page.rows if row[0] == "background")[1] == "7"
    assert ["errors/counts/background", "3"] in page.rows


def made(task, number):
    counts, cost = dict.fromkeys(KINDS, number), dict.fromkeys(KINDS, 0.1)
    return {"AP50": 0.5, "counts": counts, "cost": cost, "num_detections": 9, "score_thresh": 0.3, "task": task}


def test_what_a_limit_cuts_off_is_on_the_page(tmp_path):
    data = dataset(tmp_path, [[(0, OBJECT)]])
    evaluator, results = evaluated(data, [[(0, FAR, 0.35)]])
    results["box"]["limits"] = {"cut_by_model": {"detections": 5, "images": 1}}
    page = checked(write_report(tmp_path / "report.html", results, evaluator))
    assert ["box/limits/cut_by_model/detections", "5"] in page.rows


def test_what_fails_is_left_out_and_the_rest_is_there(tmp_path, caplog, monkeypatch):
    data = dataset(tmp_path, [[(0, OBJECT)], [(0, OBJECT)]])
    evaluator, results = evaluated(data, [[(0, FAR, 0.9)], [(0, FAR, 0.9)]])
    (tmp_path / "0.png").unlink()
    (tmp_path / "metrics.jsonl").write_text("no\nJSON\n")
    monkeypatch.setattr("detkit.report.page.size_chart", lambda sizes: 1 / 0)
    known = About(metrics_file=tmp_path / "metrics.jsonl", datasets={"test": data, "training": object()})
    page = checked(write_report(tmp_path / "report.html", results, evaluator, known))
    for what in (f"picture of {tmp_path.name}/0.png", "curves", "summary of the training data", "charts"):
        assert f"the report's {what} could not be made" in caplog.text
    assert next(row for row in page.rows if row[0] == "background")[:2] == ["background", "2"]
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 2


def test_pictures_show_the_worst_images_and_say_what_is_wrong(tmp_path):
    objects = [[(0, OBJECT)], [(0, OBJECT), (1, FAR)], [(1, OBJECT)]]
    guesses = [[(0, OBJECT, 0.9)], [(1, OBJECT, 0.95), (1, FAR, 0.9)], [(1, OBJECT, 0.9), (0, FAR, 0.7)]]
    data = dataset(tmp_path, objects)
    evaluator, results = evaluated(data, guesses)
    content = ReportData.of(About(), results, evaluator)
    first, *_ = content.worst
    assert (first.name, first.missed, first.false) == (
        f"{tmp_path.name}/1.png",
        {"cat": 1},
        {("dog", "classification"): 1},
    )
    assert (first.num_objects, first.num_detections) == (2, 2)
    assert [image.num_objects for image in content.worst] == [2]  # the other is right from the best threshold on


def test_pictures_show_keypoints():
    data = Shapes(num_images=1, image_size=(96, 96), min_objects=1, max_objects=1, keypoints="centres")
    record = data[0]
    place, away = record.objects.keypoints.tensor, torch.tensor([[[5.0, 90.0, 0.9]]])
    found = Instances((96, 96), boxes=record.objects.boxes, classes=record.objects.classes, scores=torch.tensor([0.9]))
    evaluator = CocoEvaluator(data)
    wrong = found.with_fields(classes=(found.classes + 1) % 5, keypoints=Keypoints(away))
    evaluator.update([Sample(torch.zeros(3, 96, 96), (96, 96), data.image_id(0))], [Prediction(wrong)])
    evaluator.compute()
    analysis = Analysis.of(evaluator.truth, evaluator.detections, "box")
    (image,) = worst_images(analysis, data, evaluator.truth, evaluator.detections, 0.5, 1)
    for picture, here, elsewhere in ((image.truth, place, away), (image.found, away, place)):
        pixels = Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2])))
        for points, drawn in ((here, True), (elsewhere, False)):
            x, y = (points[0, 0, :2] * pixels.width / 96).int().tolist()
            color = np.array(pixels, int)[y, x]
            assert (abs(color - COLORS[MISSED if picture == image.truth else FALSE]).max() < 40) == drawn


def test_a_picture_shows_no_more_than_can_be_seen(tmp_path):
    data = dataset(tmp_path, [[(0, OBJECT)]])
    many = [(k % 2, [x, 60, x + 9, 90], 0.8) for k, x in enumerate(range(80))]
    evaluator, results = evaluated(data, [[(0, OBJECT, 0.8), *many]], max_detections=200)
    page = checked(write_report(tmp_path / "report.html", results, evaluator, about(tmp_path, data)))
    assert "the best 50 of 81 detections are drawn" in page.text
    assert "40 dog (background), 40 cat (background)" in page.text or "40 cat (background), 40 dog" in page.text
