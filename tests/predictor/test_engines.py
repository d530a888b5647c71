import itertools
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_program import assert_same, experiment, model, samples

from detkit.config import to_yaml
from detkit.export import FORMS, Program, ProgramModel, export, form_of
from detkit.export.forms import TorchForm
from detkit.predictor import Predictor, engines
from detkit.registry import ConfigError, DataError
from detkit.views import Views


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    exp = experiment()
    made = Predictor(model(exp), augmentations=[recipe() for recipe in exp.data.test_augmentations])
    made.config = exp.tree
    return made


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, sample in enumerate(samples((120, 150), (200, 90), (60, 60))):
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def same(expected, found) -> int:
    return sum(assert_same(a.instances, b.instances) for a, b in zip(expected, found, strict=True))


def test_a_predictor_of_a_program_is_that_of_the_model(program, predictor, photos):
    made = Predictor.from_export(program)
    assert same(predictor(photos), made(photos)) > 3
    alone = [predictor(photo) for photo in photos]
    assert same(alone, Predictor.from_weights(program, batch_size=1)(photos)) > 3
    assert made.class_names == predictor.class_names
    assert made.config == predictor.config
    assert made(photos[0]).instances.labels == predictor(photos[0]).instances.labels
    assert program.name in repr(made.model)


def test_images_of_every_kind_go_through_a_program(program, predictor, photos):
    made = Predictor.from_export(program, channel_order="BGR")
    pixels = np.asarray(Image.open(photos[0]))
    expected = predictor(photos[0]).instances
    assert assert_same(expected, made(np.ascontiguousarray(pixels[..., ::-1])).instances) > 0
    deep = pixels.astype(np.uint16) * 257
    assert assert_same(expected, made(deep, channel_order="RGB", max_value=65535).instances) > 0
    grey = np.ascontiguousarray(pixels[..., :1])
    assert_same(predictor(grey).instances, made(grey).instances)


def test_tiles_go_through_a_program(programs, photos):
    config = experiment()
    options = {"augmentations": [recipe() for recipe in config.data.test_augmentations], "tile": 64}
    expected = Predictor(model(config), **options)(photos)
    assert same(expected, Predictor.from_export(programs / "model.pt2", tile=64)(photos)) > 3


def test_what_works_on_a_programs_results_can_be_changed_and_the_model_cannot(programs, photos):
    path = programs / "model.pt2"
    thin, thick = (Predictor.from_weights(path, [f"model.mask_thresh={t}"])(photos[0]).instances for t in (0.9, 0.1))
    assert torch.as_tensor(thin.masks.tensor).sum() < torch.as_tensor(thick.masks.tensor).sum()
    change = "model.roi_heads.box_head.detection.score_thresh=0.9"
    with pytest.raises(ConfigError, match=f"is a program, in which the model is fixed; export it with {change}"):
        Predictor.from_weights(path, [change])
    for options in ({"precision": "bf16"}, {"compile": True}):
        with pytest.raises(ConfigError, match="a program has its own precision; export it in another one"):
            Predictor.from_weights(path, **options)


def test_a_config_beside_a_program_says_all_but_the_model(programs, predictor, photos, tmp_path):
    path, file = programs / "model.pt2", tmp_path / "config.yaml"
    file.write_text(to_yaml(experiment("data.test_augmentations=[]").tree))
    assert same(Predictor(predictor.model)(photos), Predictor.from_weights(path, config=file)(photos)) > 0
    file.write_text(to_yaml(experiment("model.preprocess.pixel_scale=2.0").tree))
    with pytest.raises(ConfigError, match=r"model\.preprocess\.pixel_scale=2\.0, or run it with .*pixel_scale=1"):
        Predictor.from_weights(path, config=file)


def test_another_part_of_a_model_is_another_model(programs):
    for change in ("model.neck={name: FPN}", "model.roi_heads.mask_head=null", "model.backbone={name: ResNet}"):
        with pytest.raises(ConfigError, match=f"the model is fixed; export it with {change.partition('=')[0]}="):
            Predictor.from_weights(programs / "model.pt2", [change])


def test_views_are_torchs_alone(programs, predictor, monkeypatch):
    path = programs / "model.pt2"
    program = ProgramModel(predictor.model, Program(path))
    for call in (
        lambda: Predictor.from_export(path, views=Views()),
        lambda: Predictor.from_export(path, engine="auto", views=Views()),
        lambda: Predictor.from_weights(path, ["data.test_views={}"]),
        lambda: Predictor(program, views=Views()),
        lambda: Predictor(predictor.model, engine="openvino", views=Views()),
    ):
        with pytest.raises(ConfigError, match=r"data\.test_views: views are merged by .*data\.test_views=null"):
            call()
    monkeypatch.setattr(engines, "_program", lambda *_: pytest.fail("made a program for views"))
    assert Predictor(predictor.model, engine="auto", views=Views()).model.model is predictor.model


def test_the_engine_of_a_loaded_program_stays(programs, predictor):
    program = ProgramModel(predictor.model, Program(programs / "model.pt2"))
    assert Predictor(program, engine="torch").model is Predictor(program, engine="auto").model is program
    with pytest.raises(ConfigError, match=r"engine: openvino, but .*model\.pt2 is in torch already"):
        Predictor(program, engine="openvino")


