"""KittiDataset, DotaDataset and CrowdHumanDataset: a text line an object, or a JSON line an image."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import msgspec
import numpy as np

from detkit.data.formats.content import Content, LabelledImage, LabelledObject, lines_of
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder
from detkit.data.formats.parts import by_part, grouped, part_of, without_val
from detkit.data.formats.shapes import extent, numbers
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError


class TextRows(FormatDataset):
    """Labels as text files that are named as their images. A subclass reads a line; it is not registered itself."""

    @classmethod
    def read_line(cls, line: str, origin: str) -> LabelledObject | None:
        """An object; None for a line that is none. Raises DataError for one that is not of the format."""
        raise NotImplementedError

    @classmethod
    def recognise(cls, folder: Folder) -> str | None:
        names = cls.files(folder)
        return f"{len(names)} label files" if next(cls._first_rows(folder, names), "") is None else None

    @classmethod
    def hint(cls, folder: Folder) -> str:
        names = [name for name in cls.files(folder) if "labels" not in name.split("/")]  # which others have, too
        wrong = next(cls._first_rows(folder, names), None)
        return f"{wrong}. " if wrong else ""

    @classmethod
    def _first_rows(cls, folder: Folder, names: Iterable[str]) -> Iterator[str | None]:
        """Of each file that has rows, what is wrong with the first one; None where it is of this format."""
        for name in names:
            for number, line in lines_of(folder.head(name)):
                try:
                    if cls.read_line(line, f"{name}, line {number}") is None:
                        continue
                    yield None
                except DataError as error:
                    yield str(error)
                break

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        return by_part(cls.files(folder), own_name=False)

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        images = (cls._image(folder, name, part) for part, names in parts.items() for name in names)
        return Content.of_images(folder, images, None)

    @classmethod
    def _image(cls, folder: Folder, name: str, part: str) -> LabelledImage:
        stem, near = PurePosixPath(name).stem, str(PurePosixPath(name).parent)
        image = folder.image_of_stem(stem, part, beside=name) or folder.expected_image(stem, near, name)
        lines = lines_of(folder.text(name))
        found = (cls.read_line(line, f"{folder.path / name}, line {number}") for number, line in lines)
        return LabelledImage(image, [thing for thing in found if thing is not None])


@DATASETS.register()
class KittiDataset(TextRows):
    """KITTI's 2D boxes (Geiger et al. 2012): ``label_2/*.txt`` and ``image_2``, or ``labels`` and ``images``.

    ``DontCare`` is a region to ignore: a crowd, which evaluators take as one of every class. Parts are those of
    ``ImageSets/*.txt``, or told by folders. Classes are the labels, sorted. Options are those of ``FormatDataset``.
    """

    key = "kitti"
    format = "KITTI"

    @classmethod
    def files(cls, folder: Folder) -> list[str]:
        files = folder.glob("*.txt")
        places = ([name for name in files if place in name.split("/")[:-1]] for place in ("label_2", "labels"))
        return next(filter(None, places), [])

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        files = {PurePosixPath(name).stem: name for name in cls.files(folder)}
        out: dict[str, list[str]] = {}
        for name in folder.glob("ImageSets/*.txt"):
            paths = (PurePosixPath(line.replace("\\", "/")) for _, line in lines_of(folder.text(name)))
            stems = (path.name if path.name in files else path.stem for path in paths)
            if found := [files[stem] for stem in stems if stem in files]:
                out[PurePosixPath(name).stem] = found
        return without_val(out) or super().parts(folder)

    @classmethod
    def read_line(cls, line: str, origin: str) -> LabelledObject | None:
        words = line.split()
        numeric = next((n for n, word in enumerate(reversed(words)) if not _is_number(word)), len(words))
        if numeric < 14 or numeric == len(words):
            raise DataError(f"{origin}: {line[:60]!r}; expected a class and 14 numbers, of which 4 to 7 are the box")
        start = len(words) - min(numeric, 15)  # a score may follow; a class may have spaces
        label, box = " ".join(words[:start]), numbers(words[start:][3:7], origin, "the box", 4).tolist()
        region = label == "DontCare"
        return LabelledObject(None if region else label, box, None, origin, region)


@DATASETS.register()
class DotaDataset(TextRows):
    """DOTA (Xia et al. 2018): ``labelTxt/*.txt``, or ``annfiles``, with four corners, class and difficulty.

    Objects are taken as the boxes around their corners, which is said. Classes are the labels, sorted. Options are
    those of ``FormatDataset``.
    """

    key = "dota"
    format = "DOTA (as enclosing boxes)"

    @classmethod
    def files(cls, folder: Folder) -> list[str]:
        return [name for name in folder.glob("*.txt") if "labelTxt" in name or "annfiles" in name.split("/")[:-1]]

    @classmethod
    def read_line(cls, line: str, origin: str) -> LabelledObject | None:
        if line.startswith(("imagesource:", "gsd:", "acquisition dates:")):
            return None
        words = line.split()
        label = words[8:-1] if len(words) > 9 and _is_number(words[-1]) else words[8:]  # it may have spaces
        if not label or not all(map(_is_number, words[:8])) or (label[1:] and all(map(_is_number, label))):
            raise DataError(f"{origin}: {line[:60]!r}; expected 8 coordinates, a class and a difficulty")
        corners = numbers(words[:8], origin, "the corners", 8).reshape(4, 2)
        return LabelledObject(" ".join(label), extent(corners), None, origin)


@DATASETS.register()
class CrowdHumanDataset(FormatDataset):
    """CrowdHuman (Shao et al. 2018): ``*.odgt``, a JSON line an image; the boxes of whole bodies (``fbox``).

    What is marked as mask or to be ignored is a crowd. Options are those of ``FormatDataset``.
    """

    key = "crowd_human"
    format = "CrowdHuman"

    @classmethod
    def files(cls, folder: Folder) -> list[str]:
        return folder.candidates("*.odgt")

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        return grouped(cls.files(folder), lambda name: part_of(name) or PurePosixPath(name).stem)

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        images = (image for names in parts.values() for name in names for image in _people(folder, name))
        return Content.of_images(folder, images, ["person"])


def _people(folder: Folder, name: str) -> Iterator[LabelledImage]:
    for number, line in lines_of(folder.text(name)):
        place = f"{folder.path / name}, line {number}"
        try:
            entry = msgspec.json.decode(line.encode())
            things, stem = list(entry["gtboxes"]), str(entry["ID"])
        except (msgspec.DecodeError, KeyError, TypeError):
            raise DataError(f"{place}: expected a JSON mapping with ID and gtboxes") from None
        image = folder.image_of_stem(stem, "Images") or folder.expected_image(stem, origin=f"{name}, line {number}")
        yield LabelledImage(image, [_person(thing, f"{place}, box {n}") for n, thing in enumerate(things, 1)])


def _person(thing: Any, origin: str) -> LabelledObject:
    if not isinstance(thing, dict):
        raise DataError(f"{origin}: {str(thing)[:40]!r}; expected a mapping with tag and fbox")
    x, y, width, height = numbers(thing.get("fbox"), origin, "fbox", 4).tolist()
    ignore = (thing.get("extra") or {}).get("ignore")
    if ignore not in (None, 0, 1):
        raise DataError(f"{origin}: ignore is {str(ignore)[:40]!r}; expected 0, 1, false or true, without quotes")
    crowd = thing.get("tag") != "person" or ignore == 1
    return LabelledObject("person", (x, y, x + width, y + height), None, origin, crowd)


def _is_number(word: str) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except ValueError:
        return False
