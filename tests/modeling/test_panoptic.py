"""Panoptic FPN and the semantic model: losses, predictions, and what they share with Mask R-CNN."""

import dataclasses
from functools import partial
from pathlib import Path

import pytest
import torch
from small import sample, small_model
from tiny_detector import TINY

from detkit.config import ConfigError
from detkit.experiment import load_experiment
from detkit.modeling.input_resize import BilinearInputResize
from detkit.modeling.meta_archs import PanopticFPN, SemanticSegmentor
from detkit.modeling.preprocess import Preprocess
from detkit.modeling.semantic import PanopticMerge, SemanticFPNHead

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NAMES = ("things", "sky", "sea")


def with_map(s, seed=0):
    values = torch.randint(0, 4, s.image.shape[1:], generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    return dataclasses.replace(s, maps={"semantic": values.where(values < 3, 255)})


def panoptic_model(**options):
    """The small Mask R-CNN with a semantic head."""
    torch.manual_seed(0)
    found = {}
    plain = small_model(score_thresh=0.0)
    recipe = {"backbone": plain.backbone, "neck": plain.neck, "proposals": plain.proposal_generator}
    found = PanopticFPN(
        3,
        backbone=lambda *_: recipe["backbone"],
        neck=lambda *_: recipe["neck"],
        proposal_generator=lambda *_: recipe["proposals"],
        roi_heads=lambda *_: plain.roi_heads,
        semantic_head=partial(SemanticFPNHead, conv_dim=8),
        semantic_names=NAMES,
        **{"merge": PanopticMerge(0.0, 0.5, 1), **options},
    )
    return found, plain


@pytest.mark.parametrize("weight", [0.5, 2])
def test_losses_are_those_of_the_detector_and_of_the_semantic_head(weight):
    model, plain = panoptic_model(instance_loss_weight=weight)
    batch = [with_map(sample(64, 96)), with_map(sample(80, 64, seed=1), 1)]
    torch.manual_seed(1)
    ours = model(batch)
    torch.manual_seed(1)
    theirs = plain(batch)
    assert set(ours.terms) == {*theirs.terms, "loss_sem_seg"}
    for name, value in theirs.terms.items():
        factor = 1.0 if name.startswith("loss_rpn") else weight
        torch.testing.assert_close(ours.terms[name], factor * value, rtol=1e-4, atol=1e-6)
    ours.total().backward()
    assert all(p.grad is not None for p in model.semantic_head.parameters())


def test_training_takes_images_without_things_and_without_stuff():
    model, _ = panoptic_model()
    nothing = dataclasses.replace(sample(num=0), maps={"semantic": torch.full((64, 96), 255, dtype=torch.uint8)})
    for batch in ([nothing], [nothing, with_map(sample(80, 64))]):
        losses = model(batch)
        losses.total().backward()
        assert losses.total().isfinite()
    with pytest.raises(ValueError, match="no semantic map"):
        model([sample()])


def test_predictions_are_in_original_pixels_and_a_batch_changes_nothing():
    model, plain = panoptic_model()
    model.eval(), plain.eval()
    one, two = dataclasses.replace(sample(64, 96), original_size=(100, 150)), sample(64, 96, num=0, seed=3)
    first, second = model([one, two])
    assert first.semantic.shape == first.panoptic.ids.shape == (100, 150)
    assert set(first.semantic.unique().tolist()) <= {0, 1, 2}
    torch.testing.assert_close(first.instances.boxes.tensor, plain([one])[0].instances.boxes.tensor, atol=1e-3, rtol=0)
    assert first.panoptic.segments
    assert second.semantic.shape == (64, 96)
    alone = model([two])[0]
    assert (alone.semantic == second.semantic).float().mean() > 0.999
    assert len(alone.panoptic.segments) == len(second.panoptic.segments)


def semantic_model(**options):
    plain = small_model()
    parts = {"backbone": lambda *_: plain.backbone, "neck": lambda *_: plain.neck}
    head = partial(SemanticFPNHead, conv_dim=8)
    return SemanticSegmentor(3, semantic_head=head, semantic_names=NAMES, **parts, **options)


def test_semantic_model_alone_trains_at_every_size_and_predicts_at_the_last():
    resize = partial(BilinearInputResize, short_edge=(32, 48, 64), max_size=96)
    model, sizes = semantic_model(preprocess=partial(Preprocess, resize=resize)), []
    model.backbone.register_forward_pre_hook(lambda _, images: sizes.append(images[0].shape[-2]))
    for _ in range(20):
        model([with_map(sample(64, 96))])
    assert set(sizes) == {32, 64}  # 48 is padded
    sizes.clear()
    model.eval()([sample(64, 96)])
    assert sizes == [64]


def test_semantic_model_alone_learns_a_map():
    torch.manual_seed(0)
    model = semantic_model()
    values = torch.zeros(64, 96, dtype=torch.uint8)
    values[:, 48:] = 1
    one = dataclasses.replace(sample(64, 96), maps={"semantic": values})
    one.image[:, :, 48:] //= 4
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(25):
        optimizer.zero_grad()
        model([one]).total().backward()
        optimizer.step()
    found = model([one]), model.eval()([one])[0]
    assert found[1].instances is None
    assert found[1].panoptic is None
    assert (found[1].semantic == values).float().mean() > 0.9


def test_classes_of_the_map_come_with_the_training_data_and_stay_with_the_config():
    overrides = [*TINY, "model.semantic_names=null"]
    experiment = load_experiment(CONFIGS / "quick_start/panoptic_fpn_shapes.yaml", overrides)
    model = experiment.build_model()
    assert model.semantic_names == ("things", "gradient", "stripes", "checks", "noise")
    assert experiment.tree["model"]["semantic_names"] == list(model.semantic_names)
    again = load_experiment(experiment.tree).build_model(num_classes=5)
    assert again.semantic_names == model.semantic_names
    assert again.state_dict().keys() == model.state_dict().keys()


def test_what_does_not_fit_is_said_before_training():
    config = CONFIGS / "quick_start/panoptic_fpn_shapes.yaml"
    with pytest.raises(ConfigError, match=r"mask_head.*masks"):
        load_experiment(config, ["model.roi_heads.mask_head=null"])
    without = load_experiment(config, [*TINY, "model.semantic_names=null", "data.train_dataset.panoptic=false"])
    with pytest.raises(ConfigError, match=r"data\.train_dataset.*no semantic maps"):
        without.build_model()
    with pytest.raises(ConfigError, match="2 or more"):
        load_experiment(config, ["model.semantic_names=[things]"])