def test_another_engine_for_a_file(programs, predictor, photos):
    pytest.importorskip("openvino")
    assert same(predictor(photos), Predictor.from_export(programs / "model.onnx", engine="openvino")(photos)) > 3
    with pytest.raises(ConfigError, match=r"onnxruntime does not read \.pt2; it is for torch"):
        Predictor.from_export(programs / "model.pt2", engine="onnxruntime")
    auto = Predictor.from_export(programs / "model.onnx", engine="auto")
    assert auto.model.program.engine_name == "onnxruntime"


def test_a_program_without_a_config_needs_the_model(programs, monkeypatch, photos):
    read = engines.Program

    def without_config(*arguments):
        program = read(*arguments)
        program.description.config.clear()
        return program

    monkeypatch.setattr(engines, "Program", without_config)
    with pytest.raises(DataError, match=r"was written without the model's config.*export it by detkit export"):
        Predictor.from_export(programs / "model.pt2")


def test_a_model_runs_in_an_engine(programs, predictor, photos, monkeypatch):
    """Through a program that is made of it; here its own, made before."""
    pytest.importorskip("openvino")
    asked = []

    def stored(given, path, *, precision):
        asked.append((path.suffix, precision))
        for one in programs.glob(f"model{path.suffix}"), programs.glob("model.bin"):
            for file in one:
                path.with_suffix(file.suffix).write_bytes(file.read_bytes())

    monkeypatch.setattr(engines, "export", stored)
    for engine in ("onnxruntime", "openvino"):
        made = Predictor(predictor.model, augmentations=predictor.augmentations, engine=engine)
        assert made.model.program.engine_name == engine
        assert same(predictor(photos), made(photos)) > 3
    engines.in_engine(predictor.model, "openvino", "bf16")
    assert asked == [(".onnx", "fp32"), (".xml", "fp32"), (".xml", "bf16")]


def test_an_engine_of_ones_own(programs, predictor, photos, monkeypatch):
    """Runs a model, and the files of the form that it is a subclass of."""

    @FORMS.register()
    class CountingForm(TorchForm):
        key = "counting"
        calls = 0

        @classmethod
        def load(cls, path, description, threads):
            engine = TorchForm.load(path, description, threads)

            def counted(*inputs):
                cls.calls += 1
                return engine(*inputs)

            return counted

    monkeypatch.setattr(engines, "export", lambda _, path, **__: shutil.copy(programs / "model.pt2", path))
    try:
        assert form_of("model.pt2") is TorchForm
        made = Predictor(predictor.model, augmentations=predictor.augmentations, engine="counting")
        for other in (made, Predictor.from_export(programs / "model.pt2", engine="counting")):
            assert same(predictor(photos), other(photos)) > 3
            assert other.model.program.engine_name == "counting"
    finally:
        FORMS.forget(__name__)
    assert CountingForm.calls == 2


@pytest.mark.parametrize(("seconds", "chosen"), [((1.0, 2.0), "torch"), ((2.0, 1.0), "openvino")])
def test_auto_takes_the_faster_one(programs, predictor, monkeypatch, seconds, chosen):
    made = ProgramModel(predictor.model, Program(programs / "model.pt2"))
    ticks = itertools.chain(*((0.0, taken) for taken in seconds))
    monkeypatch.setattr(engines, "_program", lambda *_: made)
    monkeypatch.setattr(engines, "time", SimpleNamespace(perf_counter=ticks.__next__))
    expected = made if chosen == "openvino" else predictor.model
    assert engines.in_engine(predictor.model, "auto") is expected


def test_auto_tries_an_image_that_the_models_square_takes(programs, predictor, monkeypatch, caplog):
    made = ProgramModel(predictor.model, Program(programs / "model.pt2"))
    monkeypatch.setattr(engines, "_program", lambda *_: made)
    monkeypatch.setattr(predictor.model.preprocess, "square_size", 96)
    with caplog.at_level("INFO"):
        assert engines.in_engine(predictor.model, "auto") in (made, predictor.model)
    assert "an image of 96 x 96" in caplog.text


def test_auto_is_torch_where_there_is_no_program(predictor, monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with caplog.at_level("INFO"):
        assert engines.in_engine(predictor.model, "auto") is predictor.model
    assert "engine auto: torch, as there is no program of this model" in caplog.text


@pytest.mark.parametrize("error", [ConfigError, DataError])
def test_auto_is_torch_where_the_program_cannot_be_written_or_read(predictor, monkeypatch, error):
    def fail(*_):
        raise error("a reason")

    monkeypatch.setattr(engines, "_program", fail)
    assert engines.in_engine(predictor.model, "auto") is predictor.model


def test_what_does_not_go_together_is_refused(predictor):
    with pytest.raises(
        ConfigError, match=r"engine: there is no 'openvin'\. Did you mean 'openvino'\? There are .*, auto"
    ):
        Predictor(predictor.model, engine="openvin")
    with pytest.raises(ConfigError, match="onnxruntime has no bf16; leave it out, or take openvino or torch"):
        engines.in_engine(predictor.model, "onnxruntime", "bf16")
    with pytest.raises(ConfigError, match=r"openvino runs on the CPU, and without torch\.compile"):
        engines.in_engine(predictor.model, "openvino", compile=True)
    with pytest.raises(ConfigError, match="takes a detector of backbone, neck and heads, got Identity"):
        export(torch.nn.Identity(), "x.pt2")
