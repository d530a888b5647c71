"""AutoDataset and open_dataset: whatever lies in a folder."""

import contextlib
import logging
import os
from collections.abc import Iterable
from typing import Any

from detkit.config import CountOrZero, FilePath, Fraction
from detkit.data.datasets.coco_file import read_json
from detkit.data.datasets.row_masks import InvalidMasks
from detkit.data.datasets.row_reader import InvalidBoxes
from detkit.data.datasets.rows import Row
from detkit.data.formats.dataset import ARCHIVES, FormatDataset, contents
from detkit.data.formats.files import Folder
from detkit.data.images import DEFAULT_READING, ImageReading
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError, did_you_mean

logger = logging.getLogger(__name__)


@DATASETS.register()
class AutoDataset(FormatDataset):
    """Whatever lies in a folder: its format is recognised, and said in the log.

    Its options are those of every format, and ``format``.

    Args:
        format: the format, for a folder that can be read as several; null recognises it.
    """

    def __init__(
        self,
        *,
        path: FilePath,
        format: str | None = None,
        split: str | None = None,
        val_fraction: Fraction | None = None,
        class_names: tuple[str, ...] | None = None,
        keep_empty: bool = True,
        keep_crowd: bool = True,
        invalid_boxes: InvalidBoxes = "drop",
        invalid_masks: InvalidMasks = "box",
        check_images: CountOrZero = 1000,
        reading: ImageReading = DEFAULT_READING,
    ):
        self._format = format
        super().__init__(
            path=path,
            split=split,
            val_fraction=val_fraction,
            class_names=class_names,
            keep_empty=keep_empty,
            keep_crowd=keep_crowd,
            invalid_boxes=invalid_boxes,
            invalid_masks=invalid_masks,
            check_images=check_images,
            reading=reading,
        )

    def reader(self, folder: Folder) -> tuple[type[FormatDataset], str]:
        formats = {key: kind for key, kind in DATASETS.by_key().items() if issubclass(kind, FormatDataset)}
        if self._format is not None:
            if self._format not in formats:
                near = did_you_mean(self._format, formats)
                raise DataError(f"format: there is no format '{self._format}'.{near} There are {', '.join(formats)}")
            return formats[self._format].chosen(folder)
        kinds = sorted(formats.values(), key=lambda kind: kind.is_general)
        failure: DataError | None = None
        for number, kind in enumerate(kinds, 1):
            try:
                seen = kind.recognise(folder)
            except DataError as error:  # of a file that looks like this format, in a folder that may be of another
                failure = failure or error
                continue
            if seen is not None:
                _name_others(kinds[number:], kind, folder)
                return kind, seen
        if failure is not None:
            raise failure
        if len(lone := folder.candidates("*.json")) == 1 and len(folder.candidates("*.xml", "*.yaml", "*.txt")) == 0:
            try:
                read_json(str(folder.path / lone[0]), Row)  # says what is wrong with it
            except DataError as error:
                if "AutoDataset" not in str(error):
                    raise
        names = ", ".join(kind.format for kind in formats.values())
        hints = [kind.hint(folder) for kind in formats.values()]
        hints += [f"{name} is an archive: unpack it. " for name in folder.files if name.lower().endswith(ARCHIVES)][:1]
        raise DataError(
            f"{folder.path}: no labels of a known format; there are {contents(folder)}. {''.join(hints)}Readable are "
            f"{names}; format=NAME says which it is"
        )


def _name_others(others: Iterable[type[FormatDataset]], chosen: type[FormatDataset], folder: Folder) -> None:
    """Says which formats lie in the folder beside the one that is read, such as labels that were converted there."""
    for kind in () if folder.given else others:
        with contextlib.suppress(DataError):
            if kind.is_general == chosen.is_general and (seen := kind.recognise(folder)) is not None:
                words = "%s: is read as %s, and there are labels of %s (%s); format '%s' takes these"
                logger.warning(words, folder.path, chosen.format, kind.format, seen, kind.key)


def open_dataset(
    path: str | os.PathLike[str], format: str | None = None, split: str | None = None, **options: Any
) -> FormatDataset:
    """The dataset that lies in a folder, or that a file in it describes.

    Args:
        path: the folder or file.
        format: its format, such as ``"yolo"``; None recognises it. ``dataset.format`` says what was recognised.
        split: a part, such as ``"train"``; None for every part that is there, each image once.
        options: more options of ``AutoDataset``.

    Raises:
        DataError: as ``FormatDataset`` does.
    """
    if not isinstance(path, str | os.PathLike):
        raise DataError(f"expected a folder of data, or a file in it, got {path!r:.100}")
    return AutoDataset(path=os.fspath(path), format=format, split=split, **options)
