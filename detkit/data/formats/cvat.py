"""CvatDataset: the XML of CVAT ("CVAT for images 1.1" and "for video 1.1"), of a task or a project."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

from detkit.data.formats.content import Content, LabelledImage, LabelledObject, image_size
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder
from detkit.data.formats.parts import part_of
from detkit.data.formats.shapes import (
    ellipse,
    extent,
    numbers,
    numbers_of,
    placed,
    points,
    rectangle,
    rotation_of,
    rows_of_runs,
    turned,
)
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError
from detkit.utils.words import amount

IGNORED = ("points", "polyline", "skeleton", "tag", "cuboid")
"""Shapes that are no objects."""
OBJECTS = ("box", "polygon", "ellipse", "mask")


class _Part(NamedTuple):
    """What the files of all parts list as classes and say beside it, and the images of this one, each with its file."""

    listed: list[str]
    notes: list[str]
    images: list[tuple[str, Element]]


@DATASETS.register()
class CvatDataset(FormatDataset):
    """CVAT's XML: boxes (also turned ones), polygons, ellipses and brush masks; in videos those of each frame.

    Classes are those of ``<labels>`` in their order, parts the subsets of a project. The XML of several tasks is one
    dataset, its parts told by folders too. Of a turned box the enclosing box is taken. Options are those of
    ``FormatDataset``.
    """

    key = "cvat"
    format = "CVAT XML"

    @classmethod
    def files(cls, folder: Folder) -> list[str]:
        return [
            name
            for name in folder.candidates("*.xml")
            if "<annotations" in folder.head(name) and ("<image" in (text := folder.ends(name)) or "<track" in text)
        ]

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        files, listed, notes = cls.files(folder), list[str](), list[str]()
        out = dict[str, _Part]()
        for name in files:
            root, own = folder.xml(name), part_of(name, own_name=False) if len(files) > 1 else ""
            labels = (label for label in root.iter("label") if label.find("parent") is None)
            listed += [(label.findtext("name") or "").strip() for label in labels]
            tasks: dict[tuple[str, str], str] = {}
            for image in root.findall("image") or _frames(folder, name, root, notes):
                key, task = (image.get("subset") or "", image.get("name") or ""), image.get("task_id") or ""
                if (other := tasks.setdefault(key, task)) != task:
                    what = f"the tasks {other} and {task} both have an image '{key[1]}' in the subset '{key[0]}'"
                    fix = "where CVAT writes one over the other; export each task by itself"
                    raise DataError(f"{folder.path / name}: {what}, {fix}")
                out.setdefault(image.get("subset") or own, _Part(listed, notes, [])).images.append((name, image))
        return out or {"": _Part(listed, notes, [])}

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        images = (_image(folder, entry, part, name) for part, found in parts.items() for name, entry in found.images)
        first: _Part = next(iter(parts.values()))
        return Content.of_images(folder, images, first.listed or None, first.notes)


def _frames(folder: Folder, file: str, root: Element, notes: list[str]) -> list[Element]:
    """The frames of videos as images, each with the shapes of the tracks that are in it."""
    above, tracks = PurePosixPath(file).parent, root.findall("track")
    tasks = root.findall("meta/project/tasks/task")
    if len(tasks) > 1:
        return _frames_of_project(folder, file, tasks, tracks, notes)
    images = next(filter(None, (_images_in(folder, above / "images"), _images_in(folder, above))), [*folder.images])
    meta = root.find("meta")
    return _with_tracks(folder, file, images, root if meta is None else meta, tracks, "", notes)


def _frames_of_project(
    folder: Folder, file: str, tasks: list[Element], tracks: list[Element], notes: list[str]
) -> list[Element]:
    """Those of a project with a video a task: they lie in the folder of its subset, or in one named as the task."""
    above, subsets = PurePosixPath(file).parent, {t.get("task_id"): t.get("subset") or "" for t in tracks}
    out, taken = list[Element](), dict[str, tuple[str | None, str]]()
    for task in tasks:
        id_, name = task.findtext("id"), (task.findtext("name") or "").strip()
        subset = subsets.get(id_) or task.findtext("subset") or "default"
        names = (f"{subset}/{name}", name, f"{subset}/{PurePosixPath(name).stem}", PurePosixPath(name).stem, subset)
        places = [above / top / place for place in names if PurePosixPath(place).name for top in ("images", "")]
        place = next((place for place in places if _images_in(folder, place)), places[0])
        images = _images_in(folder, place)
        if images and (other := taken.setdefault(str(place), (id_, name))) != (id_, name):
            what = f"the videos '{other[1]}' and '{name}' of the project both have their frames in '{place}'"
            fix = f"lay those of each in a folder of its own, as '{places[0]}', or export each task by itself"
            raise DataError(f"{folder.path / file}: {what}, where CVAT writes one over the other; {fix}")
        own = [track for track in tracks if track.get("task_id") == id_]
        out += _with_tracks(folder, file, images, task, own, subset, notes)
    return out


def _images_in(folder: Folder, place: PurePosixPath) -> list[str]:
    return [name for name in folder.below(str(place)) if name in folder.images]


def _with_tracks(
    folder: Folder, file: str, images: list[str], meta: Element, tracks: list[Element], subset: str, notes: list[str]
) -> list[Element]:
    """The images of one video. That of a frame is named ``frame_000007``, or is the one of this number of all."""
    sides = {side: meta.findtext(f".//original_size/{side}") or "" for side in ("width", "height")}
    own = {**sides, "subset": subset} if subset else sides
    out, frames = dict[int, Element](), dict[int, str]()
    for number, name in zip(_numbers(meta, len(images)), images):
        if found := re.fullmatch(r"frame_(\d+)", PurePosixPath(name).stem):
            number = int(found[1])
            if (first := frames.setdefault(number, name)) != name:
                what = f"'{first}' and '{name}' are both of frame {number}; lay the images of a video beside its XML"
                raise DataError(f"{folder.path / file}: {what}")
        out[number] = Element("image", {"id": str(number), "name": name, **own})
    start, stop = (meta.findtext(f".//{end}_frame") or "" for end in ("start", "stop"))
    if start.isdecimal() and stop.isdecimal() and int(start) not in frames and int(stop) + 1 in frames:
        what = f"its frames are {start} to {stop}, but there is no image of the first, and '{frames[int(stop) + 1]}'"
        fix = "CVAT counts from 0; number the images so, as ffmpeg does with -start_number 0"
        raise DataError(f"{folder.path / file}: {what} behind the last; {fix}")
    for track in tracks:
        for shape in track:
            if shape.get("outside") == "1" or shape.tag == "track":
                continue  # a skeleton has its points as tracks within
            frame = shape.get("frame") or ""
            if not frame.isdecimal() or int(frame) not in out:
                what = f"there is no image of its frame {frame}, 'frame_{frame:0>6}'; export the images too"
                raise DataError(f"{folder.path / file}, track {track.get('id')}: {what}")
            shape.set("label", track.get("label") or "")
            out[int(frame)].append(shape)
    order = {str(number): place for place, number in enumerate(sorted(out))}
    if gaps := sum(_count_gaps(track, order) for track in tracks):
        fix = "CVAT itself exports the shapes in between"
        notes.append(f"{file}: {amount(gaps, 'shape')} missing between those of a track, its keyframes; {fix}")
    return list(out.values())


def _count_gaps(track: Element, order: Mapping[str, int]) -> int:
    """How many frames between two shapes of a track have none, though the object is not out of sight there.

    Args:
        track: the shapes of one object.
        order: the number of a frame -> its place among the frames that have an image.
    """
    gaps, last = 0, None
    for shape in track:
        place = order.get(shape.get("frame") or "")
        if place is not None and last is not None and shape.tag in OBJECTS:
            gaps += max(place - last - 1, 0)
        last = None if shape.get("outside") == "1" else place
    return gaps


def _numbers(meta: Element, count: int) -> Sequence[int]:
    """The frames of so many images that are named otherwise: those of a job or of every nth frame, or from 0 on."""
    start, stop = (meta.findtext(f".//{end}_frame") or "" for end in ("start", "stop"))
    step = re.search(r"step=([1-9]\d*)", meta.findtext(".//frame_filter") or "")
    if start.isdecimal() and stop.isdecimal():
        frames = range(int(start), int(stop) + 1, int(step[1]) if step else 1)
        if len(frames) == count:
            return frames
    return range(count)


def _image(folder: Folder, entry: Element, part: str, file: str) -> LabelledImage:
    name, label = entry.get("name") or "", f"{folder.path / file}, image {entry.get('id')}"
    tops, below = (PurePosixPath(file).parent, PurePosixPath()), (f"images/{part}", part, "images", "")
    places = dict.fromkeys(str(top / where) for top in tops for where in below)
    path = folder.expected_image(name, list(places), label)
    if path not in folder.images:
        return LabelledImage(path, ())
    sides = entry.get("height"), entry.get("width")
    try:
        size = (int(sides[0] or ""), int(sides[1] or "")) if any(sides) else image_size(folder, path)
        id_ = int(entry.get("id") or "")
    except ValueError:
        raise DataError(f"{label}: its id, width or height is no whole number") from None
    ignored = sum(shape.tag in IGNORED or (shape.tag in OBJECTS and not shape.get("label")) for shape in entry)
    return LabelledImage(path, list(_objects(entry, label, size)), size, id_, ignored)


def _objects(entry: Element, place: str, size: tuple[int, int]) -> Iterator[LabelledObject]:
    for number, shape in enumerate(entry, 1):
        if shape.tag in IGNORED or not shape.get("label"):
            continue
        origin, label = f"{place}, shape {number} ({shape.tag})", shape.get("label") or ""
        degrees = rotation_of(shape.get("rotation"), origin)
        if shape.tag == "box":
            box = numbers_of(shape, ("xtl", "ytl", "xbr", "ybr"), origin)
            if degrees:
                corners = rectangle(box)
                box = extent(turned(corners, degrees, corners.mean(0)))
            yield LabelledObject(label, box, None, origin, turned=degrees != 0)
        elif shape.tag == "polygon":
            pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";")]
            yield LabelledObject(label, None, [points(pairs, origin)], origin)
        elif shape.tag == "ellipse":
            x, y, rx, ry = numbers_of(shape, ("cx", "cy", "rx", "ry"), origin)
            box, outline = ellipse((x, y), (rx, ry), degrees)
            yield LabelledObject(label, box, [outline], origin)
        elif shape.tag == "mask":
            runs = numbers((shape.get("rle") or "").split(","), origin, "rle")
            left, top, width, height = map(int, numbers_of(shape, ("left", "top", "width", "height"), origin))
            mask = placed(rows_of_runs(runs, height, width, origin), left, top, size, origin)
            yield LabelledObject(label, None, mask, origin)
        else:
            raise DataError(f"{origin}: expected {', '.join(OBJECTS)}")
