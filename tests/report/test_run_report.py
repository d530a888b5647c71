"""The reports that a training and an evaluation leave in the run's folder."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_page import checked

from detkit.api import Run
from detkit.commands import evaluate, train
from detkit.config import ConfigError
from detkit.doctor import Finding
from detkit.evaluation import CocoEvaluator
from detkit.report import RunReport
from detkit.report import run as run_report
from detkit.report.page import metric

CONFIG = Path(__file__).resolve().parents[2] / "configs/quick_start/mask_rcnn_shapes.yaml"
SHORT = [
    "data.train_dataset.num_images=6",
    "data.test_dataset.num_images=4",
    "data.batch_size=2",
    "data.num_workers=0",
    "solver.max_iter=2",
    "train.num_pictures=0",
    "train.log_period=1",
    "train.hooks=[{name: ExponentialMovingAverage, decay: 0.5}]",
]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "report.html").write_text("mine")
    assert train.main(["--config-file", str(CONFIG), *SHORT, f"train.output_dir={folder}"]) == 0
    return folder


def headline(page, results):
    return all(metric(results[task][key]) in page.text for task in ("box", "mask") for key in ("AP", "AP50"))


def test_a_training_leaves_a_report_for_each_set_of_weights(finished_run, monkeypatch):
    assert (finished_run / "report.html").read_text() == "mine"
    assert Run(finished_run).report == finished_run / "run_report.html"
    results = json.loads((finished_run / "evaluation.json").read_text())
    page, averaged = (checked(finished_run / name) for name in ("run_report.html", "report_ema.html"))
    assert "ema/box/AP" not in (finished_run / "run_report.html").read_text()  # that page says it
    for shown, found, words in (
        (page, results, "weights of step 2"),
        (averaged, results["ema"], "ema weights"),
    ):
        assert headline(shown, found)
        assert words in shown.text
        assert "training objects" in shown.text
        assert "The doctor's findings" in shown.text
        assert "2 steps of" in shown.text
        assert "ExponentialMovingAverage" in shown.text  # the config
    assert isinstance(json.loads((finished_run / "doctor_findings.json").read_text()), list)


def test_a_training_that_goes_on_has_the_report_of_its_last_evaluation(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(RunReport, "write", lambda self, results, words, *_, **__: written.append((words, results)))
    arguments = ["--config-file", str(CONFIG), *SHORT, f"train.output_dir={tmp_path}", "train.hooks=[]"]
    periods = ["solver.max_iter=3", "train.eval_period=1", "train.checkpoint_period=1"]
    assert train.main([*arguments, *periods]) == 0
    assert [words for words, _ in written] == [f"weights of step {step}" for step in (1, 2, 3)]
    assert train.main([*arguments, *periods, "solver.max_iter=4", "--resume"]) == 0
    assert written[-1][0] == "weights of step 4"
    assert all("box" in results for _, results in written)


def test_each_set_of_weights_has_its_own_detections(finished_run, monkeypatch):
    class Experiment:
        tree, train, data = {}, type("", (), {"output_dir": str(finished_run)}), None

    evaluator = CocoEvaluator.__new__(CocoEvaluator)
    report = RunReport(Experiment, [evaluator])
    for step in range(3):
        for name in ("raw", "ema"):
            evaluator._predictions = {name: step}
            report.keep(1)
    assert report._found == [{"raw": 2}, {"ema": 2}]


def test_the_config_on_the_page_has_no_passwords(tmp_path, monkeypatch):
    address = "https://me:hidden@host/w.pth?key=hidden"
    tree = {"train": {"init_weights": address, "hooks": [{"x": "a?b", "y": 2}]}}
    train, data = SimpleNamespace(output_dir=str(tmp_path)), SimpleNamespace(test_set=None)
    shown = []
    monkeypatch.setattr(run_report, "write_report", lambda file, results, evaluator, about, found: shown.append(about))
    RunReport(SimpleNamespace(tree=tree, train=train, data=data), []).write({}, "weights", trained=False)
    assert " ".join(shown[0].config.split()) == "train: init_weights: https://host/w.pth hooks: - x: a?b y: 2"


def test_an_evaluation_writes_it_again(finished_run):
    (finished_run / "run_report.html").unlink()
    rows = json.loads((finished_run / "doctor_findings.json").read_text())
    rows.append(vars(Finding("note", "somewhere", "found at the start", "none")))
    (finished_run / "doctor_findings.json").write_text(json.dumps(rows))
    assert evaluate.main([str(finished_run), "--weights", str(finished_run / "model_final_ema.pth")]) == 0
    page = checked(finished_run / "run_report.html")
    assert headline(page, json.loads((finished_run / "evaluation.json").read_text()))
    assert "model_final_ema.pth" in page.text
    assert "found at the start" in page.text


def test_detections_are_evaluated_without_a_model(finished_run, tmp_path, capsys):
    assert evaluate.main([str(finished_run)]) == 0
    before = json.loads((finished_run / "evaluation.json").read_text())
    shutil.copy(finished_run / "coco_results.json", tmp_path / "theirs.json")
    given = ["--results", str(tmp_path / "theirs.json"), "--report", str(tmp_path / "theirs.html")]
    assert evaluate.main([str(finished_run), *given, f"train.output_dir={tmp_path / 'run'}"]) == 0
    after = json.loads((tmp_path / "run/evaluation.json").read_text())
    for task in ("box", "mask"):
        before[task].pop("limits")  # of the model, which the file knows nothing of
    assert after == {task: before[task] for task in ("box", "mask")}
    assert "detections of theirs.json" in checked(tmp_path / "theirs.html").text
    assert not (tmp_path / "run/report.html").exists()
    with pytest.raises(ConfigError, match="there is none; add one"):
        evaluate.main([str(finished_run), *given, "evaluators=[]", f"train.output_dir={tmp_path / 'run'}"])
    with pytest.raises(SystemExit):
        evaluate.main([str(finished_run), *given, "--weights", "some.pth"])
    assert "--results needs no model" in capsys.readouterr().err


def test_an_evaluation_that_measures_nothing_is_refused_and_the_last_one_stays(finished_run):
    before = (finished_run / "evaluation.json").read_bytes()
    with pytest.raises(ConfigError, match="evaluators: expected at least one, such as"):
        evaluate.main([str(finished_run), "evaluators=[]"])
    assert (finished_run / "evaluation.json").read_bytes() == before


def test_a_report_that_fails_ends_no_run(finished_run, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise RuntimeError("no page today")

    monkeypatch.setattr("detkit.report.run.write_report", fail)
    assert evaluate.main([str(finished_run)]) == 0
    assert "run_report.html could not be made; the run goes on without" in caplog.text
