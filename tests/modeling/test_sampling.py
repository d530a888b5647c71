"""Sampling: sizes, shares, and what is never drawn."""

import pytest
import torch
from small import small_model

from detkit.modeling.roi_heads import MatterportRoIHeads
from detkit.modeling.sampling import Sampling
from detkit.structures import Instances


def draw(labels, num, share, background):
    """The drawn foreground and background of one image."""
    sampling = Sampling(num, share)
    index, drawn = sampling(labels[None], background)
    kinds = labels[index[0]]
    assert index.shape == drawn.shape == (1, min(num, len(labels)))
    assert drawn[0].sort(descending=True, stable=True).values.equal(drawn[0])  # empty places come last
    chosen, kinds = index[0][drawn[0]], kinds[drawn[0]]
    assert (kinds != -1).all()
    positive, negative = chosen[kinds != background], chosen[kinds == background]
    assert chosen.equal(torch.cat([positive, negative]))  # foreground comes first
    assert len(positive) <= sampling.max_positives(len(labels))
    return positive, negative


def test_share_of_foreground_is_bounded_and_background_fills_up():
    labels = torch.tensor([0] * 50 + [3] * 50 + [7] * 100 + [-1] * 100)
    positive, negative = draw(labels, 64, 0.25, background=7)
    assert (len(positive), len(negative)) == (16, 48)
    assert set(labels[positive].tolist()) <= {0, 3}
    assert set(labels[negative].tolist()) == {7}
    assert len(set(positive.tolist())) == 16


def test_little_foreground_is_filled_with_background():
    labels = torch.tensor([1] * 2 + [0] * 100)
    positive, negative = draw(labels, 64, 0.5, background=0)
    assert (len(positive), len(negative)) == (2, 62)


def test_little_background_makes_a_smaller_sample():
    labels = torch.tensor([1] * 100 + [0] * 3)
    positive, negative = draw(labels, 64, 0.5, background=0)
    assert (len(positive), len(negative)) == (32, 3)


def test_every_candidate_can_be_drawn():
    labels = torch.tensor([1] * 10 + [0] * 10)
    drawn = set()
    for _ in range(60):
        positive, negative = draw(labels, 6, 0.5, background=0)
        drawn |= set(positive.tolist()) | set(negative.tolist())
    assert drawn == set(range(20))


def in_proportion(labels):
    """How much foreground and background ``MatterportRoIHeads`` draw of 200, one third foreground."""
    heads = small_model(heads=MatterportRoIHeads).roi_heads
    heads.sampling = Sampling(200, 0.33)
    classes = torch.tensor([0 if label else heads.num_classes for label in labels])
    (sampled,) = heads.sample([Instances((9, 9), classes=classes)])
    positive = sampled.classes == 0
    assert positive.equal(positive.sort(descending=True).values)
    return int(positive.sum()), int((~positive).sum())


def test_matterports_background_keeps_its_proportion_to_the_foreground():
    assert in_proportion([1] * 20 + [0] * 500) == (20, 40)
    assert in_proportion([0] * 500) == (0, 0)
    assert in_proportion([1] * 300 + [0] * 500) == (66, 134)


def test_every_number_of_foreground_gets_the_background_that_doubles_count():
    for number in range(0, 80, 3):
        positive, negative = in_proportion([1] * number + [0] * 500)
        assert positive == min(number, 66)
        assert negative == int(positive * (1 / 0.33) - positive)


def test_what_is_not_sampled_is_left_out_of_the_labels():
    labels = torch.tensor([[1] * 40 + [0] * 50 + [-1] * 30])
    kept = Sampling(32, 0.5).only_sampled(labels, background=0)
    assert [(kept == label).sum() for label in (1, 0)] == [16, 16]
    assert ((kept == labels) | (kept == -1)).all()


@pytest.mark.parametrize("options", [(8, 0.0), (8, 1.5), (0, 0.5)])
def test_impossible_samples_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        Sampling(*options)


def test_images_are_sampled_apart():
    """The batch is drawn from at once; each image keeps the shares that it would have alone."""
    images = [[1] * 40 + [0] * 50 + [-1] * 30, [0] * 5 + [-1] * 115, [-1, 1, 2, 0] * 30, [-1] * 120]
    labels = torch.tensor(images)
    index, drawn = Sampling(32, 0.5)(labels, background=0)
    found = labels.gather(1, index).masked_fill(~drawn, -1)
    assert (found > 0).sum(1).tolist() == [16, 0, 16, 0]
    assert (found == 0).sum(1).tolist() == [16, 5, 16, 0]
    assert all(len(set(rows[taken].tolist())) == taken.sum() for rows, taken in zip(index, drawn))
    for shape in ((0, 9), (3, 0)):
        index, drawn = Sampling(32, 0.5)(torch.zeros(shape), background=0)
        assert index.shape == drawn.shape == (shape[0], shape[1])


def test_each_entry_is_as_likely_as_the_next():
    labels = torch.tensor([[1] * 6 + [0] * 12]).expand(4000, -1)
    index, drawn = Sampling(6, 0.5)(labels, background=0)
    assert drawn.all()
    share = torch.bincount(index.flatten(), minlength=18) / len(labels)
    torch.testing.assert_close(share, torch.tensor([3 / 6] * 6 + [3 / 12] * 12), atol=0.04, rtol=0)
