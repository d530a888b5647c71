"""The parts of a dataset, such as train and val, by the names of files and folders, and what they are for."""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath

SPLITS = (
    ("train", "training", "trainval"),
    ("val", "valid", "validation", "dev", "minival"),
    ("test", "testing", "test-dev", "test_dev"),
)
"""Names of parts that are for the same; where a dataset has several of them, the first counts."""
_NAMES = tuple(itertools.chain.from_iterable(SPLITS))
_PART = re.compile(
    r"(?:^|[^a-z])(train(?:ing|val)?|valid(?:ation)?|(?:valminus)?minival|val|test(?:ing)?(?:[_-](?:dev|challenge))?)"
    r"(?:[^a-z]|$)"
)


def purpose(part: str) -> str:
    """What a part is for by its name: train, val or test; "" for none of these."""
    return next((names[0] for names in SPLITS if part.lower() in names), "")


def by_purpose(parts: Iterable[str]) -> dict[str, str]:
    """What the parts are for -> the part that is for it."""
    known: Mapping[str, str] = {part.lower(): part for part in parts}
    return {purpose(name): known[name] for name in reversed(_NAMES) if name in known}


def part_of(name: str, own_name: bool = True) -> str:
    """The part of a dataset that a file's folders, or also its own name, speak of; "" for none."""
    path = PurePosixPath(name.lower())
    folders = [*reversed(path.parts[:-1])]
    for words in (*folders[:1], *([path.stem] if own_name else []), *folders[1:]):
        if found := _PART.search(words):
            return found[1]
    return ""


def grouped(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    """The names of each group, in order; ``key`` gives the group of a name."""
    out: dict[str, list[str]] = {}
    for name in names:
        out.setdefault(key(name), []).append(name)
    return out


def by_part(names: Iterable[str], own_name: bool = True) -> dict[str, list[str]]:
    """The files of each part."""
    return grouped(names, lambda name: part_of(name, own_name))


def without_val(lists: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Lists of images by part, each name once. What of ``trainval`` is not in ``val`` beside it is ``train``."""
    out = {part: list(dict.fromkeys(names)) for part, names in lists.items()}
    if "val" in out and (both := out.pop("trainval", None)):
        val = {*out["val"]}
        out.setdefault("train", [name for name in both if name not in val])
    return out


@functools.lru_cache(1000)
def purpose_of_folder(folder: str) -> str:
    """What the part is for whose files a folder holds; "" where its name does not say."""
    return purpose(part_of(f"{folder}/file", own_name=False))
