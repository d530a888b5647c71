"""MaskImagesDataset: objects as images of ids, or a mask image an object."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from detkit.data.formats.content import Content, LabelledImage, LabelledObject, values_of
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError

IDS = ("masks", "instances", "instance_masks", "labels")
"""Folders of images of ids."""


@DATASETS.register()
class MaskImagesDataset(FormatDataset):
    """Masks as images: ``images`` beside ``masks`` (or ``instances``) of ids, or ``<id>/{images,masks}`` of objects.

    In an image of ids (also a palette) 0 is the background and each other value one object, of however many pieces.
    ``classes/*.png`` beside it and ``classes.json`` (``{"1": name}``) give the classes; without them all objects are of
    ``class_name``. Options are those of ``FormatDataset``.
    """

    key = "mask_images"
    is_general = True
    format = "mask images"

    @classmethod
    def recognise(cls, folder: Folder) -> str | None:
        single = len(_of_single_objects(folder))
        if single:
            return f"{single} images with a mask file an object"
        names = _id_folder(folder)
        return f"images of ids in {names}" if names is not None else None

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        single = _of_single_objects(folder)
        if single:
            name = "nucleus" if all(image.count("/") == 2 for image in single) else "object"
            return Content.of_images(folder, _singles(folder, single, name), [name])
        where = _id_folder(folder)
        if where is None:
            raise DataError(f"{folder.path}: no folder of masks beside its images; expected one of {', '.join(IDS)}")
        names = _names(folder)
        return Content.of_images(folder, _of_ids(folder, where, names), list(names.values()) or ["object"])


def _of_single_objects(folder: Folder) -> dict[str, list[str]]:
    """Image -> its mask files, where a folder ``<id>/images`` holds one image."""
    out: dict[str, list[str]] = {}
    for name in folder.images:
        parts = PurePosixPath(name).parts
        if len(parts) >= 3 and parts[-2] == "images" and parts[-3] == PurePosixPath(name).stem:
            base = "/".join(parts[:-2])
            out[name] = [mask for mask in folder.below(f"{base}/masks") if mask in folder.images]
    return out


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


def _id_folder(folder: Folder) -> str | None:
    for name in IDS:
        if any(True for _ in folder.below("images")) and any(file in folder.images for file in folder.below(name)):
            return name
    return None


def _names(folder: Folder) -> dict[int, str]:
    """Class number -> name of ``classes.json``; empty without it."""
    if "classes.json" not in folder.files:
        return {}
    content = folder.json("classes.json")
    try:
        found = dict(enumerate(content)) if isinstance(content, list) else {int(k): v for k, v in content.items()}
    except (AttributeError, TypeError, ValueError):
        raise DataError(f"{folder.path / 'classes.json'}: expected a mapping of class numbers to names") from None
    return {number: str(name) for number, name in sorted(found.items()) if number}


def _of_ids(folder: Folder, where: str, names: Mapping[int, str]) -> Iterator[LabelledImage]:
    for name in folder.below(where):
        if name not in folder.images:
            continue
        stem = PurePosixPath(name).stem
        image, ids = folder.image_of_stem(stem, "images"), folder.mask(name)
        if image is None or image == name:
            raise DataError(f"{folder.path / name}: there is no image of this name in 'images'")
        if ids.ndim == 3:
            raise DataError(f"{folder.path / name}: has colours; expected one channel of ids, or a palette")
        class_file = f"classes/{stem}.png"
        classes = folder.mask(class_file) if class_file in folder.files and names else None
        yield LabelledImage(image, list(_objects(ids, classes, names, str(folder.path / name))))


def _objects(
    ids: np.ndarray, classes: np.ndarray | None, names: Mapping[int, str], place: str
) -> Iterator[LabelledObject]:
    for value in values_of(ids, place):
        if not value:
            continue
        mask, origin = ids == value, f"{place}, id {value}"
        label = next(iter(names.values()), "object")
        if classes is not None:
            number = int(np.bincount(classes[mask].reshape(-1)).argmax())
            if number not in names:
                raise DataError(f"{origin}: is of class {number}; expected one of {', '.join(map(str, names))}")
            label = names[number]
        yield LabelledObject(label, None, mask, origin)
