"""Programs say what their models say, of images of other sizes and numbers than those that they were traced with."""

import pytest
import torch
from families import FAMILIES, assert_equal, images, inputs_of, limited, small_model

from detkit.export import FORMS, Program
from detkit.export.description import describe
from detkit.export.tracing import InputShape, traced
from detkit.registry import ConfigError

pytest.importorskip("torch", minversion="2.9")  # of which .pt2 files are
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("openvino")
SIZES = ([(130, 240)], [(150, 192), (100, 180), (60, 150), (96, 96)], [(210, 160)])
FAST = ("fcos",)
ANY_SIZE = [name for name in FAMILIES if name not in ("torchvision_swin", "mask_r50")]  # that Swin takes one size
UNDECIDED = {"faster_two_maps": 3}
"""Its maps have 3 x 3 cells, of which neighbours that see padding give the same scores to overlapping boxes."""


def written(model, folder):
    """The model in all forms."""
    graph = traced(model)
    description = describe(model, graph, "fp32", {}, [])
    for _, form in FORMS:
        path = folder / f"model{form.suffix}"
        form.write(graph, description, "fp32", None, path)
        yield Program(path)


@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f in FAST else pytest.mark.slow) for f in ANY_SIZE])
def test_all_forms_find_what_the_model_finds(family, tmp_path):
    model = small_model(family)
    batches = [images(model, sizes, seed=len(sizes)) for sizes in SIZES]
    for program in written(model, tmp_path):
        for batch in batches:
            with torch.no_grad():
                found = assert_equal(model, batch, program(*inputs_of(batch)), UNDECIDED.get(family, 0))
            assert family == "semantic" or found > 20 * len(batch)


@pytest.mark.slow
@pytest.mark.parametrize(("limits", "number"), [((1.0, 100), 0), ((0.05, 1), 1)], ids=("none", "one"))
@pytest.mark.parametrize("family", ["mask", "mask_matterport", "retinanet", "keypoint"])
def test_no_object_and_one_object(family, limits, number, tmp_path):
    model = small_model(family)
    limited(model, *limits)
    for program in written(model, tmp_path):
        for sizes in SIZES:
            batch = images(model, sizes)
            with torch.no_grad():
                assert assert_equal(model, batch, program(*inputs_of(batch))) == number * len(batch)


@pytest.mark.slow
def test_boxes_without_area_and_padding_alone_are_no_objects(tmp_path):
    model = small_model("faster")
    batch = images(model, [(64, 64), (128, 160)])
    given, regions = inputs_of(batch)
    for program in written(model, tmp_path):
        found = program(given, regions * torch.tensor([[0.0], [1.0]]))  # nothing of the first is image
        assert (found["scores"][0] == -1).all()
        assert all(value.isfinite().all() for value in found.values())


@pytest.mark.slow
def test_a_resnet_50_of_full_size(tmp_path):
    model = small_model("mask_r50")
    batch = images(model, [(256, 320)])
    for program in written(model, tmp_path):
        with torch.no_grad():
            assert assert_equal(model, batch, program(*inputs_of(batch))) > 20


def test_a_backbone_for_one_size_fixes_it():
    assert traced(small_model("timm_vit")).shape.size == (160, 160)


@pytest.mark.slow
def test_a_graph_that_holds_for_some_sizes_alone_is_refused():
    model = small_model("vitdet", "model.backbone.square_size=null")  # windows of 3 cells, which need padding or do not
    with pytest.raises(ConfigError, match=r"images of any size .*A fixed size .*may help"):
        traced(model)
    assert traced(model, InputShape(size=(96, 160))).shape.size == (96, 160)
    with pytest.raises(ConfigError, match=r"size: 100 x 160; expected multiples of 32"):
        traced(model, InputShape(size=(100, 160)))
