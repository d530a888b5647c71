"""Sampling: sizes, shares, and what is never drawn."""

import torch

from detkit.modeling.sampling import sample_balanced


def test_share_of_foreground_is_bounded_and_background_fills_up():
    labels = torch.tensor([0] * 50 + [3] * 50 + [7] * 100 + [-1] * 100)
    ((positive, negative),) = sample_balanced([labels], 64, 0.25, background=7)
    assert (len(positive), len(negative)) == (16, 48)
    assert set(labels[positive].tolist()) <= {0, 3}
    assert set(labels[negative].tolist()) == {7}
    assert len(set(positive.tolist())) == 16


def test_little_foreground_is_filled_with_background():
    labels = torch.tensor([1] * 2 + [0] * 100)
    ((positive, negative),) = sample_balanced([labels], 64, 0.5, background=0)
    assert (len(positive), len(negative)) == (2, 62)


def test_little_background_makes_a_smaller_sample():
    labels = torch.tensor([1] * 100 + [0] * 3)
    ((positive, negative),) = sample_balanced([labels], 64, 0.5, background=0)
    assert (len(positive), len(negative)) == (32, 3)


def test_every_candidate_can_be_drawn():
    labels = torch.tensor([1] * 10 + [0] * 10)
    drawn = set()
    for _ in range(60):
        ((positive, negative),) = sample_balanced([labels], 6, 0.5, background=0)
        drawn |= set(positive.tolist()) | set(negative.tolist())
    assert drawn == set(range(20))


def test_without_filling_background_keeps_its_proportion_to_the_foreground():
    labels = torch.tensor([1] * 20 + [0] * 500)
    ((positive, negative),) = sample_balanced([labels], 200, 0.33, background=0, fill=False)
    assert (len(positive), len(negative)) == (20, 40)
    ((positive, negative),) = sample_balanced([labels[20:]], 200, 0.33, background=0, fill=False)
    assert (len(positive), len(negative)) == (0, 0)
    ((positive, negative),) = sample_balanced(
        [torch.tensor([1] * 300 + [0] * 500)], 200, 0.33, background=0, fill=False
    )
    assert (len(positive), len(negative)) == (66, 134)


def test_images_are_sampled_as_if_each_were_alone():
    images = [torch.tensor([1] * 40 + [0] * 50 + [-1] * 9), torch.tensor([0] * 5), torch.tensor([-1, 1, 2, 0] * 30)]
    torch.manual_seed(0)
    alone = [sample_balanced([labels], 32, 0.5, background=0)[0] for labels in images]
    torch.manual_seed(0)
    together = sample_balanced(images, 32, 0.5, background=0)
    assert [[part.tolist() for part in pair] for pair in together] == [
        [part.tolist() for part in pair] for pair in alone
    ]
    assert sample_balanced([], 32, 0.5, background=0) == []
