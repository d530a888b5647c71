"""Pooling from all levels at once, as on devices that the host waits for: the same numbers, and no wait.

The CPU has the levels pooled one after the other, so these tests say of it that the host waits, and pool with
torchvision's kernel, as other devices do.
"""

import math
import sys
from functools import partial

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops import roi_align as kernel

from detkit.layers import ShapeSpec, crop_and_resize, crop_and_resize_levels, roi_align, waits
from detkit.modeling.poolers import CropAndResizePooler, PyramidPooler, RoIAlignPooler
from detkit.structures import Boxes

SHAPES = {f"p{i}": ShapeSpec(4, 2**i) for i in (2, 3, 4, 5)}
ODD, TINY = (452, 332), (32, 60)  # maps of 113 x 83, 57 x 42, 29 x 21, 15 x 11; the last of TINY is 1 x 2
POOLERS = [
    *(
        partial(RoIAlignPooler, output_size=size, sampling_ratio=ratio, aligned=aligned)
        for size, ratio in ((7, 0), (3, 2))
        for aligned in (True, False)
    ),
    *(partial(CropAndResizePooler, output_size=size) for size in (7, 1)),
]
NAMES = ["adaptive", "adaptive_unaligned", "two", "two_unaligned", "crop_and_resize", "crop_and_resize_one"]
each_pooler = pytest.mark.parametrize("make", POOLERS, ids=NAMES)


def features(image_size=ODD, images=3, device="cpu", memory_format=torch.contiguous_format):
    return {
        n: torch.randn(images, 4, *(math.ceil(side / s.stride) for side in image_size), device=device)
        .to(memory_format=memory_format)
        .requires_grad_()
        for n, s in SHAPES.items()
    }


def boxes(image_size=ODD, n=80) -> list[Boxes]:
    """Of three images: of every size, within the image and beyond; none; on, at and far outside of its border."""
    height, width = image_size
    size = torch.tensor([width, height], dtype=torch.float32)
    side = 2 ** (torch.rand(n, 1) * 9 + 1) * (torch.rand(n, 2) + 0.5)
    centre = torch.rand(n, 2) * size
    of_every_size = Boxes(torch.cat([centre - side / 2, centre + side / 2], dim=1))
    w, h = float(width), float(height)
    bordering = [
        [0, 0, 0, 0],
        [w, h, w, h],
        [w, 0, w, h],
        [0, h, w, h],
        [0, 0, w, h],
        [w - 9, h - 5, w, h],
        [w - 1, h - 1, w + 3, h + 3],
        [-9, -7, 5, 3],
        [-900, -900, -300, -200],
        [w + 50, h + 60, w + 400, h + 500],
        [-500, -500, w + 500, h + 500],
        [20, 20, 20, 90],
    ]
    return [of_every_size, Boxes([]), Boxes(bordering)]


@pytest.fixture
def slow_to_answer(monkeypatch):
    """The CPU as a device that the host waits for, with the kernel of such devices."""
    layer = sys.modules[roi_align.__module__]
    monkeypatch.setattr(layer, "roi_align_bags", lambda f, r, size, *how: kernel(f, r, size, *how))
    monkeypatch.setattr(layer, "MATMUL_MAX_PIXELS", 0)
    monkeypatch.setattr(waits, "waits_for", lambda device: True)


def by_level(pooler: PyramidPooler, maps, per_image):
    """Each level's boxes by ``pool``."""
    image = torch.arange(len(per_image)).repeat_interleave(torch.tensor([len(b) for b in per_image]))
    everything = Boxes.cat(per_image)
    levels = pooler.assign_levels(everything)
    rois = torch.cat([image[:, None].float(), everything.tensor], dim=1)
    out = next(iter(maps.values())).new_zeros(len(rois), 4, pooler.output_size, pooler.output_size)
    for level, (feature, stride) in enumerate(zip(maps.values(), pooler.strides)):
        rows = torch.nonzero(levels == level)[:, 0]
        out = out.index_put((rows,), pooler.pool(feature, rois[rows], stride))
    return out, levels


def gradients(pooled, maps, of):
    return torch.autograd.grad(pooled, list(maps.values()), of)


