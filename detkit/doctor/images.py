"""The image files: there, whole, of the size that their annotations are made for, and each there once."""

import collections
import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

from detkit.data.bit_depth import DARK_IMAGE, is_dark
from detkit.data.image_files import decoder_warnings, naming_warnings, open_image
from detkit.data.images import (
    DEFAULT_READING,
    TURNED_FIX,
    TURNED_IN_DOUBT,
    ImageReading,
    decode_image,
    orientation,
    sizes,
)
from detkit.data.issues import Issue
from detkit.doctor.interfaces import CHECKS, Check, CheckContext, Finding, Severity
from detkit.utils.environment import cores
from detkit.utils.progress import watched

TURNED = "turned by its EXIF tag"
CHUNK = 256
"""Files that are decoded together, by several threads."""
Job = tuple[str, tuple[int, int], ImageReading]


@CHECKS.register()
class MissingImages(Check):
    """Image files that are not there, by the listings of their folders.

    A missing file ends a training in the middle of an epoch.

    Fix: correct the dataset's ``image_root`` or the ``file_name``.
    """

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        listings: dict[str, set[str]] = {}
        for part in context.parts:
            missing = [path for path in part.paths if path is not None and not _listed(path, listings)]
            if missing:
                fix = "correct image_root or file_name, or remove the record"
                severity: Severity = "warning" if context.experiment.data.skip_unreadable else "error"
                yield Finding(severity, part.source, "images that are not there", fix, missing)


@CHECKS.register()
class ImageFiles(Check):
    """Image files that cannot be decoded, are damaged, or have another size than their record says; odd ones.

    A file that cannot be decoded ends a training in the middle of an epoch; of another size, its boxes and masks lie in
    the wrong place. The reader applies a camera's EXIF orientation if the image then has the size of its record; where
    turning does not change the size (by half a turn, mirrored, or square) it is applied too, and nobody can tell
    whether the boxes were drawn on the turned image. Odd are also images that are nearly black or of one value, as
    those of 12 bits in a file of 16 become, and files of several frames, of which the first is read.

    Fix: replace the files; set the dataset's ``reading``, which says how turned images and bits are meant.
    """

    quick = False

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        for part in context.parts:
            reading = getattr(part.dataset, "reading", DEFAULT_READING)
            jobs = [
                (path, part.dataset.image_size(i), reading) for i, path in enumerate(part.paths) if path is not None
            ]
            groups = collections.defaultdict[Finding, list[str]](list)
            chunks = [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
            with ThreadPoolExecutor(cores()) as pool:
                for chunk in watched(chunks, "images", unit=f"{CHUNK} images", show=context.bar):
                    for issue in _check_files(chunk, pool):
                        severity: Severity = "note" if issue.kind == TURNED else issue.severity
                        groups[Finding(severity, part.source, issue.kind, issue.fix)].append(issue.place)
            yield from (dataclasses.replace(f, examples=paths, count=len(paths)) for f, paths in groups.items())


@CHECKS.register()
class CopiedImages(Check):
    """Images that are there more than once: within a dataset, or in the training and the test set.

    An image that is learned from and tested on makes the test's metrics too good; a copy within a set counts
    twice. Files are the same where they have the same path or the same content; of the same name but with other
    content, they may be.

    Fix: take one of them out of one of the sets.
    """

    needs = ("train", "test")

    def __call__(self, context: CheckContext) -> Iterable[Finding]:
        assert context.train is not None
        assert context.test is not None
        train, test = _indexed(context.train.paths), _indexed(context.test.paths)
        for side in (context.train, context.test):
            names = collections.Counter(part_path for part_path in side.paths if part_path is not None)
            twice = [path for path, count in names.items() if count > 1]
            if twice:
                yield Finding("warning", side.source, "files that several records name", "keep one record", twice)
        both = [path for real, path in train.items() if real in test]
        if both:
            fix = "leave them out of one of the sets, unless learning by heart is the purpose"
            yield Finding("warning", "data", "images in the training set and in the test set", fix, both)
        if not context.quick:
            yield from _copies(train, test)


def _copies(train: dict[str, str], test: dict[str, str]) -> Iterator[Finding]:
    """Files of the same content under different paths."""
    side = {**dict.fromkeys(test, "test"), **dict.fromkeys(train, "train")}
    by_size = collections.defaultdict(list)
    for path in side:
        if os.path.isfile(path):
            by_size[os.path.getsize(path)].append(path)
    by_content = collections.defaultdict(list)
    for paths in by_size.values():
        for path in paths if len(paths) > 1 else ():
            by_content[_digest(path)].append(path)
    groups = [paths for paths in by_content.values() if len(paths) > 1]
    words = {True: "images whose copy is in the other set", False: "images that are there twice within a set"}
    for across in (True, False):
        found = [" = ".join(paths) for paths in groups if (len({side[p] for p in paths}) > 1) == across]
        if found:
            yield Finding("warning", "data", words[across], "remove all but one", found)
    copied = {path for paths in groups for path in paths}
    names = {os.path.basename(path): path for path in test if path not in train and path not in copied}
    single = {path: os.path.basename(path) for path in train if path not in copied}
    alike = [f"{path} and {names[name]}" for path, name in single.items() if name in names]
    if alike:
        fix = "look whether they show the same; if so, take one out"
        yield Finding("note", "data", "files of the same name, with other content, in both sets", fix, alike)


def _listed(path: str, listings: dict[str, set[str]]) -> bool:
    folder, name = os.path.split(path)
    if folder not in listings:
        listings[folder] = set(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else set()
    return name in listings[folder] or os.path.exists(path)


def _check_files(jobs: Sequence[Job], pool: Executor) -> list[Issue]:
    """What is wrong with images. Where a decoder has warned of one of them, they are read again one by one."""
    with decoder_warnings() as found:
        issues = [issue for issues in pool.map(_check_file, jobs) for issue in issues]
    for job in jobs if found else ():
        with naming_warnings(job[0], issues.append):
            _check_file(job)
    return issues


def _check_file(job: Job) -> list[Issue]:
    """What is wrong with an image that is there."""
    path, size, reading = job
    issues: list[Issue] = []
    note = functools.partial(Issue, place=path, entry="", severity="warning")
    try:
        pixels = decode_image(path, size, reading, issues.append)
        with open_image(path) as image:
            tag, (stored, seen) = orientation(image), sizes(image)
    except Issue as issue:
        return [] if issue.kind == "missing image" else [issue]
    if pixels.min() == pixels.max():
        issues.append(note("image of one value", what="has one value", fix="look at it; leave it out if it is empty"))
    elif is_dark(pixels) and not any(issue.kind == DARK_IMAGE for issue in issues):
        issues.append(note(DARK_IMAGE, what="is nearly black", fix="look at it; reading.max_value scales deep images"))
    if tag != 1 and reading.orientation == "auto" and (stored == seen or seen == size):
        kind, fix = (TURNED_IN_DOUBT, TURNED_FIX) if stored == seen else (TURNED, "none needed")
        issues.append(note(kind, what="is turned", fix=fix))
    return issues


def _indexed(paths: list[str | None]) -> dict[str, str]:
    """Absolute path -> the path, for what is a file."""
    return {os.path.abspath(path): path for path in paths if path is not None}


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).digest()
