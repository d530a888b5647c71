"""That a training step never makes the host wait for a device.

A GPU computes while the host goes ahead, until the host asks for a number or for rows whose count only the data tell.
On the CPU nothing waits, but the operators that would can be counted: the model is told that its device is one that is
waited for. What was sent to the host ahead of its use (``HostCopy``) may be looked at there.
"""

import dataclasses
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from detkit.data import Mapper, Shapes
from detkit.engine import Trainer
from detkit.engine.forensics import recorder
from detkit.experiment import load_experiment
from detkit.layers import HostCopy, roi_align, waits
from detkit.modeling.proposals import selection
from detkit.structures import PolygonMasks

ROOT = Path(__file__).parents[2] / "configs"
NAMES = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "nms", "equal"}
COPIES = {"lift_fresh"}
"""A tensor from numbers of the host: torch waits until such have been copied."""
CALLS = {torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.__bool__, torch.Tensor.item}
CALLS |= {torch.Tensor.new_tensor}


OF_THE_HOST = {"randint"}
"""Draws one of the sizes that images are resized to, before anything is on a device."""


def tensors_of(args):
    return [a for a in tree_flatten(args)[0] if isinstance(a, torch.Tensor)]


def on_host(args):
    """Whether there are tensors and all of them have been made from copies on the host."""
    given = tensors_of(args)
    return bool(given) and all(getattr(a, "lies_on_host", False) for a in given)


class Operators(TorchDispatchMode):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        host = on_host(args) or name in OF_THE_HOST
        if name in NAMES | COPIES and not host:
            self.seen[name] += 1
        masks = (
            [i for i in args[1] if i is not None and i.dtype == torch.bool] if name in ("index", "index_put_") else []
        )
        if masks and not (name == "index_put_" and args[2].numel() == 1):  # a single value fills, without rows
            self.seen[f"{name} by a mask"] += 1
        result = func(*args, **(kwargs or {}))
        if host:
            for tensor in tensors_of(result):
                tensor.lies_on_host = True
        return result


