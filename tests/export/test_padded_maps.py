"""Semantic maps of programs that pad images, to their fixed size or to the smallest, are those of the model."""

import copy

import pytest
import torch
from tiny_program import CONFIG, experiment, samples

from detkit.experiment import load_experiment
from detkit.export import InputShape, Program, ProgramModel, export
from detkit.export.program import padded_size
from detkit.export.verify import compared
from detkit.modeling.meta_archs.features import FeatureModel

pytest.importorskip("torch", minversion="2.9")  # of which .pt2 files are
HEAD = "{name: SemanticFPNHead, in_features: [c3], conv_dim: 8, norm: null}"
ARCH = f"{{name: SemanticSegmentor, backbone: {{name: OneConv}}, neck: null, semantic_head: {HEAD}"


@pytest.fixture(scope="module")
def segmentor() -> FeatureModel:
    """Each cell of its maps depends on the pixels below it alone, so that padding changes none."""
    exp = load_experiment(CONFIG, [f"model={ARCH}, semantic_names: [a, b, c, d]}}"])
    torch.manual_seed(0)
    made = exp.build_model(class_names=experiment().data.train_set.class_names, pretrained=False).eval()
    conv = next(layer for layer in made.semantic_head.convs.modules() if isinstance(layer, torch.nn.Conv2d))
    centre = conv.weight[..., 1:2, 1:2].detach() * 3
    conv.weight.data.zero_()[..., 1:2, 1:2] = centre
    made.semantic_head.predictor.weight.data.normal_()
    return made


def test_a_program_that_pads_is_compared_with_the_model_of_the_same_padding(segmentor, tmp_path):
    """A norm over the whole map sees the padding."""
    model = copy.deepcopy(segmentor)
    model.semantic_head.predictor = torch.nn.Sequential(torch.nn.GroupNorm(2, 8), model.semantic_head.predictor)
    program = ProgramModel(model, Program(export(model, tmp_path / "model.pt2", shape=InputShape(2, (96, 160)))))
    differences = compared(model, program, [samples((64, 96), (40, 120))])
    assert differences.largest["semantic"] < 1e-4
    assert not differences.problems("fp32")


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [(InputShape(2, (96, 160)), [(64, 96), (40, 120)]), (InputShape(), [(8, 96)]), (InputShape(), [(64, 72)])],
    ids=("fixed", "below the smallest", "as it is"),
)
def test_maps_are_those_of_the_model(segmentor, tmp_path, shape, sizes):
    program = Program(export(segmentor, tmp_path / "model.pt2", shape=shape))
    batch = samples(*sizes)
    own = segmentor.preprocess(batch).padded_size
    assert (padded_size(*own, program.description, program.path) == own) == (sizes == [(64, 72)])
    with torch.no_grad():
        pairs = list(zip(segmentor(batch), ProgramModel(segmentor, program)(batch), strict=True))
    for size, (expected, found) in zip(sizes, pairs):
        assert len(expected.semantic.unique()) > 1
        assert found.semantic.shape == expected.semantic.shape == size
        wrong = (found.semantic != expected.semantic)[: size[0] - 4 or None, : size[1] - 4]  # not the last half cell
        assert wrong.float().mean() < 1e-3
