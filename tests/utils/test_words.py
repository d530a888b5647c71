"""Words of messages."""

import pytest

from detkit.utils.words import amount


@pytest.mark.parametrize(
    ("number", "noun", "words"), [(0, "image", "0 images"), (1, "class", "1 class"), (2, "class", "2 classes")]
)
def test_a_noun_follows_its_number(number, noun, words):
    assert amount(number, noun) == words
