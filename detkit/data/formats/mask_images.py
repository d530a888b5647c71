"""MaskImagesDataset: objects as images of ids, or a mask image an object."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from detkit.data.formats.content import Content, LabelledImage, LabelledObject, values_of
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder
from detkit.data.formats.parts import grouped, part_of
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError

IDS = ("masks", "instances", "instance_masks", "labels", "annotations")
"""Folders of images of ids; so is one that is named as a folder of images with one of ``SUFFIX`` behind."""
IMAGES = ("images", "JPEGImages", "imgs", "image", "img")
"""Folders of images that may stand beside them."""
SUFFIX = re.compile(r"[_-](masks?|inst(ances?)?(_?ids?)?|labels?|ids?|seg|gt)$", re.IGNORECASE)
"""What tools put behind the name of an image in the name of its mask."""


@DATASETS.register()
class MaskImagesDataset(FormatDataset):
    """Masks as images: ``images`` beside ``masks`` (or ``instances``, DAVIS's ``Annotations``) of ids, or of objects.

    Those of objects lie in ``<id>/{images,masks}`` or ``masks/<image>``. Parts are told by the folders above or below.

    In an image of ids (also a palette) 0 is the background and each other value one object, of however many pieces.
    ``classes/*.png`` beside it and ``classes.json`` (``{"1": name}``) give the classes; without them all objects are of
    one. Options are those of ``FormatDataset``.
    """

    key = "mask_images"
    is_general = True
    format = "mask images"

    @classmethod
    def recognise(cls, folder: Folder) -> str | None:
        single = len(_of_single_objects(folder))
        if single:
            return f"{single} images with a mask file an object"
        masks = _id_masks(folder)
        return f"{len(masks)} images of ids, such as {next(iter(masks))}" if masks else None

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        single = _of_single_objects(folder)
        out: dict[str, dict[str, Any]] = {}
        for name, masks in (single or _id_masks(folder)).items():
            path = PurePosixPath(name)
            above = str(path.parents[2] / "x") if _has_own_folder(path) else name  # names of images may be words
            out.setdefault(part_of(above, own_name=False), {})[name] = masks
        return out

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        found = {name: masks for part in parts.values() for name, masks in part.items()}
        if not found:
            raise DataError(f"{folder.path}: no folder of masks beside its images; expected one of {', '.join(IDS)}")
        if _of_single_objects(folder):
            nuclei = all(image.count("/") == 2 and _has_own_folder(PurePosixPath(image)) for image in found)
            name = "nucleus" if nuclei else "object"
            return Content.of_images(folder, _singles(folder, found, name), [name])
        names = _names(folder)
        return Content.of_images(folder, _of_ids(folder, found, names), list(names.values()) or ["object"])


def _has_own_folder(image: PurePosixPath) -> bool:
    """Whether it lies in ``<id>/images`` and has this id as its name."""
    return image.parts[-3:-1] == (image.stem, "images")


def _of_single_objects(folder: Folder) -> dict[str, list[str]]:
    """Image -> its mask files, where each is of one object."""
    out: dict[str, list[str]] = {}
    for name in folder.images:
        path = PurePosixPath(name)
        if "images" in path.parts[:-1]:
            at = len(path.parts) - 1 - path.parts[::-1].index("images")
            masks = path.parents[1] / "masks" if _has_own_folder(path) else _beside(path.with_suffix(""), at, "masks")
            out[name] = [mask for mask in folder.below(str(masks)) if mask in folder.images]
    return out if any(out.values()) or any(_has_own_folder(PurePosixPath(name)) for name in out) else {}


def _beside(path: PurePosixPath, at: int, word: str) -> PurePosixPath:
    """The path with another folder at a place."""
    return PurePosixPath(*path.parts[:at], word, *path.parts[at + 1 :])


def _id_masks(folder: Folder) -> dict[str, tuple[str, str]]:
    """Mask -> its folders of images and of classes, which stand beside the first of ``IDS`` that is there."""
    images = grouped(folder.images, os.path.dirname)
    for kind in (*IDS, ""):
        found = {above: _folders_beside(folder, PurePosixPath(above), kind) for above in images}
        if masks := {name: places for above, places in found.items() if places for name in images[above]}:
            return masks
    return {}


def _folders_beside(folder: Folder, above: PurePosixPath, kind: str) -> tuple[str, str] | None:
    """The folders of images and of classes beside a folder of masks; None where it is none of this kind."""
    at = max((i for i, part in enumerate(above.parts) if _kind(part) == kind), default=None)
    if at is None:
        return None
    words = IMAGES if kind else (SUFFIX.sub("", above.parts[at]),)
    images = next(filter(folder.has_below, (str(_beside(above, at, word)) for word in words)), None)
    return None if images is None else (images, str(_beside(above, at, "classes")))


def _kind(part: str) -> str | None:
    """Which of ``IDS`` a folder is; "" for one that is named as its images with a word behind, None for any other."""
    return part.lower() if part.lower() in IDS else "" if SUFFIX.search(part) else None


def _singles(folder: Folder, images: Mapping[str, list[str]], label: str) -> Iterator[LabelledImage]:
    for image, masks in images.items():
        things = []
        for name in masks:
            values = folder.mask(name)
            on = (values[..., :3] if values.ndim == 3 else values[..., None]).max(2) > 0
            if not on.any():
                raise DataError(f"{folder.path / name}: the mask has no pixel; remove it")
            things.append(LabelledObject(label, None, on, str(folder.path / name)))
        yield LabelledImage(image, things)


def _names(folder: Folder) -> dict[int, str]:
    """Class number -> name of ``classes.json``; empty without it."""
    file = min(folder.glob("classes.json"), key=lambda name: name.count("/"), default=None)
    if file is None:
        return {}
    content = folder.json(file)
    try:
        found = dict(enumerate(content)) if isinstance(content, list) else {int(k): v for k, v in content.items()}
    except (AttributeError, TypeError, ValueError):
        raise DataError(f"{folder.path / file}: expected a mapping of class numbers to names") from None
    return {number: str(name) for number, name in sorted(found.items()) if number}


def _of_ids(folder: Folder, masks: Mapping[str, tuple[str, str]], names: Mapping[int, str]) -> Iterator[LabelledImage]:
    images: dict[str, dict[str, str]] = {}  # folder -> stem -> image; a class mask has the name of an image too
    for near, _ in masks.values():
        if near not in images:
            below = sorted(folder.below(near), key=lambda path: -path.count("/"))  # the nearest counts
            images[near] = {PurePosixPath(p).stem: p for p in below if p in folder.images and p not in masks}
    for name, (near, beside) in masks.items():
        stem = PurePosixPath(name).stem
        stems = (stem, SUFFIX.sub("", stem))
        image = next((images[near][stem] for stem in stems if stem in images[near]), None)
        if image is None:
            raise DataError(f"{folder.path / name}: there is no image of this name in '{near}'")
        ids, classes = _one_channel(folder, name), None
        if names:
            files = [f"{beside}/{stem}.png" for stem in stems]
            file = next((file for file in files if file in folder.files), None)
            if file is None and len(names) > 1:
                what = f"there is no '{files[0]}', which would say which of the classes of classes.json its objects are"
                raise DataError(f"{folder.path / name}: {what}")
            classes = None if file is None else _one_channel(folder, file)
            if classes is not None and classes.shape != ids.shape:
                raise DataError(f"{folder.path / str(file)}: is of another size than '{name}'")
        yield LabelledImage(image, list(_objects(ids, classes, names, str(folder.path / name))))


def _one_channel(folder: Folder, name: str) -> np.ndarray:
    values = folder.mask(name)
    if values.ndim == 3 and (values[..., :3] == values[..., :1]).all():  # greys that a tool saved as colours
        values = values[..., 0]
    if values.ndim == 3:
        raise DataError(f"{folder.path / name}: has colours; expected one channel of ids, or a palette")
    return values


def _objects(
    ids: np.ndarray, classes: np.ndarray | None, names: Mapping[int, str], place: str
) -> Iterator[LabelledObject]:
    values = values_of(ids, place)
    if len(values) > 2 and place.lower().endswith((".jpg", ".jpeg")):
        raise DataError(f"{place}: is a JPEG, whose pixels are not exactly the ids; give the mask as a PNG")
    for value in values:
        if not value:
            continue
        mask, origin = ids == value, f"{place}, id {value}"
        label = next(iter(names.values()), "object")
        if classes is not None:
            number = int(np.bincount(classes[mask]).argmax())
            if number not in names:
                raise DataError(f"{origin}: is of class {number}; expected one of {', '.join(map(str, names))}")
            label = names[number]
        yield LabelledObject(label, None, mask, origin)
