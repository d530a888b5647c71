import json
import shutil

import pytest
from PIL import Image
from tiny_program import CONFIG, OVERRIDES, experiment, model, samples

from detkit import command_line
from detkit.checkpoint import Checkpointer
from detkit.commands import evaluate, export, predict
from detkit.config import to_yaml
from detkit.export import Program
from detkit.export.verify import Differences


def main(*argv, command=export) -> int:
    return command_line.run(lambda: command.main([str(argument) for argument in argv]))


def written_run(folder, seed):
    exp = experiment()
    made = model(exp, seed)
    (folder / "config.yaml").write_text(to_yaml(exp.tree))
    Checkpointer(folder).save("model_final", made, config=exp.tree)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    pytest.importorskip("torch", minversion="2.9")  # of which .pt2 files are
    return written_run(tmp_path_factory.mktemp("run"), seed=1)


@pytest.fixture
def stored(programs, monkeypatch):
    """The command finds programs of the run in a moment, as they were made before."""

    def copied(given, path, **options):
        for file in programs.glob(f"model{path.suffix}"), programs.glob("model.bin"):
            for one in file:
                shutil.copy(one, path.with_suffix(one.suffix))

    monkeypatch.setattr(export, "export", copied)


def test_a_run_becomes_a_program_that_is_verified(run, tmp_path, capsys):
    file = tmp_path / "model.pt2"
    assert main(run, file, "--verify-images", 2, "--batch", 1, "--size", 96, 96) == 0
    said = capsys.readouterr().out
    assert "model.pt2: " in said
    assert "verdict: is the model" in said
    result = json.loads((tmp_path / "model.pt2.verify.json").read_text())
    assert (result["verdict"], result["images"], result["metrics"]) == ("is the model", 2, {})
    assert result["largest_difference"]["boxes"] < 0.01
    assert Program(file).description.inputs[0].shape == [1, 3, 96, 96]


def test_verification_has_the_ap_of_both(run, stored, programs, tmp_path, capsys):
    assert main(run, tmp_path / "model.pt2", "--verify") == 0
    result = json.loads((tmp_path / "model.pt2.verify.json").read_text())
    assert {"box/AP", "mask/AP"} <= set(result["metrics"])
    assert all(values["model"] == pytest.approx(values["program"]) for values in result["metrics"].values())
    assert (result["images"], result["problems"]) == (5, [])
    assert set(result["seconds_an_image"]) == {"model", "program"}


def test_a_program_of_other_weights_differs(stored, tmp_path, capsys):
    other = written_run(tmp_path, seed=2)
    assert main(other, tmp_path / "model.pt2", "--verify-images", 5) == 1
    said = capsys.readouterr()
    assert "verdict: differs" in said.out
    assert "a program differs from the model by more than its precision explains" in said.err
    assert json.loads((tmp_path / "model.pt2.verify.json").read_text())["verdict"] == "differs"


@pytest.mark.parametrize(
    ("detections", "largest", "precision", "metrics", "problems", "verdict"),
    [
        (0, {}, "fp32", False, False, export.NOTHING),
        (0, {}, "int8", True, False, export.NOTHING),
        (0, {"semantic": 0.0}, "fp32", False, False, "is the model"),
        (3, {"boxes": 0.0}, "fp32", False, False, "is the model"),
        (3, {"boxes": 1.0}, "int8", True, False, "is the model"),
        (3, {"boxes": 1.0}, "int8", False, False, export.NOT_JUDGED),
        (0, {}, "fp32", False, True, "differs"),
    ],
)
def test_a_verdict_is_of_what_was_compared(detections, largest, precision, metrics, problems, verdict):
    differences = Differences(detections=detections, largest=largest)
    assert export._verdict(differences, precision, metrics, problems) == verdict


