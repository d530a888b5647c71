"""Damaged files of labels are read or refused with the project's error, never with another."""

import random

import pytest
from small_folders import FOLDERS, make_folder

from detkit.data import open_dataset
from detkit.registry import DataError

TOKENS = (
    "null",
    "-1",
    "1e999",
    "[]",
    "{}",
    '""',
    '"x"',
    "true",
    "99999999999999999999",
    "\x00",
    "NaN",
    "[[[1]]]",
    "é",
    "<a>",
)


def damaged(text: str, rng: random.Random) -> str:
    """The text with a piece cut out, twice there, or replaced."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        start = rng.randrange(len(text) + 1)
        end = min(start + rng.choice((1, 2, 5, 20)), len(text))
        piece = rng.choice(("", text[start:end] * 2, rng.choice(TOKENS), chr(rng.randrange(32, 127))))
        text = text[:start] + piece + text[end:]
    return text


@pytest.mark.parametrize("format", [name for name, (texts, *_) in FOLDERS.items() if texts and name != "AutoDataset"])
def test_damage_gives_a_dataset_or_the_projects_error(format, tmp_path):
    rng = random.Random(format)
    root = make_folder(format, tmp_path)
    files = [root / name for name in FOLDERS[format][0]]
    sound = {file: file.read_text() for file in files}
    key = open_dataset(root).key if format == "AutoDataset" else None
    for _ in range(60):
        file = rng.choice(files)
        text = damaged(sound[file], rng)
        file.write_text(text)
        try:
            dataset = open_dataset(root, format=key)
            [dataset[index] for index in range(len(dataset))]
        except DataError as error:
            assert str(error)  # noqa: PT017  # any other exception fails
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}\n{file.name}:\n{text}")
        file.write_text(sound[file])
