"""Parts of a user's own that break their contract: each is named, with what the contract expects."""

from typing import ClassVar

import pytest
import torch
from tiny_detector import TINY
from torch import nn

from detkit.config import ConfigError, Recipe
from detkit.data import Mapper
from detkit.experiment import load_experiment
from detkit.modeling.box_coder import DeltaBoxCoder
from detkit.modeling.box_interfaces import BoxLoss, ClassLoss
from detkit.modeling.box_losses import SmoothL1BoxLoss, foreground_box_loss
from detkit.modeling.class_losses import FocalClassLoss, SoftmaxClassLoss
from detkit.modeling.contracts import anchors_on, divisors, paired
from detkit.modeling.interfaces import AnchorGenerator, MaskHead, MetaArch, Normaliser, RPNHead
from detkit.modeling.suppression import HardNMS, choose_detections
from detkit.structures import Boxes, Instances, Losses, Prediction

BACKBONE = """
import torch
from torch import nn
from detkit.layers import ShapeSpec
from detkit.modeling.interfaces import BACKBONES, Backbone

@BACKBONES.register()
class Strided(Backbone):
    def __init__(self, input_shape, *, width: int = 8):
        super().__init__(input_shape)
        strides = {2: 3, 4: width, 8: width, 16: width, 32: width}
        self.convs = nn.ModuleDict({f"s{s}": nn.Conv2d(3 if s < 8 else width, c, 3, 2, 1) for s, c in strides.items()})
        self.output_shape = {f"s{s}": ShapeSpec(c, stride=s) for s, c in strides.items() if s > 2}

    def forward(self, x):
        features = {}
        for name, conv in self.convs.items():
            x = features[name] = conv(x)
        return features
"""
SHAPE, FORWARD = "self.output_shape = {", "return features"
MISTAKES = {
    f"self.foo = 3 or {SHAPE[20:]}": r"model\.backbone: .*Strided has no attribute 'output_shape', which each backbone",
    f"self.output_shape = 3 or {SHAPE[20:]}": r"model\.backbone: Strided\.output_shape: expected .* got 3",
    f"self.convs['s8'] = nn.LazyConv2d(8, 3); {SHAPE}": r"model\.backbone\.convs\.s8\.weight: has no shape",
    f"{{}}['x']; {SHAPE}": r"model\.backbone: cannot be built. KeyError: 'x' \(.*own\.py:13\)",
    "return tuple(features.values())": r"model\.backbone: Strided\.forward: .* dict with s4, s8, s16, s32, got tuple",
    "return {'s4': x}": r"model\.backbone: Strided\.forward: .* dict with s4, s8, s16, s32, got \['s4'\]",
    "return {**features, 's8': features['s4']}": r"'s8' has 8 channels and stride 8, but of images .* \(1, 8, 24, 24\)",
    "return {**features, 's8': features['s8'][:, 1:]}": r"'s8' has 8 channels .* \(1, 7, 12, 12\)",
}


@pytest.fixture
def load(tmp_path):
    def of_file(text: str):
        (tmp_path / "own.py").write_text(text)
        node = {"_base_": "quick_start/mask_rcnn_shapes", "imports": [str(tmp_path / "own.py")]}
        return load_experiment({**node, "model": {"backbone": {"name": "Strided"}}}, TINY[1:])

    return of_file


@pytest.mark.parametrize("written", ["", *MISTAKES])
def test_a_backbone_gives_the_maps_that_it_promises(written, load):
    right = FORWARD if written.startswith("return") else SHAPE
    experiment = load(BACKBONE.replace(right, written or right))
    samples = [Mapper(experiment.data.train_set)(0, 0)]
    if not written:
        assert experiment.build_model()(samples).total().isfinite()
        return
    with pytest.raises(ConfigError, match=MISTAKES[written]):
        experiment.build_model()(samples)


class _Arch(MetaArch):
    def __init__(self, given):
        super().__init__(1)
        self.loss = self.predict = lambda samples: given


@pytest.mark.parametrize("given", [None, {"loss": torch.ones(())}, torch.ones(()), [Instances((4, 4))], []])
@pytest.mark.parametrize("training", [True, False])
def test_a_model_gives_losses_or_a_prediction_of_each_image(given, training):
    words = r"_Arch\.loss: expected Losses" if training else r"_Arch\.predict: expected a Prediction of each image"
    with pytest.raises(ConfigError, match=words):
        _Arch(given).train(training)([None])
    right = Losses({"a": torch.ones(())}) if training else [Prediction()]
    assert _Arch(right).train(training)([None]) is right
    with pytest.raises(ConfigError, match="got"):
        _Arch(right).train(not training)([None])


@pytest.mark.parametrize("part", ["terms", "metrics", "normalisers"])
@pytest.mark.parametrize("value", [0.5, None, torch.ones(2), torch.ones(1)])
def test_losses_are_numbers_in_tensors(part, value):
    parts = {"terms": {"loss": torch.ones(())}, part: {"loss": value}}
    with pytest.raises(ValueError, match=rf"^Losses\.{part}: expected a 0-d tensor as 'loss'"):
        Losses(**parts)


@pytest.mark.parametrize("other", [{"loss": torch.ones(())}, None, torch.ones(())])
def test_losses_go_together_with_losses_alone(other):
    with pytest.raises(ValueError, match="expected Losses"):
        Losses() | other
    with pytest.raises(ValueError, match="expected Losses"):
        other | Losses()