def test_describe_shows_what_a_file_says(program, capsys):
    assert main("--describe", program) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["class_names"] == ["circle", "square", "triangle", "star", "ring"]
    assert [tensor["name"] for tensor in said["inputs"]] == ["images", "regions"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "a.tflite"], "the suffix says the form"),
        (["{run}"], "give at least one FILE to write"),
        (["{run}", "a.onnx", "--batch", "0"], "--batch: expected at least 1, got 0"),
        (["{run}", "a.onnx", "--size", "0", "96"], "--size: expected at least 1, got 0"),
        (["{run}", "a.onnx", "--calibration", "5"], "--calibration: gives int8 its ranges"),
        (["{run}", "a.pt2", "b.onnx", "--precision", "bf16"], "b.onnx: .onnx is written in fp32, fp16, not in bf16"),
        (["{run}", "a.onnx", "--precision", "bf16"], ".onnx is written in fp32, fp16, not in bf16"),
        (["{run}", "a.pt2", "--size", "100", "96"], "expected multiples of 8"),
        (["{run}", "a.onnx", "data.test_views={{}}"], "data.test_views: views are merged by"),
        (["quick_start/mask_rcnn_shapes", "a.onnx"], "is a config without weights; give them: --weights FILE"),
        (["{run}", "a.onnx", "model.no=1"], "has no option 'no'"),
        (["--describe", "missing.onnx"], "missing.onnx: there is no such file"),
        (["--describe", "missing.pt2"], "missing.pt2: there is no such file"),
        (["--describe", "{run}/config.yaml"], "the suffix says the form of a program"),
        (["{run}", "a.onnx", "--describe", "missing.onnx"], "writes none: leave out CONFIG and FILE"),
    ],
)
def test_a_mistake_is_said_in_a_line(run, arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with_exit = 0
    try:
        with_exit = main(*(argument.format(run=run) for argument in arguments))
    except SystemExit as stop:
        with_exit = stop.code
    assert with_exit != 0
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_programs_are_evaluated(program, run, tmp_path, capsys):
    changes = [*OVERRIDES, f"train.output_dir={tmp_path}/out"]
    found = []
    for weights in (run / "model_final.pth", program):
        assert main(CONFIG, *changes, "--weights", weights, command=evaluate) == 0
        found.append(json.loads((tmp_path / "out/evaluation.json").read_text()))
    expected, results = found
    assert results["box"]["AP"] == pytest.approx(expected["box"]["AP"], abs=1e-6)
    assert results["mask"]["AP"] == pytest.approx(expected["mask"]["AP"], abs=1e-3)
    assert f"weights of {program.name}" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize(
    "change", ["model.roi_heads.box_head.detection.score_thresh=0.9", "model.preprocess.pixel_scale=2.0"]
)
def test_a_program_is_evaluated_for_the_model_that_it_was_made_of(programs, run, change, tmp_path, capsys):
    for source in ([CONFIG, *OVERRIDES], [run]):
        folder = f"train.output_dir={tmp_path}/out"
        assert main(*source, folder, change, "--weights", programs / "model.pt2", command=evaluate) != 0
        assert f"is a program, in which the model is fixed; export it with {change}" in capsys.readouterr().err


def test_a_program_is_evaluated_without_views(programs, tmp_path, capsys):
    arguments = [CONFIG, *OVERRIDES, f"train.output_dir={tmp_path}/out", "--weights", programs / "model.pt2"]
    assert main(*arguments, "--tta", "flip", command=evaluate) != 0
    assert "data.test_views: views are merged by" in capsys.readouterr().err


def test_a_program_of_other_classes_is_refused(programs, tmp_path, capsys):
    dataset = "data.test_dataset.class_names=[circle, square]"
    assert main(CONFIG, *OVERRIDES, dataset, "--weights", programs / "model.pt2", command=evaluate) != 0
    assert "class" in capsys.readouterr().err


def test_programs_predict(program, run, tmp_path):
    for number, sample in enumerate(samples((120, 150), (200, 90))):
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
    found = []
    for weights in (["--run", run], ["--weights", program], ["--run", run, "--weights", program]):
        assert main(*weights, tmp_path, "--json", tmp_path / "found.json", "--score-thresh", 0, command=predict) == 0
        found.append(json.loads((tmp_path / "found.json").read_text()))
    assert len(found[0]) == len(found[1]) == len(found[2]) > 2
    for rows in zip(*found):
        assert rows[1]["bbox"] == pytest.approx(rows[0]["bbox"], abs=0.01)
        assert rows[2]["score"] == pytest.approx(rows[0]["score"], abs=1e-4)