@each_pooler
@pytest.mark.parametrize("image_size", [ODD, TINY], ids=["odd", "tiny"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["plain", "last"])
def test_values_and_gradients_are_those_of_each_level_by_itself(slow_to_answer, make, image_size, memory_format):
    pooler, per_image = make(SHAPES), boxes(image_size)
    maps = features(image_size, memory_format=memory_format)
    want, levels = by_level(pooler, maps, per_image)
    assert set(levels.tolist()) == {0, 1, 2, 3}
    got = pooler(maps, per_image)
    assert torch.equal(got, want)
    of = torch.randn_like(got)
    torch.testing.assert_close(gradients(got, maps, of), gradients(want, maps, of))


@each_pooler
def test_values_equal_those_of_the_usual_form(monkeypatch, make):
    """Which on the CPU may be another operator: equal up to rounding."""
    pooler, per_image, maps = make(SHAPES), boxes(), features()
    want = pooler(maps, per_image)
    monkeypatch.setattr(waits, "waits_for", lambda device: True)
    torch.testing.assert_close(pooler(maps, per_image), want)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_unaligned_equals_torchvisions_pooler(slow_to_answer, sampling_ratio):
    per_image, maps = boxes(), features()
    ours = RoIAlignPooler(SHAPES, output_size=7, sampling_ratio=sampling_ratio, aligned=False)
    theirs = MultiScaleRoIAlign(list(SHAPES), 7, sampling_ratio)
    theirs.scales, theirs.map_levels = [1 / s.stride for s in SHAPES.values()], partial(_levels, ours)
    a, b = ours(maps, per_image), theirs(maps, [p.tensor for p in per_image], [ODD] * 3)
    torch.testing.assert_close(a, b)
    of = torch.randn_like(a)
    torch.testing.assert_close(gradients(a, maps, of), gradients(b, maps, of))


def _levels(pooler, per_image):
    return pooler.assign_levels(Boxes(torch.cat(per_image)))


@each_pooler
def test_a_level_without_boxes_belongs_to_the_graph(slow_to_answer, make):
    maps, small = features(), [Boxes([[4.0, 4, 40, 40]]), Boxes([]), Boxes([[9.0, 9, 30, 30], [0, 0, 0, 0]])]
    out = make(SHAPES)(maps, small)
    grads = gradients(out, maps, torch.ones_like(out))
    assert [bool(g.abs().sum() > 0) for g in grads] == [True, False, False, False]


class FromHost(TorchFunctionMode):
    """Counts tensors made of the host's numbers and moved to a device: its host waits until they are copied."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func is torch.Tensor.new_tensor or (func in (torch.tensor, torch.as_tensor) and not is_tensor(args[0]))
        out = func(*args, **(kwargs or {}))
        moved = is_tensor(out) and any(is_tensor(a) and a.device != out.device for a in args)
        self.count += made or moved
        return out


def is_tensor(value):
    return isinstance(value, torch.Tensor)


@each_pooler
@pytest.mark.parametrize("one_map", [False, True], ids=["pyramid", "one_map"])
def test_nothing_is_asked_of_the_device_and_nothing_copied_to_it(make, one_map):
    """Meta tensors have shapes and no numbers: to ask one for a number, or for rows by a mask, is an error."""
    shapes = {"p4": SHAPES["p4"]} if one_map else SHAPES
    maps, per_image = features(device="meta"), [b.to("meta") for b in boxes()]
    pooler = make(shapes)
    with FromHost() as seen:
        out = pooler(maps, per_image)
        gradients(out, {n: maps[n] for n in shapes}, torch.ones_like(out))
    assert out.device.type == "meta"
    assert out.shape == (92, 4, pooler.output_size, pooler.output_size)
    assert seen.count == 0


def test_what_is_asked_or_copied_would_be_seen():
    maps, per_image = features(device="meta"), [b.to("meta") for b in boxes()]
    with pytest.raises(RuntimeError, match="meta"):  # by level
        Beside(SHAPES, output_size=3)(maps, per_image)
    with FromHost() as seen:
        maps["p2"].new_tensor([1.0])
        torch.tensor([1.0], device="meta")
        torch.ones(1).to("meta")
    assert seen.count == 3


class Asks(PyramidPooler):
    def pool(self, feature, rois, stride):
        return roi_align(feature, rois, self.output_size, 1 / stride) + stride  # not 0 outside


class Beside(RoIAlignPooler):
    def pool(self, feature, rois, stride):
        return super().pool(feature, rois, stride) + stride


class Mixin:
    def pool(self, feature, rois, stride):
        return super().pool(feature, rois, stride) + stride


class Mixed(Mixin, CropAndResizePooler):
    pass


class Both(RoIAlignPooler):
    def pool(self, feature, rois, stride):
        return super().pool(feature, rois, stride) + stride

    def pool_at_once(self, maps, rois, levels):
        strides = torch.cat([levels.new_full((1,), s) for s in self.strides])[levels]
        return super().pool_at_once(maps, rois, levels) * 0 + strides[:, None, None, None]


def test_a_class_with_a_pool_of_its_own_is_pooled_by_that(slow_to_answer):
    asks = partial(Asks, canonical_box_size=224, canonical_level=4, level_rounding="floor")
    maps, per_image = features(), boxes()
    for cls in (asks, Beside, Mixed):
        pooler = cls(SHAPES, output_size=3)
        assert torch.equal(pooler(maps, per_image), by_level(pooler, maps, per_image)[0])
    pooler = Both(SHAPES, output_size=3)
    got, levels = pooler(maps, per_image), pooler.assign_levels(Boxes.cat(per_image))
    assert torch.equal(got, (4 * 2**levels).float()[:, None, None, None].expand_as(got))


def test_deterministic_algorithms_get_no_box_moved_outside(slow_to_answer, monkeypatch):
    """torchvision's deterministic form samples the nearest pixel there."""
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    pooler, maps, per_image, seen = RoIAlignPooler(SHAPES, output_size=3), features(), boxes(), []
    want = by_level(pooler, maps, per_image)[0]
    pool = pooler.pool
    monkeypatch.setattr(pooler, "pool", lambda f, rois, stride: seen.append(len(rois)) or pool(f, rois, stride))
    assert torch.equal(pooler(maps, per_image), want)
    assert sum(seen) == 92


def test_crops_of_maps_of_several_sizes_are_those_of_each_map():
    maps = [torch.randn(2, 3, 9, 14, dtype=torch.float64), torch.randn(2, 3, 5, 1, dtype=torch.float64)]
    low = torch.rand(40, 2) * 1.2 - 0.2
    where, image, level = torch.cat([low, low + torch.rand(40, 2)], 1), torch.randint(2, (40,)), torch.randint(2, (40,))
    for size in (1, 4):
        got = crop_and_resize_levels(maps, where, image, level, size)
        each = torch.stack([crop_and_resize(m, where, image, size) for m in maps])
        assert torch.equal(got, each[level, torch.arange(40)])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        crop_and_resize_levels(maps, where, image, level, 0)