class Calls(TorchFunctionMode):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in CALLS and not on_host(args):
            self.seen[func.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def waited(monkeypatch):
    """A function: what to do -> what it waits for, and how often."""
    counting = []

    def send(self, tensors):
        counting[-1][0]["copies to the host"] += 1
        self._copies = [t.detach().clone() for t in tensors]
        for copy in self._copies:
            copy.lies_on_host = True

    def uncounted(function):
        def call(*args, **kwargs):
            counting[-1][2].__exit__(None, None, None)
            counting[-1][1].__exit__(None, None, None)
            result = function(*args, **kwargs)
            counting[-1][1].__enter__()
            counting[-1][2].__enter__()
            return result

        return call

    monkeypatch.setattr(waits, "waits_for", lambda device: True)
    monkeypatch.setattr(HostCopy, "__init__", send)
    monkeypatch.setattr(HostCopy, "wait", lambda self: self._copies)
    # These have kernels of their own for a GPU (tests/layers), which return what has a fixed size.
    monkeypatch.setattr(selection, "nms_best", uncounted(selection.nms_best))
    module = sys.modules[roi_align.__module__]
    for name in ("roi_align_bags", "roi_align_matmul"):
        monkeypatch.setattr(module, name, uncounted(getattr(module, name)))

    def count(function, *args):
        seen = Counter()
        with Operators(seen) as operators, Calls(seen) as calls:
            counting.append((seen, operators, calls))
            function(*args)
        counting.pop()
        return seen

    return count


@pytest.fixture
def samples():
    dataset = Shapes(num_images=4, image_size=(64, 96))
    mapper = Mapper(dataset)
    return [mapper(0, i) for i in range(4)]


def step(model, samples):
    model(samples).total().backward()


def build(config="quick_start/mask_rcnn_shapes.yaml", *overrides):
    return load_experiment(ROOT / config, overrides).build_model_for(("circle", "square", "triangle")).train()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_no_wait_in_a_step_but_for_a_copy_that_was_asked_for_earlier(waited, samples, batch_size):
    assert waited(step, build(), samples[:batch_size]) == {"copies to the host": 1}


def test_a_batch_norm_of_regions_asks_once_how_many_there_are(waited, samples):
    seen = waited(step, build("matterport/mask_rcnn_R_50_FPN_shapes.yaml"), samples[:2])
    assert seen == {"copies to the host": 1, "tolist": 1}


def as_polygons(sample):
    """Each object its box."""
    corners = [[x1, y1, x2, y1, x2, y2, x1, y2] for x1, y1, x2, y2 in sample.target.boxes.tolist()]
    masks = PolygonMasks([[points] for points in corners], sample.target.image_size)
    return dataclasses.replace(sample, target=sample.target.with_fields(masks=masks))


@pytest.mark.parametrize("masks", ["bitmap", "polygon", "mini"])
@pytest.mark.parametrize("method", ["roi_align", "crop_and_resize"])
def test_whatever_true_masks_are_made_of(waited, masks, method):
    mapper = Mapper(Shapes(num_images=4, image_size=(64, 96)), mask_format="mini" if masks == "mini" else "bitmap")
    model = build("quick_start/mask_rcnn_shapes.yaml", f"model.roi_heads.mask_head.targets.method={method}")
    samples = [mapper(0, i) for i in range(2)]
    if masks == "polygon":
        samples = [as_polygons(s) for s in samples]
    seen = waited(step, model, samples)
    if masks == "polygon":
        seen.pop("lift_fresh")  # what was rasterised on the host, still there
    assert seen == {"copies to the host": 1}


@pytest.mark.parametrize(
    "config",
    [
        ("torchvision/mask_rcnn_R_50_FPN.yaml", "model.preprocess.resize.short_edge=[64]"),
        ("coco/mask_rcnn_R_50_FPN_1x.yaml",),
        ("coco/mask_rcnn_R_50_C4_1x.yaml", "model.roi_heads.batch_size_per_image=16"),
        ("matterport/mask_rcnn_R_50_FPN_shapes.yaml", "model.roi_heads.box_head.norm=FrozenBN"),
    ],
)
def test_the_models_of_the_references_too(waited, samples, config):
    assert waited(step, build(*config), samples[:2]) == {"copies to the host": 1}


def test_crowds_are_told_from_objects_before_they_are_on_the_device(waited, samples):
    flagged = [
        dataclasses.replace(s, target=s.target.with_fields(crowd=torch.arange(len(s.target)) == 0)) for s in samples[:2]
    ]
    there = [s.to("cpu") for s in flagged]
    for before, after in zip(flagged, there):
        assert "crowd" not in after.target
        assert len(after.target) == len(before.target) - 1
        assert after.info.crowds.equal(before.target.boxes[:1])
        assert after.to("cpu").info.crowds.equal(after.info.crowds)
    model = build()
    model.roi_heads.matcher = dataclasses.replace(model.roi_heads.matcher, crowd_thresh=0.5)
    assert waited(step, model, there) == {"copies to the host": 1}


def test_the_trainers_whole_step(monkeypatch, waited, samples):
    """Passes, clipping and update; what the hooks and the log do has periods of its own."""
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    batches = iter([samples[:2]])
    trainer = Trainer(model, optimizer, lambda step, steps: 1.0, batches, 10, clip_grad_norm=1.0)
    monkeypatch.setattr(recorder, "rng_state", dict)  # of the host's generators
    trainer._described = True  # the first batch, which is told of where the log is open
    trainer.recorder.at_once = False  # as on a GPU, where losses are looked at together
    trainer.model.train()
    before = model.roi_heads.box_head.cls_score.weight.detach().clone()
    assert waited(trainer._run, batches) == {"copies to the host": 1}
    assert not before.equal(model.roi_heads.box_head.cls_score.weight)


def test_a_count_can_fail(waited, samples):
    model = build()
    head = model.roi_heads.box_head
    loss = head.loss

    def asks(features, proposals):
        assert len(proposals[0].classes.nonzero())
        assert proposals[0].boxes.sum().item() > 0
        return loss(features, proposals)

    head.loss = asks
    seen = waited(step, model, samples[:1])
    assert seen["nonzero"] == 1
    assert seen["item"] == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
def test_cuda_itself_sees_no_wait(samples):
    model = build().cuda()
    step(model, samples)  # kernels are made and tried
    torch.cuda.set_sync_debug_mode("error")
    try:
        pinned = [s.pin_memory() for s in samples]
        step(model, pinned)
    finally:
        torch.cuda.set_sync_debug_mode("default")
