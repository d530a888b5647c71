import numpy as np
import pytest
import torch
from tiny_program import FIXED, assert_same, experiment, model, samples

from detkit.experiment import load_experiment
from detkit.export import InputShape, Program, ProgramModel, export, form_of, is_program
from detkit.export.tracing import traced
from detkit.modeling.meta_archs.features import FeatureModel
from detkit.registry import ConfigError, DataError
from detkit.structures import Sample


@pytest.fixture(scope="module")
def tiny() -> FeatureModel:
    return model(experiment())


@pytest.fixture(scope="module")
def loaded(program, tiny) -> ProgramModel:
    return ProgramModel(tiny, Program(program))


@pytest.fixture(scope="module")
def fixed(programs, tiny) -> ProgramModel:
    return ProgramModel(tiny, Program(programs / "fixed.pt2"))


def compare(tiny, program, batch) -> int:
    with torch.no_grad():
        pairs = zip(tiny(batch), program(batch), strict=True)
    return sum(assert_same(expected.instances, found.instances) for expected, found in pairs)


@pytest.mark.parametrize("sizes", [[(96, 96)], [(120, 75), (64, 200), (97, 131)]], ids=("one", "three"))
def test_a_program_predicts_what_the_model_predicts(loaded, tiny, sizes):
    assert compare(tiny, loaded, samples(*sizes)) > 0


def test_images_without_detections_beside_others(loaded, tiny):
    nothing = Sample(torch.full((3, 96, 96), 123, dtype=torch.uint8), (96, 96))
    assert compare(tiny, loaded, [nothing]) == 0
    assert compare(tiny, loaded, [nothing, *samples((96, 96))]) > 0


def test_images_that_are_smaller_than_the_smallest(loaded, tiny):
    smallest = loaded.program.description.min_size
    batch = samples((1, 1), (5, 9))
    with torch.no_grad():
        found = loaded(batch)
    assert [f.instances.image_size for f in found] == [(1, 1), (5, 9)]
    assert max(smallest) > 9
    assert all(f.instances.boxes.tensor.isfinite().all() for f in found)


def test_what_it_says_is_what_the_heads_say(loaded, tiny):
    images = tiny.preprocess(samples((96, 120)))
    with torch.no_grad():
        expected, found = tiny.outputs(images, tiny.features(images)), loaded.outputs(images)
    torch.testing.assert_close(found.instances[0].mask_probs, expected.instances[0].mask_probs, atol=1e-3, rtol=0)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_fixed_batch_and_size_are_padded_to_and_split_for(fixed, tiny, number):
    assert compare(tiny, fixed, samples(*[(96, 160), (64, 100), (80, 80)][:number])) > 0


def test_an_image_larger_than_the_fixed_size_is_refused(fixed):
    with pytest.raises(DataError, match=r"takes images of 96 x 160, and one has 104 x 96 .* export it for that size"):
        fixed(samples((104, 96)))


def test_another_number_of_channels_is_refused(loaded):
    with pytest.raises(DataError, match="takes images of 3 channels, got 1"):
        loaded.program(torch.zeros(1, 1, 96, 96), torch.zeros(1, 4))


def test_a_wrong_suffix_is_refused(tmp_path, tiny):
    with pytest.raises(ConfigError, match=r"model\.bin: the suffix says the form .* got \.bin"):
        export(tiny, tmp_path / "model.bin")
    with pytest.raises(ConfigError, match="got none"):
        form_of("model")
    assert is_program("a/b.ONNX")
    assert not is_program("a/b.pth")


def test_what_cannot_be_exported_is_refused_before_it_is_traced(tmp_path, tiny):
    with pytest.raises(ConfigError, match=r"\.onnx is written in fp32, fp16, not in bf16"):
        export(tiny, tmp_path / "model.onnx", precision="bf16")
    with pytest.raises(ConfigError, match="int8 takes its ranges from images"):
        export(tiny, tmp_path / "model.xml", precision="int8")
    with pytest.raises(ConfigError, match="takes a detector of backbone, neck and heads, got Conv2d"):
        export(torch.nn.Conv2d(3, 3, 1), tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match="size: 100 x 96; expected multiples of 8"):
        export(tiny, tmp_path / "model.pt2", shape=InputShape(size=(100, 96)))
    assert not list(tmp_path.iterdir())


def test_another_size_than_the_models_square_is_refused(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(tiny.preprocess, "square_size", 160)
    with pytest.raises(ConfigError, match="size: 96 x 160; the model takes images padded to 160 x 160 alone"):
        export(tiny, tmp_path / "model.pt2", shape=InputShape(size=(96, 160)))
    assert traced(tiny, InputShape(size=(160, 160))).shape == traced(tiny).shape


def test_tiles_are_joined_to_a_panoptic_map_as_the_model_does():
    panoptic = load_experiment("quick_start/panoptic_fpn_shapes").build_model(5)
    assert ProgramModel(panoptic, None).merge is panoptic.merge


def test_threads_are_those_of_an_engine_that_has_its_own(programs):
    with pytest.raises(ConfigError, match=r"model\.pt2: torch has threads for the process alone: .*num_threads\(2\)"):
        Program(programs / "model.pt2", threads=2)


def test_a_missing_file_and_an_engine_that_does_not_read_it(program, tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        Program(tmp_path / program.name)
    wrong = "onnxruntime" if program.suffix != ".onnx" else "torch"
    with pytest.raises(ConfigError, match=f"{wrong} does not read {program.suffix}; it is for"):
        Program(program, wrong)


@pytest.mark.parametrize(
    ("name", "library", "extra"), [("model.onnx", "onnxruntime", "onnx"), ("model.xml", "openvino", "openvino")]
)
def test_a_missing_library_is_said_with_how_to_install_it(programs, monkeypatch, name, library, extra):
    if not (programs / name).is_file():
        pytest.skip(f"no {name}: pip install 'detkit[openvino]'")
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(ConfigError, match=rf"{library} is needed here .* pip install 'detkit\[{extra}\]'"):
        Program(programs / name)


def test_onnx_in_openvino(programs, tiny):
    pytest.importorskip("openvino")
    assert compare(tiny, ProgramModel(tiny, Program(programs / "model.onnx", "openvino")), samples((96, 96))) > 0


def test_the_fixed_program_says_its_shape(fixed):
    said = fixed.program.description
    assert said.inputs[0].shape == [FIXED.batch, 3, *FIXED.size]
    assert said.outputs[0].shape == [FIXED.batch, 6, 4]
    assert np.prod(said.outputs[-1].shape) == FIXED.batch * 6 * 28 * 28
