"""Semantic head, maps to and from the batch, and merging."""

import dataclasses
import itertools

import pytest
import torch
from torch.nn import functional as F

from detkit.layers import ShapeSpec
from detkit.modeling.semantic import IGNORED, PanopticMerge, SemanticFPNHead, batched_maps, original_logits
from detkit.structures import BitMasks, Boxes, ImageInfo, ImageList, Instances, Sample

SHAPES = {f"p{i}": ShapeSpec(8, 2**i) for i in (2, 3, 4, 5)}


def maps_of(size, batch=2):
    return {
        n: torch.randn(batch, s.channels, -(-size[0] // s.stride), -(-size[1] // s.stride)) for n, s in SHAPES.items()
    }


def test_head_adds_up_levels_that_are_enlarged_step_by_step():
    torch.manual_seed(0)
    head = SemanticFPNHead(SHAPES, 5, conv_dim=8)
    assert [len(convs) for convs in head.convs.values()] == [1, 1, 2, 3]
    features, total = maps_of((64, 96)), 0
    for name, convs in head.convs.items():
        x = features[name]
        for conv in convs:
            x = F.relu(conv.norm(F.conv2d(x, conv.weight, padding=1)))
            x = x if name == "p2" else F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        total = total + x
    torch.testing.assert_close(head.predict(features), head.predictor(total))
    assert head.predict(maps_of((60, 84))).shape == (2, 5, 15, 21), "sides that no stride divides"


def test_logits_may_be_finer_than_the_finest_level():
    torch.manual_seed(0)
    head = SemanticFPNHead(SHAPES, 5, in_features=("p3", "p4", "p5"), stride=4, conv_dim=8)
    assert [len(convs) for convs in head.convs.values()] == [1, 2, 3]
    features = maps_of((64, 96))
    conv = head.convs["p3"][0]
    x = F.relu(conv.norm(F.conv2d(features["p3"], conv.weight, padding=1)))
    for name in ("p4", "p5"):  # what is left is p3's, enlarged
        torch.nn.init.zeros_(head.convs[name][-1].norm.weight)
    enlarged = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(head.predict(features), head.predictor(enlarged))
    assert head.predict(maps_of((60, 84))).shape == (2, 5, 16, 22)
    loss = head.loss(maps_of((60, 84)), torch.zeros(2, 60, 84, dtype=torch.long)).total()
    assert loss.isfinite()


def test_loss_is_the_mean_over_known_pixels_also_over_several_batches():
    torch.manual_seed(0)
    head, features = SemanticFPNHead(SHAPES, 5, conv_dim=8, loss_weight=0.5), maps_of((64, 96))
    targets = torch.randint(0, 5, (2, 64, 96))
    targets[0, :40] = IGNORED
    losses = head.loss(features, targets)
    enlarged = F.interpolate(head(features), size=(64, 96), mode="bilinear", align_corners=False)
    each = F.cross_entropy(enlarged, targets, ignore_index=IGNORED, reduction="none")
    torch.testing.assert_close(losses.terms["loss_sem_seg"], 0.5 * each.sum() / (targets != IGNORED).sum())
    apart = [head.loss({n: f[i : i + 1] for n, f in features.items()}, targets[i : i + 1]) for i in (0, 1)]
    sums = [part.terms["loss_sem_seg"] * part.normalisers["loss_sem_seg"] for part in apart]
    together = sum(sums) / sum(part.normalisers["loss_sem_seg"] for part in apart)
    torch.testing.assert_close(together, losses.terms["loss_sem_seg"])


def test_loss_without_a_known_pixel_is_zero_and_has_gradients():
    head = SemanticFPNHead(SHAPES, 5, conv_dim=8)
    loss = head.loss(maps_of((64, 64)), torch.full((2, 64, 64), IGNORED)).total()
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


@pytest.mark.parametrize(
    ("names", "words"), [(("p2", "p7"), "p7"), (("p3", "p2"), "power of two"), ((), "finest first")]
)
def test_levels_that_do_not_fit_are_named(names, words):
    with pytest.raises(ValueError, match=words):
        SemanticFPNHead(SHAPES, 5, in_features=names)


@pytest.mark.parametrize("stride", [3, 8])
def test_a_stride_that_the_levels_cannot_have_is_refused(stride):
    with pytest.raises(ValueError, match=f"p2 has stride 4; expected a power of two times {stride}"):
        SemanticFPNHead(SHAPES, 5, stride=stride)


def sample(size, values, original=None):
    maps = {} if values is None else {"semantic": values}
    return Sample(torch.zeros(3, *size, dtype=torch.uint8), original or size, image_id=7, maps=maps)


def test_maps_of_unequal_images_are_padded_and_unknown_values_ignored():
    first = torch.tensor([[0, 1], [4, 255]], dtype=torch.uint8)
    second = torch.tensor([[-1, 2, 3]], dtype=torch.int64)
    images = ImageList(torch.zeros(2, 3, 4, 4), [(2, 2), (1, 3)])
    out = batched_maps([sample((2, 2), first), sample((1, 3), second)], images, 4)
    assert out.dtype == torch.int64
    assert out[0].tolist() == [[0, 1, -1, -1], [-1, -1, -1, -1], [-1] * 4, [-1] * 4]
    assert out[1].tolist() == [[-1, 2, 3, -1], [-1] * 4, [-1] * 4, [-1] * 4]
    with pytest.raises(ValueError, match=r"7.*no semantic map"):
        batched_maps([sample((2, 2), None)], ImageList(torch.zeros(1, 3, 4, 4), [(2, 2)]), 4)


def test_maps_follow_an_image_that_the_model_resizes():
    values = torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8)
    out = batched_maps([sample((2, 2), values)], ImageList(torch.zeros(1, 3, 8, 8), [(4, 4)]), 4)
    assert out[0, :4, :4].tolist() == values.repeat_interleave(2, 0).repeat_interleave(2, 1).tolist()
    assert (out[0, 4:] == IGNORED).all()


def test_logits_come_back_to_the_original_image_from_its_valid_region():
    logits = torch.zeros(1, 2, 4, 6)
    logits[:, 1, 1:3, 2:4] = 8  # pixels 4..12 by 8..16 of the batch
    images = ImageList(torch.zeros(1, 3, 16, 24), [(16, 24)], [ImageInfo((8, 4, 16, 12))])
    (out,) = original_logits(logits, images, [sample((16, 24), None, original=(20, 20))])
    assert out.shape == (2, 20, 20)
    assert (out.argmax(0)[4:-4, 4:-4] == 1).all()


def test_the_stride_of_logits_is_known_from_the_longer_side_where_it_divides_neither():
    logits = torch.full((1, 2, 2, 9), 4.0)  # of stride 8
    logits[:, 1] = torch.tensor([8.0] * 4 + [0.0] * 5)
    images = ImageList(torch.zeros(1, 3, 9, 65), [(9, 65)])
    (out,) = original_logits(logits, images, [sample((9, 65), None, original=(9, 65))])
    assert out.argmax(0).sum(1).tolist() == [32] * 9


def instances(boxes, scores, classes, size=(8, 8)):
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = True
    fields = {"scores": torch.tensor(scores), "classes": torch.tensor(classes, dtype=torch.int64)}
    return Instances(size, boxes=Boxes(torch.tensor(boxes).reshape(-1, 4).float()), masks=BitMasks(masks), **fields)


def test_the_better_instance_takes_the_pixels_and_stuff_the_rest():
    found = instances([[0, 0, 4, 4], [2, 0, 6, 4], [3, 0, 5, 4], [0, 4, 8, 8]], [0.9, 0.8, 0.7, 0.4], [5, 6, 7, 8])
    semantic = torch.ones(8, 8, dtype=torch.int64)
    semantic[:, 6:] = 2
    semantic[6:] = 0
    out = PanopticMerge(stuff_area=9)(found, semantic)
    things = [(s.id, s.class_index, s.instance) for s in out.segments if s.is_thing]
    assert things == [(1, 5, 0), (2, 6, 1)], "the third is hidden, the fourth scores too little"
    assert (out.ids[:4, :4] == 1).all()
    assert (out.ids[:4, 4:6] == 2).all(), "half of it is still there"
    assert [(s.id, s.class_index) for s in out.segments if not s.is_thing] == [(3, 1), (4, 2)]
    assert (out.ids == 3).sum() == 12
    assert (out.ids[6:] == 0).all(), "things of the semantic map belong to no segment"
    assert out.semantic[0, 0] == 0
    assert out.semantic[7, 7] == 255
    few = PanopticMerge(stuff_area=13)(found, semantic)
    assert [s.is_thing for s in few.segments] == [True, True], "12 pixels each are too few"


def test_merging_gives_segments_and_ids_that_belong_together():
    torch.manual_seed(0)
    for num, thresh in itertools.product((0, 1, 12), (0.0, 0.5)):
        corners = torch.randint(0, 30, (num, 2))
        boxes = torch.cat([corners, corners + torch.randint(0, 12, (num, 2))], 1).tolist()
        scores, classes = torch.rand(num).tolist(), torch.randint(0, 3, (num,)).tolist()
        semantic = torch.randint(0, 4, (40, 40))
        out = PanopticMerge(thresh, 0.5, 30)(instances(boxes, scores, classes, (40, 40)), semantic)
        assert sorted({0, *out.ids.unique().tolist()}) == [0, *(s.id for s in out.segments)]
        for s in out.segments:
            place = out.ids == s.id
            assert (semantic[place] == s.class_index).all() if not s.is_thing else scores[s.instance] == s.score
        assert all(s.score >= thresh for s in out.segments if s.is_thing)


def test_order_of_the_rows_means_nothing():
    found = instances([[0, 0, 4, 4], [1, 0, 5, 4]], [0.6, 0.9], [1, 2])
    out = PanopticMerge(stuff_area=0)(found, torch.zeros(8, 8, dtype=torch.int64))
    again = PanopticMerge(stuff_area=0)(found[torch.tensor([1, 0])], torch.zeros(8, 8, dtype=torch.int64))
    assert [dataclasses.replace(s, instance=None) for s in out.segments] == [
        dataclasses.replace(s, instance=None) for s in again.segments
    ]
    assert torch.equal(out.ids, again.ids)
