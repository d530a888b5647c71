"""Which images one call of the model is of."""

import torch
from echo_model import Echo

from detkit.predictor.running import MOST_PADDING, predictions_of, size_groups
from detkit.structures import Sample


def samples(*sizes):
    return [Sample(torch.zeros(3, *size, dtype=torch.uint8), size) for size in sizes]


def grouped(*sizes):
    return [[tuple(sample.image.shape[-2:]) for sample in group] for group in size_groups(samples(*sizes))]


def test_photographs_of_both_orientations_are_one_call():
    sizes = [(60, 80), (80, 60), (60, 80), (45, 80)]
    assert grouped(*sizes) == [sizes]


def test_a_wide_and_a_tall_image_are_not_padded_to_a_square():
    wide, tall, photo = (10, 3000), (3000, 10), (60, 80)
    assert grouped(wide, wide, tall, photo) == [[wide, wide], [tall], [photo]]


def test_no_group_is_mostly_padding_and_none_is_lost():
    torch.manual_seed(0)
    sizes = [tuple(pair) for pair in torch.randint(1, 2000, (50, 2)).tolist()]
    found = grouped(*sizes)
    assert [size for group in found for size in group] == sizes
    for group in found:
        padded = len(group) * max(h for h, _ in group) * max(w for _, w in group)
        assert padded <= MOST_PADDING * sum(h * w for h, w in group)
    assert grouped() == []


def test_predictions_come_in_the_order_of_the_images():
    sizes, model = [(20, 3000), (3000, 20), (30, 40)], Echo()
    found = predictions_of(model, samples(*sizes))
    assert [prediction.instances.image_size for prediction in found] == sizes
    assert model.calls == [1, 2]
