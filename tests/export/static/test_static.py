"""Detectors with fixed counts say what the detectors say that they are made of."""

import dataclasses
import functools

import pytest
import torch
from families import FAMILIES, assert_equal, images, inputs_of, limited, small_model
from torch import nn

from detkit.export.static import (
    Rows,
    StaticDetector,
    static_dense,
    static_fields,
    static_pooler,
    static_proposals,
    static_suppression,
)
from detkit.modeling.interfaces import MaskHead, RoIPooler
from detkit.modeling.proposals import RPN
from detkit.modeling.suppression import HardNMS
from detkit.registry import ConfigError

SIZES = ([(96, 192), (100, 180), (60, 150), (96, 96)], [(150, 120)])
cached_model = functools.lru_cache(maxsize=1)(small_model)


def slow_if(slow: bool, name: str):
    return pytest.param(name, marks=pytest.mark.slow if slow else ())


def check(model, sizes, seed=0) -> int:
    batch = images(model, sizes, seed)
    with torch.no_grad():
        return assert_equal(model, batch, StaticDetector(model)(*inputs_of(batch)))


@pytest.mark.parametrize("sizes", SIZES, ids=("four", "one"))
@pytest.mark.parametrize("family", [slow_if(name in ("torchvision_swin", "mask_r50"), name) for name in FAMILIES])
def test_a_family_with_fixed_counts_finds_what_it_finds(family, sizes):
    found = check(cached_model(family), sizes)
    assert family == "semantic" or found > 20 * len(sizes)


@pytest.mark.parametrize("family", ["mask", "mask_matterport", "cascade", "c4", "keypoint", "retinanet", "fcos"])
def test_no_object_and_one_object(family):
    model = small_model(family)
    limited(model, 1.0, 100)
    assert check(model, SIZES[0]) == 0
    limited(model, 0.05, 1)
    assert check(model, SIZES[0]) == 4


@pytest.mark.parametrize("nms", ["HardNMS", "SoftNMS", "MatrixNMS"])
def test_many_classes_and_more_candidates_than_detections(nms):
    model = small_model("mask", f"model.roi_heads.box_head.detection={{score_thresh: 0.0, nms: {nms}}}")
    assert check(model, SIZES[0]) == 400


def test_the_model_stays_as_it_is():
    model = small_model("mask")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = images(model, [(128, 160)])
    StaticDetector(model)(*inputs_of(batch))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any("Static" in type(part).__name__ for part in model.modules())


class OwnPooler(RoIPooler):
    output_shape = None

    def __init__(self):
        nn.Module.__init__(self)


class OwnHead(MaskHead):
    def __init__(self):
        nn.Module.__init__(self)


@pytest.mark.parametrize(
    ("function", "part", "arguments"),
    [
        (static_pooler, OwnPooler(), ()),
        (static_fields, OwnHead(), ({}, torch.zeros(1, 4), torch.zeros(1))),
        (static_proposals, OwnHead(), (None, {})),
        (static_dense, OwnHead(), (None, {})),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_part_without_a_static_form_is_named_with_how_to_give_it_one(function, part, arguments):
    with pytest.raises(ConfigError, match=rf"{type(part).__name__}: .*{function.__name__}\.register"):
        function(part, *arguments)


@pytest.mark.parametrize(
    ("family", "part", "method"),
    [
        ("mask", "proposal_generator", "select"),
        ("mask", "roi_heads", "box_detections"),
        ("mask", "roi_heads", "described"),
        ("mask", "roi_heads.box_head", "candidates"),
        ("mask", "roi_heads.mask_head", "predict"),
        ("mask", "roi_heads.mask_head.pooler", "pool"),
        ("mask", "proposal_generator.anchor_generator", "forward"),
        ("fcos", "head", "_candidates"),
        ("fcos", "", "outputs"),
    ],
)
def test_a_class_that_does_it_otherwise_has_not_the_form_of_the_class_that_it_is_derived_from(family, part, method):
    model = small_model(family)
    module = model.get_submodule(part)
    module.__class__ = type("Own", (type(module),), {method: lambda self, *arguments: None})
    with pytest.raises(
        ConfigError, match=rf"Own: .*its {method} is not .*'s; give it one with detkit\.export\.static_"
    ):
        StaticDetector(model)(torch.zeros(1, 3, 64, 64), torch.zeros(1, 4))


def test_forms_of_ones_own_serve_the_class_and_its_subclasses():
    class OwnRPN(RPN):
        pass

    class OwnNMS(HardNMS):
        pass

    model = small_model("mask")
    model.proposal_generator.__class__ = OwnRPN
    head = model.roi_heads.box_head
    head.detection = dataclasses.replace(head.detection, nms=OwnNMS)
    assert check(model, SIZES[0]) == 400  # as those that they are derived from
    calls = []

    @static_proposals.register
    def _(rpn: OwnRPN, batch, features) -> Rows:
        calls.append("proposals")
        return static_proposals.dispatch(RPN)(rpn, batch, features)

    @static_suppression.register
    def _(suppression: OwnNMS, boxes, scores, *others):
        calls.append("suppression")
        return static_suppression.dispatch(HardNMS)(suppression, boxes, scores, *others)

    assert check(model, SIZES[0]) == 400
    assert calls == ["proposals", "suppression"]
