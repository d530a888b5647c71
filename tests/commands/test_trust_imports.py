"""A stranger's code: no command runs what a config imports unless it is told to; a training runs its user's own."""

import importlib
import sys

import pytest
import torch
from small_folders import make_folder

import detkit
from detkit.checkpoint import Checkpointer, read_checkpoint
from detkit.config import ConfigError, to_yaml
from detkit.experiment import load_experiment
from detkit.predictor import Predictor
from detkit.registry import Registry

CONFIG = "configs/quick_start/mask_rcnn_shapes.yaml"
SMALL = ["model.backbone.width=8", "data.train_dataset.num_images=2", "data.test_dataset.num_images=1"]
CODE = "import sys, {name}_helper\nsys.stranger_ran = '{name}'\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pytestconfig):
    """The folder of somebody's run, with a failed step: its config and its weights list one file each."""
    folder = tmp_path_factory.mktemp("somebody")
    exp = load_experiment(pytestconfig.rootpath / CONFIG, SMALL)
    Checkpointer(folder).save("model_final", exp.build_model(), config={**exp.tree, "imports": ["in_pth.py"]})
    (folder / "config.yaml").write_text(to_yaml({"imports": ["in_yaml.py"], **exp.tree}))
    for name in ("in_yaml", "in_pth"):
        (folder / f"{name}.py").write_text(CODE.format(name=name))
        (folder / f"{name}_helper.py").write_text("")
    torch.save({"failure": {}}, folder / "state.pth")
    labels = make_folder("YoloDataset", folder / "data") / "labels"
    (labels / "b.txt").write_text((labels / "a.txt").read_text())
    return folder


@pytest.fixture
def ran(monkeypatch):
    """Whose code ran since the test began; None for nobody's."""
    monkeypatch.setattr(sys, "stranger_ran", None, raising=False)
    return lambda: sys.stranger_ran


@pytest.mark.parametrize(
    "argv",
    [
        "predict --run {0} {0}/config.yaml --output {0}/out",
        "predict --weights {0}/model_final.pth {0}/config.yaml --output {0}/out",
        "predict --config-file {0}/config.yaml --weights {0}/model_final.pth {0}/config.yaml --output {0}/out",
        "doctor --config-file {0}/config.yaml",
        "doctor {0} --data {0}/data",
        "visualize_data --config-file {0}/config.yaml",
        "visualize_data {0} --data {0}/data",
        "visualize_model --config-file {0}/config.yaml",
        "visualize_model {0} --data {0}/data",
        "evaluate {0}",
        "evaluate {0} --data {0}/data",
        "evaluate {0} --results {0}/state.pth",
        "evaluate {0} --results {0}/state.pth --data {0}/data",
        "weights_convert {0}/model_final.pth {0}/other.pth --config-file {0}/config.yaml",
    ],
)
def test_tools_refuse_code_that_a_config_lists(folder, ran, argv):
    tool, *argv = argv.format(folder).split()
    with pytest.raises(ConfigError, match="is code") as caught:
        importlib.import_module(f"detkit.commands.{tool}").main(argv)
    message = str(caught.value)
    assert "--trust-imports" in message
    assert ran() is None


def test_looking_runs_nothing_and_shows_what_is_there(folder, ran, capsys):
    show = importlib.import_module("detkit.commands.show")
    node = "model.roi_heads.mask_head={name: HeadOfTheStranger, wild: 1}"
    for more, shown in (([], "out_channels"), ([node], "HeadOfTheStranger")):
        assert show.main(["--config-file", str(folder / "config.yaml"), *more]) == 0
        printed = capsys.readouterr()
        assert shown in printed.out
        assert "in_yaml.py" in printed.out
        assert "--trust-imports" in printed.err
    assert ran() is None
    assert show.main(["--config-file", str(folder / "config.yaml"), "--trust-imports"]) == 0
    assert ran() == "in_yaml"


def test_a_predictor_runs_only_what_it_is_told_to_trust(folder, ran):
    for make in (Predictor.from_run, lambda path, **more: Predictor.from_weights(path / "model_final.pth", **more)):
        with pytest.raises(ConfigError, match="trust_imports=True"):
            make(folder, device="cpu")
    with pytest.raises(ConfigError, match="is code"):
        load_experiment(read_checkpoint(folder / "model_final.pth").config)
    assert ran() is None
    Predictor.from_weights(folder / "model_final.pth", device="cpu", trust_imports=True)
    assert ran() == "in_pth"


@pytest.mark.parametrize("options", [{}, {"data": "data"}, {"weights": "model_final.pth"}])
def test_an_evaluation_runs_only_what_it_is_told_to_trust(folder, ran, options, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match="trust_imports=True"):
        detkit.evaluate(folder, **options)
    assert ran() is None
    with pytest.raises(ConfigError, match="has no option 'no'"):
        detkit.evaluate(folder, **options, trust_imports=True, overrides="model.no=1")


def test_a_run_keeps_its_code_and_no_secret_and_works_elsewhere(tmp_path, monkeypatch, pytestconfig, ran):
    train = importlib.import_module("detkit.commands.train")
    monkeypatch.setenv("SECRET_OF_THE_TEST", "hunter2")
    own = tmp_path / "own"
    own.mkdir()
    (own / "amounts.py").write_text("STRENGTH = 0.25\n")
    (own / "my_hook.py").write_text(
        "from amounts import STRENGTH\nfrom detkit.engine.interfaces import HOOKS, Hook\n"
        "@HOOKS.register()\nclass HookOfMine(Hook):\n"
        "    def __init__(self, *, strength: float = STRENGTH, word: str = ''): self.strength = strength\n"
    )
    (own / "c.yaml").write_text(f"_base_: {pytestconfig.rootpath / CONFIG}\nimports: [my_hook.py]\n")
    run = tmp_path / "run"
    more = ["data.train_dataset.image_size=[64,64]", "data.test_dataset.image_size=[64,64]", "data.batch_size=1"]
    more += ["data.num_workers=0", "train.num_pictures=0", "train.doctor=false", f"train.output_dir={run}"]
    hook = "train.hooks=[{name: HookOfMine, word: '${oc.env:SECRET_OF_THE_TEST}'}]"
    arguments = ["--config-file", str(own / "c.yaml"), *SMALL, *more, hook]
    assert train.main([*arguments, "solver.max_iter=1"]) == 0
    for file in (run / "config.yaml", run / "model_final.pth", next(run.glob("*.log"), run / "metrics.jsonl")):
        assert b"hunter2" not in file.read_bytes()
    elsewhere = tmp_path / "elsewhere"
    run.rename(elsewhere)
    (own / "my_hook.py").unlink()
    for make in (Predictor.from_run, lambda path, **kw: Predictor.from_weights(path / "model_final.pth", **kw)):
        make(elsewhere, device="cpu", trust_imports=True)
    assert train.main(["--config-file", str(elsewhere / "config.yaml"), "--resume", f"train.output_dir={elsewhere}",
                       "solver.max_iter=2"]) == 0  # fmt: skip
    assert load_experiment(elsewhere / "config.yaml").train.hooks[0].kwargs["strength"] == 0.25
    for registry in Registry.of.values():
        for name, cls in [*registry]:
            if name == "HookOfMine":
                registry.forget(cls.__module__)