@pytest.mark.parametrize("shape", [(), (3, 4), (2,)])
def test_a_box_loss_of_another_shape_is_not_broadcast(shape):
    class Own(BoxLoss):
        def forward(self, box_coder, deltas, reference, gt_boxes):
            return deltas.new_ones(shape)

    with pytest.raises(ValueError, match=r"Own: expected the loss of each of 3 boxes, of shape \(3,\)"):
        foreground_box_loss(Own(), None, *torch.ones(3, 3, 4), torch.ones(3, dtype=torch.bool), torch.tensor(3))


@pytest.mark.parametrize("config", ["mask_rcnn", "retinanet"])
@pytest.mark.parametrize("given", ["tensor", "unsummed", "empty"])
def test_a_class_loss_that_gives_no_named_sums_is_named(config, given):
    experiment = load_experiment(f"quick_start/{config}_shapes", ["data.train_dataset.num_images=1"])
    model = experiment.build_model()
    head = model.roi_heads.box_head if config == "mask_rcnn" else model.head
    base = SoftmaxClassLoss if config == "mask_rcnn" else FocalClassLoss

    class Own(base):
        def forward(self, logits, classes):
            total = logits.sum()
            return {"tensor": total, "unsummed": {"": logits[:, 0]}, "empty": {}}[given]

    head.class_loss = Own(len(model.class_names))
    words = r'Own: expected the sum over all boxes as \{"": 0-d tensor\}, got .*test_own_mistakes\.py:\d+\)'
    with pytest.raises(ConfigError, match=words):
        model([Mapper(experiment.data.train_set)(0, 0)])


ROWS = torch.arange(2)


@pytest.mark.parametrize("given", [ROWS, (ROWS,), (ROWS, ROWS[:1]), (ROWS.tolist(), ROWS), (ROWS[None], ROWS[None]), 3])
def test_a_suppression_that_gives_other_than_rows_and_scores_is_named(given):
    class Own(HardNMS):
        def __call__(self, *arguments):
            return given

    found = Instances((8, 8), boxes=Boxes([[0.0, 0, 4, 4]] * 2), scores=torch.ones(2), classes=ROWS)
    with pytest.raises(ConfigError, match=r"Own: expected two tensors of shape \(M,\), the boxes that stay"):
        choose_detections(found, Own(), 0.5, 2)
    assert len(choose_detections(found, HardNMS(), 0.5, 1)) == 1


@pytest.mark.parametrize("length", [None, 2])
def test_two_tensors_of_the_length_that_is_wanted_are_taken_as_they_are(length):
    assert paired(None, [ROWS, ROWS], "rows", length)[1] is ROWS
    with pytest.raises(ConfigError, match=r"\(3,\), rows, got \(2,\) and \(2,\)"):
        paired(ROWS, (ROWS, ROWS), "rows", 3)


@pytest.mark.parametrize("factors", [(2, 4), (1, 8)])
def test_an_rpn_head_with_channels_for_other_anchors_is_named(factors, load):
    class Own(RPNHead):
        def forward(self, features):
            return tuple([f.new_ones(len(f), 3 * n, *f.shape[2:]) for f in features] for n in factors)

    rpn = load(BACKBONE).build_model(2).proposal_generator
    rpn.head = Own(16, 3)
    with pytest.raises(ValueError, match="Own: expected objectness of 3 channels and deltas of 12"):
        rpn.head_outputs({f"p{i}": torch.ones(1, 16, 4, 4) for i in range(2, 7)})


@pytest.mark.parametrize("shape", [(1, 5, 14, 14), (2, 14, 14)])
def test_masks_for_other_boxes_are_refused(shape):
    class Own(MaskHead):
        def mask_probs(self, features, boxes, classes):
            return torch.ones(shape)

    found = Instances((8, 8), boxes=Boxes([[0.0, 0, 4, 4]]), classes=torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"Own: expected of mask_probs .* \(1, M, M\)"):
        Own({}, 1).predict({}, [found])


def test_what_a_role_declares_is_there_when_a_part_is_made():
    class Own(ClassLoss):
        pass

    class WithLogits(ClassLoss):
        num_logits = 3

    with pytest.raises(ValueError, match=r"Own has no attribute 'num_logits', which each class loss sets"):
        Recipe(Own)(2)
    assert Recipe(WithLogits)(2).num_logits == 3
    assert Recipe(nn.Conv2d)(1, 1, 1).weight.shape == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [([], "got list"), (Boxes(torch.zeros(12, 4)), "got Boxes"), ([Boxes(torch.zeros(11, 4))], r"got \[11\]")],
)
def test_anchors_for_other_cells_are_named(given, words):
    class Own(AnchorGenerator):
        num_anchors: ClassVar = [3]

        def forward(self, features, image_size):
            return given

    with pytest.raises(ConfigError, match=rf"Own: expected a list of Boxes a level, \[12\] of them, {words}"):
        anchors_on(Own([]), [torch.zeros(1, 1, 2, 2)], (8, 8))


def test_a_box_coder_of_two_deltas_is_named():
    class Own(DeltaBoxCoder):
        def encode(self, reference, boxes):
            return super().encode(reference, boxes)[:, :1]  # which would be broadcast

    with pytest.raises(ConfigError, match=r"Own: expected deltas \(2, 4\) of encode, got \(2, 1\)"):
        SmoothL1BoxLoss()(Own(), torch.zeros(2, 4), torch.rand(2, 4), torch.rand(2, 4))


@pytest.mark.parametrize("given", [torch.ones(2), (torch.ones(2),), (torch.ones(1), None), (torch.ones(2), ROWS), 3])
def test_a_normaliser_of_another_kind_is_named(given):
    class Own(Normaliser):
        def forward(self, num_foreground):
            return given

    with pytest.raises(ConfigError, match=r"Own: expected a tensor \(2,\), and a 0-d one or None, got"):
        divisors(Own(), torch.ones(2))
