"""FormatDataset: a folder that a labelling tool wrote."""

import collections
import logging
import os
import zlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np

from detkit.config import CountOrZero, FilePath, Fraction
from detkit.data.datasets.row_masks import InvalidMasks
from detkit.data.datasets.row_reader import InvalidBoxes, Policy
from detkit.data.datasets.table_dataset import TableDataset
from detkit.data.formats.content import Content
from detkit.data.formats.files import Folder, embedded_rgb
from detkit.data.formats.parts import by_part, by_purpose, purpose
from detkit.data.formats.segment_files import SegmentFile, SegmentFiles
from detkit.data.images import DEFAULT_READING, ImageReading
from detkit.data.issues import Report
from detkit.data.paths import data_path
from detkit.registry import DataError
from detkit.structures import Panoptic
from detkit.utils.run_folder import MARK
from detkit.utils.words import amount

logger = logging.getLogger(__name__)
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")


class FormatDataset(TableDataset):
    """A folder of images and labels as a tool writes it. A subclass recognises its format and reads it.

    Args:
        path: the folder, or the file in it that describes the dataset.
        split: a part of it, such as ``train``; null for all, each image once.
        val_fraction: the share of images that are ``val`` where the folder has no parts, one alone, or several of which
            none is to train or evaluate on; the others are ``train``. Told by a hash of the images' names, so that an
            image stays where it is when others come.
        class_names, keep_empty, keep_crowd, invalid_boxes, check_images, reading: as for ``CocoInstances``.
        invalid_masks: likewise; the default, box, gives an object that has only a box that box as its mask, where
            others have masks.

    Attributes:
        key: the format's name for ``open_dataset``.
        is_general: whether folders of other formats look like this one, which is then tried after them.
        format: the format's name for people.
        groups: the classes that have no object and stand above others, such as Roboflow's first.
        splits: the names of the parts that are there; empty where the format has none.
        lists_classes: whether the data say which classes there are, beside the labels of their objects.
        notes: what was taken in another way than a user may think, in words.
        has_rest: whether images beside these parts are in none of them; ``split=""`` takes these.
        divisible: whether ``val_fraction`` makes ``train`` and ``val`` of all its parts together.

    Raises:
        DataError: nothing of this format lies there, there is no such part, or a label is wrong; it names the file and
            the line or object.
    """

    key: ClassVar[str]
    is_general: ClassVar[bool] = False
    format: str

    def __init__(
        self,
        *,
        path: FilePath,
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
        folder = open_folder(path, f"{type(self).__name__}.path")
        folder.stored = reading.orientation == "stored"
        reader, seen = self.reader(folder)
        self.format = reader.format
        folder = reader.locate(folder)
        parts = reader.parts(folder)
        self.splits = tuple(name for name in parts if name)
        self.has_rest = bool(self.splits) and "" in parts
        self.divisible = len(parts) == 1 or not any(map(purpose, parts))
        content = self._content(reader, folder, parts, split, val_fraction, class_names or ())
        self.embedded, self.lists_classes = content.embedded, content.lists_classes
        self.notes = tuple(content.notes)
        extras = {kind: list(found.items()) for kind, found in content.extras.items()}
        self._extras = msgspec.json.encode(extras)  # in one piece, which loader workers share
        if not content.embedded and not any(row.file_name in folder.images for row in content.images[:1000]):
            logger.warning("%s: none of its images is there; it can be looked at, not trained on", folder.path)
            check_images = 0
        for words in (f"{reader.format}: {seen}", *content.notes):
            logger.info("%s: %s", folder.path, words)
        super().__init__(
            content.images,
            content.rows,
            content.categories,
            class_names=class_names,
            keypoints=content.keypoints,
            policy=Policy(keep_empty, keep_crowd, invalid_boxes, invalid_masks),
            source=content.place or str(folder.path),
            image_root=str(folder.path),
            check_images=check_images,
            reading=reading,
        )
        self._segments: SegmentFiles | None = None
        if content.segments:
            paths = map(self.table.images.file_name, range(len(self)))
            found = (content.segments.get(path, SegmentFile("", ())) for path in paths)
            self._segments = SegmentFiles.of(str(folder.path), found, self.class_names, content.stuff.values())
            self.semantic_names, self.stuff_ids = self._segments.semantic_names, tuple(content.stuff)
        above = {entry.get("supercategory") for entry in content.extras.get("categories", {}).values()}
        present = {self.class_names[number] for number in {*self.table.classes.tolist()}}
        self.groups = tuple(name for name in self.class_names if name in above - present)

    def _content(
        self,
        reader: type["FormatDataset"],
        folder: Folder,
        parts: Mapping[str, Any],
        split: str | None,
        val_fraction: float | None,
        class_names: Collection[str],
    ) -> Content:
        """What is labelled in the part that is asked for, with the classes that are."""
        together = self.divisible and (len(parts) == 1 or split not in parts)
        if val_fraction is not None and split is not None and together:
            content = reader.read(folder, parts)
            keep_share(content, split, val_fraction, folder)
        else:
            content = reader.read(folder, choose_parts(parts, split, folder))
        if set(class_names).difference(content.categories.values()):
            _add_classes(content, content if split is None else reader.read(folder, parts), class_names, folder)
        content.move_regions(class_names)
        return content

    def check_image(self, index: int, report: Report) -> None:
        if self.table.images.file_name(index) not in self.embedded:
            super().check_image(index, report)

    def read_image(self, index: int) -> np.ndarray:
        source = self.embedded.get(self.table.images.file_name(index))
        if source is None:
            return super().read_image(index)
        folder = Folder(self.image_root)
        return embedded_rgb(folder.json(source)["imageData"], str(folder.path / source), self.reading.max_value)

    def panoptic_map(self, index: int) -> Panoptic | None:
        return None if self._segments is None else self._segments.panoptic_map(index, self.image_size(index))

    def coco(self) -> dict[str, Any]:
        content = super().coco()
        for kind, found in msgspec.json.decode(self._extras).items():
            own = dict(found)
            content[kind] = [{**entry, **own.get(entry["id"], {})} for entry in content[kind]]
        return content

    def reader(self, folder: Folder) -> tuple[type["FormatDataset"], str]:
        """The class that reads the folder, and what was seen there."""
        return self.chosen(folder)

    @classmethod
    def chosen(cls, folder: Folder) -> tuple[type["FormatDataset"], str]:
        """This class, and what it saw in the folder. Raises DataError where nothing of its format lies there."""
        if (seen := cls.recognise(folder)) is None:
            found = f"holds nothing of the format {cls.format}; there are {contents(folder)}. {cls.hint(folder)}"
            raise DataError(f"{folder.path / (folder.given or '')}: {found.rstrip('. ')}")
        return cls, seen

    @classmethod
    def files(cls, folder: Folder) -> list[str]:
        """The files of labels; those of a format that has its own ``recognise`` and ``parts`` are not asked for."""
        return []

    @classmethod
    def recognise(cls, folder: Folder) -> str | None:
        """What of this format is there, in a few words; None where nothing is."""
        names = cls.files(folder)
        return ", ".join([*names[:4], *([f"{len(names) - 4} more"] if names[4:] else [])]) or None

    @classmethod
    def hint(cls, folder: Folder) -> str:
        """What is missing where no format was recognised, but files look like this one; a sentence, or ""."""
        return ""

    @classmethod
    def locate(cls, folder: Folder) -> Folder:
        """The folder that holds the data, where a file in this one names another."""
        return folder

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        """The parts of the dataset and what ``read`` needs of each; one without a name where it has no parts."""
        return by_part(cls.files(folder)) or {"": []}

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        """What is labelled in some parts."""
        raise NotImplementedError

    def title(self) -> str:
        return f"{self.format} {self.source}"


def open_folder(path: str, option: str) -> Folder:
    """The folder that a path, or a file's path, means. Raises DataError where there is none."""
    local = os.path.expanduser(path)
    if local.lower().endswith(ARCHIVES) and os.path.isfile(local):
        raise DataError(f"{option}: {local} is an archive; unpack it and give the folder that comes out")
    if os.path.isfile(local):
        return Folder(os.path.dirname(local) or ".", given=os.path.basename(local))
    return Folder(data_path(path, option, folder=True))


def _add_classes(content: Content, whole: Content, class_names: Collection[str], folder: Folder) -> None:
    """Adds the classes that only other parts of the whole have objects of.

    Where data do not list their classes, those that no object has are added as well, if any of ``class_names`` is seen.
    """
    unseen = set(class_names).difference(content.categories.values())
    nowhere = unseen.difference(whole.categories.values())
    if nowhere and not content.lists_classes and len(unseen) < len(class_names):
        names = ", ".join(map(repr, sorted(nowhere)[:10]))
        logger.warning("%s: class_names: no object is of the class %s", folder.path, names)
        nowhere = set()
    content.categories = {**content.categories, **new_ids(unseen - nowhere, content.categories)}


def choose_parts(parts: Mapping[str, Any], split: str | None, folder: Folder) -> dict[str, Any]:
    """The parts that ``split`` names, all for None. Raises DataError for one that is not there."""
    if split is None:
        return dict(parts)
    meant = by_purpose(parts).get(purpose(split))
    found = {name: where for name, where in parts.items() if name == split} or {
        name: where for name, where in parts.items() if name == meant or name.lower() == split.lower()
    }
    if not found:
        there = ", ".join(filter(None, parts)) or "no parts; val_fraction: 0.2 makes train and val of it"
        raise DataError(f"{folder.path}: has no split '{split}'; there are {there}")
    return found


def keep_share(content: Content, split: str, val_fraction: float, folder: Folder) -> None:
    """Leaves the images of ``val``, a share by a hash of their names, or those of ``train``; at least one in each.

    Names that the hash has divided before, such as those of a part of a folder, may all lie on one side: ``val`` has
    half of the share at least and twice the share at most.
    """
    name = purpose(split)
    if name not in ("train", "val"):
        raise DataError(f"{folder.path}: has no split '{split}'; val_fraction makes train and val")
    if len(content.images) < 2:
        raise DataError(f"{folder.path}: has {len(content.images)} image, which cannot be train and val; add more")
    hashes = [zlib.crc32(os.path.basename(row.file_name).encode("utf-8", "surrogateescape")) for row in content.images]
    order = sorted(range(len(hashes)), key=hashes.__getitem__)
    share = val_fraction * len(hashes)
    num_val = sum(value < val_fraction * 2**32 for value in hashes)
    num_val = min(max(num_val, round(share / 2)), round(share * 2))
    num_val = min(max(num_val, 1), len(hashes) - 1)  # neither is empty
    val = set(order[:num_val])
    gone = {row.id for i, row in enumerate(content.images) if (i in val) != (name == "val")}
    content.images = [row for row in content.images if row.id not in gone]
    content.rows = [row for row in content.rows if image_of(row) not in gone]  # of unknown images, too: they are wrong


def new_ids(names: Iterable[str], categories: Mapping[int, str]) -> dict[int, str]:
    """Ids that no category has yet -> the names, in alphabetical order."""
    return dict(enumerate(sorted(names), max(categories, default=0) + 1))


def image_of(row: Any) -> int | str | None:
    """The id of the image that a row speaks of; None where it says none."""
    id_ = row.get("image_id") if isinstance(row, Mapping) else getattr(row, "image_id", None)
    return id_ if isinstance(id_, int | str) else None


def contents(folder: Folder) -> str:
    """What lies in a folder, in a few words."""
    kinds = collections.Counter(Path(name).suffix.lower() or "no suffix" for name in folder.files)
    nothing = "only files that a run of detkit has left" if (folder.path / MARK).is_file() else "no files"
    return ", ".join(f"{amount(count, 'file')} of {kind}" for kind, count in kinds.most_common(6)) or nothing
