"""What is wrong with solver, weights, resume and machine is found; nothing is reported of the project's presets."""

import shutil
from pathlib import Path

import pytest
import torch

from detkit.checkpoint import Checkpointer, export_state
from detkit.doctor import CHECKS, Check, CheckContext, Finding, run_checks
from detkit.doctor.machine import checkpoint_bytes
from detkit.doctor.solver import LearningRate
from detkit.experiment import load_experiment

ROOT = Path(__file__).resolve().parents[2]
SGD = "solver.optimizer={name: SGD, lr: 0.02}"


def found(findings, check):
    return [(f.severity, f.where) for f in findings if f.check == check]


@pytest.mark.parametrize(
    ("overrides", "options", "check", "expected"),
    [
        ([SGD, "solver.lr_batch_size=null", "data.batch_size=2"], {}, "LearningRate", "solver.optimizer.lr"),
        ([SGD, "solver.lr_batch_size=1"], {}, "LearningRate", "solver.optimizer.lr"),
        (["solver.optimizer.lr=2e-8"], {}, "LearningRate", "solver.optimizer.lr"),
        (["solver.optimizer.lr=0.05"], {}, "LearningRate", "solver.optimizer.lr"),
        (["solver.max_iter=60"], {}, "Schedule", "solver.schedule.warmup_iters"),
        (["train.eval_period=1000"], {}, "Schedule", "train.eval_period"),
        (["data.num_workers=100000"], {}, "Workers", "data.num_workers"),
        (["train.precision=fp16", "train.device=cpu"], {}, "Device", "train.precision"),
    ],
)
def test_a_warning_names_the_option(files, overrides, options, check, expected):
    assert (("warning", expected)) in found(files.findings(*overrides, quick=True, **options), check)


@pytest.mark.parametrize(
    ("overrides", "options", "check", "expected"),
    [
        (["data.batch_size=3"], {"num_processes": 2}, "Batches", "data.batch_size"),
        (["solver.max_iter=null", "solver.epochs=0.0001"], {}, None, None),  # one step at least
        (["train.device=cuda:77"], {}, "Device", "train.device"),
    ],
)
def test_an_error_names_the_option(files, overrides, options, check, expected):
    findings = files.findings(*overrides, quick=True, **options)
    errors = [(f.check, f.where) for f in findings if f.severity == "error"]
    assert errors == ([(check, expected)] if check else [])


