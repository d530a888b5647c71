"""detkit train: a whole run, its folder, resuming, evaluating, swapping parts by overrides, and mistakes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from folder_holder import holder_of

from detkit import evaluating
from detkit.commands import evaluate as evaluate_command
from detkit.commands import train as train_command
from detkit.config import ConfigError
from detkit.experiment import load_experiment, torch_device
from detkit.experiment.run import warn_random_frozen
from detkit.modeling.roi_heads import Detection
from detkit.predictor import Predictor, engines
from detkit.registry import DataError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/quick_start/mask_rcnn_shapes.yaml"
SHORT = [
    "data.train_dataset.num_images=6",
    "data.test_dataset.num_images=3",
    "data.batch_size=2",
    "solver.max_iter=2",
    "train.num_pictures=2",
    "train.log_period=1",
]


def run(folder: Path, *arguments: str) -> int:
    return train_command.main(["--config-file", str(CONFIG), *arguments, *SHORT, f"train.output_dir={folder}"])


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert run(folder, "--resume", "train.checkpoint_period=1") == 0
    return folder


def test_a_run_leaves_what_it_promises(finished_run):
    assert {"config.yaml", "metrics.jsonl", "model_final.pth", "evaluation.json", "curves.png", "log.txt"} <= {
        p.name for p in finished_run.iterdir()
    }
    assert len(list((finished_run / "predictions").glob("*.png"))) == 2
    lines = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "total_loss" in line] == [0, 1]
    assert any("mask/AP" in line for line in lines)
    final = torch.load(finished_run / "model_final.pth", weights_only=True)
    assert len(final["class_names"]) == 5
    assert final["config"]["model"]["name"] == "GeneralizedRCNN"
    assert "AP" in json.loads((finished_run / "evaluation.json").read_text())["mask"]
    assert load_experiment(finished_run / "config.yaml").tree == final["config"]


def test_the_run_can_be_used(finished_run):
    predictor = Predictor.from_run(finished_run)
    image = load_experiment(finished_run / "config.yaml").data.test_dataset()[0].image
    one, first, second = (prediction.instances for prediction in [predictor(image), *predictor([image, image[:64]])])
    assert one.image_size == image.shape[:2] == first.image_size
    assert second.image_size == (64, image.shape[1])
    torch.testing.assert_close(one.boxes.tensor, first.boxes.tensor, atol=1e-3, rtol=0)


def test_evaluating_the_weights_again_gives_the_same_values(finished_run, capsys):
    before = json.loads((finished_run / "evaluation.json").read_text())
    config = str(finished_run / "config.yaml")
    assert train_command.main(["--config-file", config, "--eval-only"]) == 0
    after = json.loads((finished_run / "evaluation.json").read_text())
    assert (before["box"], before["mask"]) == (after["box"], after["mask"])
    assert "AP" in capsys.readouterr().out
    test_set = load_experiment(finished_run / "config.yaml").data.test_set
    rows = json.loads((finished_run / "coco_results.json").read_text())
    assert {row["image_id"] for row in rows} <= {test_set.image_id(i) for i in range(len(test_set))}
    assert {row["category_id"] for row in rows} <= {*test_set.category_ids}
    with pytest.raises(DataError, match="weights of another model"):
        train_command.main(["--config-file", config, "--eval-only", "model.neck.out_channels=32"])


def test_a_run_folder_is_evaluated_where_it_lies(finished_run, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(finished_run, moved)
    expected = json.loads((moved / "evaluation.json").read_text())
    (moved / "evaluation.json").unlink()
    assert evaluate_command.main([str(moved)]) == 0
    given = json.loads((moved / "evaluation.json").read_text())
    assert given["box"] == expected["box"]
    assert (moved / "coco_results.json").is_file()
    assert "AP50" in capsys.readouterr().out


def test_weights_of_the_command_line_are_what_training_starts_from(monkeypatch):
    monkeypatch.setattr(train_command, "start", lambda words, args, argv: args)
    args = train_command.main([str(CONFIG), "--weights", "a 'b'.pth"])
    assert load_experiment(args.config_file, args.overrides).train.init_weights == "a 'b'.pth"


def test_evaluating_can_take_a_faster_copy(finished_run, monkeypatch):
    made, evaluated = [], []
    optimize, evaluate = engines.optimized, evaluating.evaluate
    monkeypatch.setattr(engines, "optimized", lambda *a: made.append((*a[1:], optimize(*a))) or made[-1][-1])
    monkeypatch.setattr(
        evaluating, "evaluate", lambda model, *a, **k: evaluated.append(model) or evaluate(model, *a, **k)
    )
    config = str(finished_run / "config.yaml")
    for precision in ("fp32", "bf16"):
        assert train_command.main(["--config-file", config, "--eval-only", "--precision", precision]) == 0
        assert made[-1][:2] == (precision, False)
        assert evaluated[-1] is made[-1][-1]
        assert json.loads((finished_run / "evaluation.json").read_text())["timing"]["images"] == 3


def test_resuming_goes_on_and_a_finished_run_says_so(finished_run, tmp_path, caplog):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    again = ["--config-file", str(folder / "config.yaml"), "--resume", f"train.output_dir={folder}"]
    with caplog.at_level("INFO"):
        assert train_command.main(again) == 0
    assert "raise solver.max_iter, which is 2 now" in caplog.text
    assert train_command.main([*again, "solver.max_iter=3"]) == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "total_loss" in line] == [0, 1, 2]


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.neck.name=PAFPN"],
        ["model.neck.out_channels=128"],
        ["model.backbone.depth=101"],
        ["model.roi_heads.mask_head=null"],
        ["model.roi_heads.mask_head.num_conv=2"],
        ["model.roi_heads.box_head.box_loss={name: GIoUBoxLoss}"],
        ["model.roi_heads.box_head.class_agnostic=true", "model.roi_heads.box_head.conv_dims=[32]"],
        ["solver.optimizer={name: AdamW, lr: 0.001}", "solver.schedule.name=WarmupCosineLR"],
        ["data.sampler.name=AspectRatioSampler", "data.num_workers=2"],
        *(
            [f"model.backbone={{name: TorchvisionBackbone, model: {name}}}"]
            for name in ("mobilenet_v3_large", "convnext_tiny", "swin_t", "efficientnet_b0")
        ),
    ],
    ids=lambda o: o[0].split("model: ")[-1].strip("}"),
)
def test_a_part_is_swapped_by_an_override_alone(overrides):
    exp = load_experiment(CONFIG, [*overrides, *SHORT])
    model = exp.build_model()
    optimizer = exp.build_optimizer(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    losses = model.train()(next(iter(exp.data.train())))
    assert ("loss_mask" in losses.terms) == (model.roi_heads.mask_head is not None)
    losses.total().backward()
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    optimizer.step()
    moved = {n.split(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"backbone", "neck", "proposal_generator", "roi_heads"}
    assert len(model.eval()(next(iter(exp.data.test())))) == 3


def test_overrides_reach_the_built_parts():
    model = load_experiment(
        CONFIG, ["model.neck.out_channels=128", "model.roi_heads.mask_head.num_conv=3"]
    ).build_model(5)
    assert {s.channels for s in model.neck.output_shape.values()} == {128}
    assert len(model.roi_heads.mask_head.convs) == 3
    limits = ["score_thresh=0.7", "nms_thresh=0.2", "max_detections=9"]
    exp = load_experiment(CONFIG, [f"model.roi_heads.box_head.detection.{limit}" for limit in limits])
    head = exp.build_model(5).roi_heads.box_head
    assert head.detection == Detection(0.7, 0.2, 9)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.roi_heads.mask_head.num_cov=2"], ["model.roi_heads.mask_head", "num_cov", "Did you mean 'num_conv'?"]),
        (["model.neck.name=FPM"], ["model.neck", "FPM", "Did you mean 'FPN'?", "imports"]),
        (["model.neck.out_channels=wide"], ["model.neck.out_channels", "int", "wide"]),
        (["model.roi_heads.num_classes=3"], ["model.roi_heads", "num_classes", "GeneralizedRCNN"]),
        (["model.neck"], ["model.neck", "="]),
        (["model.neck=[FPN]"], ["model.neck", "FPN", "list"]),
        (["model.neck={out_channels: 3}"], []),
        (["model.backbone={name: TorchvisionBackbone}"], ["model.backbone", "model", "TorchvisionBackbone"]),
        (["train.log_period=0"], ["train", "log_period", "0"]),
        (["solver.epochs=3"], ["solver", "max_iter", "epochs"]),
    ],
)
def test_mistakes_end_before_anything_is_built(overrides, words, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *a, **k: pytest.fail("something was built"))
    if not words:
        assert load_experiment(CONFIG, overrides).model.kwargs  # without a name the base's node is meant
        return
    with pytest.raises(ConfigError) as error:
        load_experiment(CONFIG, overrides)
    for word in words:
        assert word in str(error.value)


def test_parts_that_do_not_fit_are_named():
    with pytest.raises(ConfigError, match="4 feature levels"):
        load_experiment(CONFIG, ["model.neck.top_block=null"]).build_model(3)
    with pytest.raises(ConfigError, match=r"no feature named p9; there are p2"):
        load_experiment(CONFIG, ["model.roi_heads.in_features=[p2, p9]"]).build_model(3)
    with pytest.raises(ConfigError, match="'cuba' is not available") as error:
        torch_device("cuba")
    for name in str(error.value).partition("take ")[2].split(" or "):  # each is a fix that works
        assert torch_device(name)


def test_a_missing_dataset_is_named_before_training(tmp_path):
    data = "data.train_dataset={name: CocoInstances, json_file: nowhere/x.json, image_root: nowhere}"
    with pytest.raises(DataError, match=r"nowhere/x\.json"):
        train_command.main(["--config-file", str(CONFIG), data, f"train.output_dir={tmp_path}"])
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_users_mistake_prints_its_message_alone(tmp_path):
    command = [sys.executable, "tools/train_net.py", "--config-file", str(CONFIG), "model.neck.out_chanels=3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Did you mean 'out_channels'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_test_classes_must_be_the_models(tmp_path):
    exp = load_experiment(CONFIG, SHORT)
    exp.data.check_classes(exp.data.train_set.class_names)
    with pytest.raises(DataError, match="differ from those that the model learned"):
        exp.data.check_classes(("other",))


def test_frozen_layers_without_weights_are_warned_of(caplog):
    exp = load_experiment(CONFIG, ["model.backbone.freeze_at=2", "model.backbone.norm=FrozenBN"])
    warn_random_frozen(exp, exp.build_model(3))
    assert "frozen at their random start" in caplog.text
    caplog.clear()
    warn_random_frozen(load_experiment(CONFIG), load_experiment(CONFIG).build_model(3))
    assert not caplog.text


def test_an_error_of_a_constructor_names_the_part_of_the_config():
    with pytest.raises(ConfigError, match=r"data\.train_dataset: cannot be built. ConcatDataset\.datasets: expected"):
        load_experiment(CONFIG, ["data.train_dataset={name: ConcatDataset, datasets: []}"]).build_model()
    exp = load_experiment(CONFIG, ["solver.optimizer.lr_factors={bacbone: 0.1}"])
    with pytest.raises(ConfigError, match=r"^solver\.optimizer\.lr_factors: the model has no submodule 'bacbone'"):
        exp.build_optimizer(exp.build_model(3))


def test_a_second_run_sets_the_first_one_aside(finished_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    before = (folder / "model_final.pth").read_bytes()
    assert run(folder) == 0
    assert (folder / "earlier_run_1" / "model_final.pth").read_bytes() == before
    assert (folder / "earlier_run_1" / "config.yaml").is_file()
    assert (folder / "evaluation.json").is_file()


def test_what_is_the_users_in_a_runs_folder_stays(finished_run, tmp_path):
    folder = tmp_path / "mine"
    (folder / "predictions").mkdir(parents=True)
    for source, name in (("config.yaml", "config.yaml"), ("model_final.pth", "mine.pth")):
        shutil.copyfile(finished_run / source, folder / name)
    (folder / "predictions/a.png").write_text("a picture")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    named = ["--config-file", str(folder / "config.yaml"), f"train.init_weights={folder / 'mine.pth'}"]
    assert train_command.main([*named, f"train.output_dir={folder}", "solver.max_iter=1"]) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert not list(folder.glob("earlier_run*"))
    assert load_experiment(folder / "run_config.yaml").solver.max_iter == 1
    assert any((folder / "run_predictions").iterdir())
    assert Predictor.from_run(folder) is not None
    again = tmp_path / "again"
    again.mkdir()
    (folder / "mine.pth").rename(again / "model_final.pth")
    named[-1] = f"train.init_weights={again / 'model_final.pth'}"
    with pytest.raises(ConfigError, match=r"again has model_final\.pth, not of a run.*give another train\.output_dir"):
        train_command.main([*named, f"train.output_dir={again}", "solver.max_iter=1"])


@pytest.mark.parametrize("options", [["--resume"], ["--eval-only"], []])
def test_a_folder_in_use_is_refused_and_stays_as_it_is_but_can_be_read(finished_run, options):
    with holder_of(finished_run) as process:
        before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
        with pytest.raises(ConfigError, match=rf"is in use by process {process.pid} on .* Wait for its end, or give"):
            run(finished_run, *options)
        assert Predictor.from_run(finished_run) is not None
        assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")} == before


def test_a_start_that_fails_leaves_the_folder_as_it_was(finished_run):
    config, weights = (finished_run / "config.yaml").read_text(), (finished_run / "model_final.pth").read_bytes()
    with pytest.raises(ConfigError):
        run(finished_run, "train.device=cuba")
    with pytest.raises(DataError, match="cannot be resumed"):
        run(finished_run, "--resume", "model.neck.out_channels=32", "solver.max_iter=9")
    with pytest.raises(DataError):
        run(finished_run, "train.init_weights=nowhere.pth")
    assert (finished_run / "config.yaml").read_text() == config
    assert (finished_run / "model_final.pth").read_bytes() == weights


def test_options_that_would_be_ignored_are_refused(tmp_path, capsys):
    for arguments, words in (
        (["--precision", "bf16"], "train.precision"),
        (["--resume", "--eval-only"], "give one of them"),
        (["--eval-only", "--data", "d", "--classes", "cat"], "takes the model's classes"),
        (["--eval-only", "--data", "d", "--val-fraction", "0.3"], "--classes and --val-fraction are of a training"),
    ):
        with pytest.raises(SystemExit):
            run(tmp_path, *arguments)
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("given", [[], ["--weights", "nowhere.pth"], ["--weights", "nowhere.onnx"]])
@pytest.mark.parametrize("make", [train_command.main, evaluate_command.main])
def test_an_evaluation_without_weights_leaves_nothing_behind(tmp_path, given, make):
    more = ["--eval-only"] * (make is train_command.main)
    with pytest.raises(DataError, match=r"(model_final|nowhere)\.\w+: there is no such file"):
        make([str(CONFIG), *given, *more, f"train.output_dir={tmp_path / 'out'}"])
    with pytest.raises(SystemExit):
        evaluate_command.main([str(CONFIG), "--results", "nowhere.json", f"train.output_dir={tmp_path / 'out'}"])
    assert [*tmp_path.iterdir()] == []


AVERAGE = "{name: ExponentialMovingAverage, decay: 0.9}"
WATCHED = "{name: ValidationLoss}, {name: BestCheckpoint, metric: validation/total_loss, mode: min}"


@pytest.mark.parametrize(
    ("hooks", "lost"),
    [
        (AVERAGE, ["model_final.pth", "model_final_ema.pth"]),  # killed between the last checkpoint and the weights
        (WATCHED, ["model_final.pth", "evaluation.json"]),  # killed in the last step's hooks, whose metric is watched
        (WATCHED, ["evaluation.json"]),
    ],
)
def test_a_resume_does_what_was_left_to_do_after_the_last_checkpoint(tmp_path, hooks, lost):
    options = [f"train.hooks=[{hooks}]", "train.checkpoint_period=1"]
    assert run(tmp_path / "run", *options) == 0
    before = {name: (tmp_path / "run" / name).read_bytes() for name in lost}
    for name in lost:
        (tmp_path / "run" / name).unlink()
    assert run(tmp_path / "run", *options, "--resume") == 0
    for name, content in before.items():
        again = tmp_path / "run" / name
        if again.suffix == ".json":
            assert json.loads(again.read_text())["box"] == json.loads(content)["box"]
        else:
            (tmp_path / "before.pth").write_bytes(content)
            first, second = (torch.load(path, weights_only=True)["model"] for path in (tmp_path / "before.pth", again))
            assert all(torch.equal(first[key], second[key]) for key in first)