def test_batch_norms_that_see_one_image(files):
    norms = ["model.backbone.norm=BN", "data.batch_size=2"]
    findings = files.findings(*norms, model=True, num_processes=2)
    assert found(findings, "Batches") == [("warning", "data.batch_size")]
    assert not found(files.findings(*norms, model=True), "Batches")
    synchronised = "model.backbone.norm=SyncBN"  # over the processes, of which one has nothing to share
    assert not found(files.findings(synchronised, "data.batch_size=2", model=True, num_processes=2), "Batches")
    assert found(files.findings(synchronised, "data.batch_size=1", model=True), "Batches")
    assert not found(files.findings("model.backbone.norm=GN", "data.batch_size=1", model=True), "Batches")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*/*.yaml")), ids=lambda p: p.stem)
def test_the_presets_rates_are_usual(path):
    if path.parent.name != "_base_":
        assert not list(LearningRate()(CheckContext(load_experiment(path))))


def test_a_folder_that_cannot_be_written(files, monkeypatch):
    (files.folder / "file").write_text("")
    assert found(files.findings(f"train.output_dir={files.folder}/file/run"), "OutputFolder") == [
        ("error", "train.output_dir")
    ]


def test_a_disk_without_space(files, monkeypatch):
    context = CheckContext(files.experiment()).load()
    one = checkpoint_bytes(context.model, torch.optim.AdamW)
    learned = sum(p.numel() * 4 for p in context.model.parameters() if p.requires_grad)
    assert one > 3 * learned - 1
    for free, expected in ((one, ["error"]), (3 * one, ["warning"]), (9 * one, [])):
        usage = shutil._ntuple_diskusage(100 * one, 0, free)
        monkeypatch.setattr("detkit.doctor.machine.shutil.disk_usage", lambda path, usage=usage: usage)
        assert [f.severity for f in run_checks(context) if f.check == "OutputFolder"] == expected


@pytest.fixture
def checkpoint(files):
    """A training checkpoint of the experiment, at step 100."""
    exp = files.experiment()
    model = exp.build_model()
    saver = Checkpointer(exp.train.output_dir)
    return saver.save("checkpoint_0000100", model, trainer_state={"finished": 100}, config=exp.tree)


@pytest.mark.parametrize("quick", [False, True])
def test_weights_against_the_model(files, checkpoint, quick):
    weights = str(checkpoint)
    assert files.findings(model=True, quick=quick, weights=weights) == []
    assert files.findings(f"train.init_weights={weights}", model=True, quick=quick) == []
    by_what = {
        f.what: f for f in files.findings("model.neck.out_channels=32", model=True, quick=quick, weights=weights)
    }
    skipped = next(f for what, f in by_what.items() if "another shape" in what)
    assert skipped.severity == "warning"
    assert any(text.startswith("neck.") and "shape" in text for text in skipped.examples)
    no_mask = files.findings("model.roi_heads.mask_head=null", model=True, quick=quick, weights=weights)
    assert [(f.severity, f.check) for f in no_mask] == [("note", "WeightsFit")]
    more = files.findings("model.roi_heads.mask_head.num_conv=4", model=True, quick=quick, weights=weights)
    assert any("are not in the file" in f.what and "mask_head.convs.3" in " ".join(f.examples) for f in more)


def test_weights_of_other_classes_and_of_another_architecture(files, checkpoint):
    for content in (files.train, files.test):
        content["categories"][0]["name"] = "cow"
    notes = files.findings(model=True, weights=str(checkpoint))
    assert [(f.severity, f.what) for f in notes] == [("note", "class layers that would be filled by class name")]
    assert "1 of 2 classes by name" in notes[0].examples[0]
    torch.save({"model": {"strange": torch.zeros(3)}}, files.folder / "other.pth")
    errors = files.findings(model=True, weights=str(files.folder / "other.pth"))
    assert [(f.severity, f.check) for f in errors] == [("error", "WeightsFit")]
    errors = files.findings(model=True, weights=str(files.folder / "gone.pth"))
    assert [(f.severity, f.where) for f in errors] == [("error", "weights")]


def test_pixels_that_mean_something_else_to_the_weights(files, checkpoint):
    overrides = ["model.preprocess.channel_order=BGR", "model.preprocess.pixel_std=[1.0, 1.0, 1.0]"]
    findings = files.findings(*overrides, model=True, weights=str(checkpoint))
    assert found(findings, "PixelsFit") == [
        ("warning", "model.preprocess.pixel_std"),
        ("warning", "model.preprocess.channel_order"),
    ]


def test_layers_frozen_at_random_values(files, checkpoint):
    frozen = ["model.backbone.freeze_at=2", "model.backbone.norm=FrozenBN"]
    assert found(files.findings(*frozen, model=True), "FrozenNoise") == [("warning", "model")]
    assert not found(files.findings(*frozen, model=True, weights=str(checkpoint)), "FrozenNoise")


@pytest.mark.parametrize("quick", [False, True])
def test_a_resume(files, checkpoint, quick):
    def resume(*overrides):
        return [(f.severity, f.where) for f in files.findings(*overrides, model=True, resume=True, quick=quick)]

    assert resume() == []
    assert resume("solver.max_iter=100", "train.checkpoint_period=50") == [("warning", "solver.max_iter")]
    assert resume("model.neck.out_channels=32") == [("error", str(checkpoint))]
    assert resume(SGD) == [("error", "solver.optimizer")]
    assert resume(f"train.output_dir={files.folder}/new") == [("note", f"{files.folder}/new")]
    for content in (files.train, files.test):
        content["categories"][0]["name"] = "cow"
    assert resume() == [("error", str(checkpoint))]
    older = checkpoint.with_name("checkpoint_0000050.pth")
    shutil.copy(checkpoint, older)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert resume() == [("error", str(older)), ("warning", str(checkpoint))]
    older.unlink()
    assert ("error", str(checkpoint)) in resume()


def test_crowded_images(files):
    limits = [
        "model.roi_heads.box_head.detection.max_detections=1",
        "evaluators=[{name: CocoEvaluator, max_detections: 1}]",
    ]
    proposals = "model.proposal_generator.selection.post_nms_topk"
    findings = files.findings(*limits, f"{proposals}_train=1", f"{proposals}_test=1", quick=True)
    assert {where for _, where in found(findings, "CrowdedImages")} == {
        "model.roi_heads.box_head.detection.max_detections",
        "evaluators[0].max_detections",
        f"{proposals}_train",
        f"{proposals}_test",
    }
    assert "21.png: 2 objects" in next(f for f in findings if f.where.startswith("evaluators")).examples[0]


def test_weights_of_another_framework_want_its_order_of_channels(files):
    model = files.experiment().build_model()
    torch.save(export_state(model.state_dict(), "detectron2"), files.folder / "d2.pth")
    weights = str(files.folder / "d2.pth")
    found_in_rgb = files.findings(model=True, weights=weights)
    assert ("warning", "model.preprocess.channel_order") in found(found_in_rgb, "WeightsFit")
    found_in_bgr = files.findings("model.preprocess.channel_order=BGR", model=True, weights=weights)
    assert ("warning", "model.preprocess.channel_order") not in found(found_in_bgr, "WeightsFit")


def test_a_check_that_fails_leaves_the_others_alone(files, monkeypatch):
    monkeypatch.setattr("detkit.data.CocoInstances.objects", lambda self: 1 / 0)
    files.train["categories"].append({"id": 1, "name": "twice"})
    findings = files.findings(quick=True)
    assert found(findings, "Annotations") == [("error", f"{files.folder}/train.json")]
    assert ("note", "ClassCounts") in found(findings, "ClassCounts")
    assert "ZeroDivisionError" in next(f.what for f in findings if f.check == "ClassCounts")


def test_a_check_of_ones_own_is_made(files):
    class NeverOnMondays(Check):
        """Nothing in particular."""

        def __call__(self, context):
            yield Finding("note", "calendar", f"{len(context.train)} images", "wait")

    CHECKS.register()(NeverOnMondays)
    try:
        assert [(f.check, f.what) for f in files.findings(quick=True)] == [("NeverOnMondays", "12 images")]
    finally:
        CHECKS.forget(__name__)


def test_shared_memory_that_is_small_for_loader_processes(files, monkeypatch):
    real = shutil.disk_usage
    small = real("/")._replace(total=64 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: small if str(path) == "/dev/shm" else real(path))
    assert found(files.findings("data.num_workers=1"), "Workers") == [("note", "data.num_workers")]
    assert not found(files.findings("data.num_workers=0"), "Workers")


def test_a_classifier_to_start_from_is_no_reason_to_worry(files):
    """A backbone that is loaded whole is a note; one of which a tensor is missing stays a warning."""
    model = files.experiment().build_model()
    state = {
        k: v for k, v in export_state(model.state_dict(), "detectron2").items() if k.startswith("backbone.bottom_up")
    }
    for severity in ("note", "warning"):
        torch.save(state, files.folder / "backbone.pth")
        findings = files.findings(
            "model.preprocess.channel_order=BGR", model=True, weights=str(files.folder / "backbone.pth")
        )
        assert [f.severity for f in findings if f.check == "WeightsFit" and "not in the file" in f.what] == [severity]
        state.pop(next(iter(state)))
