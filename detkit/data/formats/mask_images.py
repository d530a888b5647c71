"""MaskImagesDataset: objects as images of ids, or a mask image an object."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from detkit.data.formats.content import Content, LabelledImage, LabelledObject, values_of
from detkit.data.formats.dataset import FormatDataset
from detkit.data.formats.files import Folder, part_of
from detkit.data.interfaces import DATASETS
from detkit.registry import DataError

IDS = ("masks", "instances", "instance_masks", "labels")
"""Folders of images of ids."""
SUFFIX = re.compile(r"[_-](masks?|inst(ances?)?(_?ids?)?|labels?|ids?|seg|gt)$", re.IGNORECASE)
"""What tools put behind the name of an image in the name of its mask."""


@DATASETS.register()
class MaskImagesDataset(FormatDataset):
    """Masks as images: ``images`` beside ``masks`` (or ``instances``) of ids, or ``<id>/{images,masks}`` of objects.

    Parts are told by the folders above or below these.

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
        masks = _id_masks(folder)
        return f"{len(masks)} images of ids, such as {next(iter(masks))}" if masks else None

    @classmethod
    def parts(cls, folder: Folder) -> Mapping[str, Any]:
        single = _of_single_objects(folder)
        out: dict[str, dict[str, Any]] = {}
        for name, masks in (single or _id_masks(folder)).items():
            above = str(PurePosixPath(name).parents[2] / "x") if single else name  # names of images may be words
            out.setdefault(part_of(above, own_name=False), {})[name] = masks
        return out

    @classmethod
    def read(cls, folder: Folder, parts: Mapping[str, Any]) -> Content:
        found = {name: masks for part in parts.values() for name, masks in part.items()}
        if not found:
            raise DataError(f"{folder.path}: no folder of masks beside its images; expected one of {', '.join(IDS)}")
        if _of_single_objects(folder):
            name = "nucleus" if all(image.count("/") == 2 for image in found) else "object"
            return Content.of_images(folder, _singles(folder, found, name), [name])
        names = _names(folder)
        return Content.of_images(folder, _of_ids(folder, found, names), list(names.values()) or ["object"])


def _of_single_objects(folder: Folder) -> dict[str, list[str]]:
    """Image -> its mask files, where a folder ``<id>/images`` holds one image."""
    out: dict[str, list[str]] = {}
    for name in folder.images:
        parts = PurePosixPath(name).parts
        if len(parts) >= 3 and parts[-2] == "images" and parts[-3] == PurePosixPath(name).stem:
            base = "/".join(parts[:-2])
            out[name] = [mask for mask in folder.below(f"{base}/masks") if mask in folder.images]
    return out


def _id_masks(folder: Folder) -> dict[str, str]:
    """Mask -> its folder of images: that which stands beside the first of ``IDS`` that is there."""
    for kind in IDS:
        out: dict[str, str] = {}
        for name in folder.images:
            parts = PurePosixPath(name).parts[:-1]
            if kind in parts:
                at = len(parts) - 1 - parts[::-1].index(kind)
                images = "/".join((*parts[:at], "images", *parts[at + 1 :]))
                if folder.below(images):
                    out[name] = images
        if out:
            return out
    return {}


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
    if "classes.json" not in folder.files:
        return {}
    content = folder.json("classes.json")
    try:
        found = dict(enumerate(content)) if isinstance(content, list) else {int(k): v for k, v in content.items()}
    except (AttributeError, TypeError, ValueError):
        raise DataError(f"{folder.path / 'classes.json'}: expected a mapping of class numbers to names") from None
    return {number: str(name) for number, name in sorted(found.items()) if number}


def _of_ids(folder: Folder, masks: Mapping[str, str], names: Mapping[int, str]) -> Iterator[LabelledImage]:
    for name, images in masks.items():
        stem, ids = PurePosixPath(name).stem, folder.mask(name)
        stems = (stem, SUFFIX.sub("", stem))
        found = (folder.image_of_stem(stem, "images", f"{images}/x") for stem in stems)
        image = next((image for image in found if image and image not in masks), None)
        if image is None:
            raise DataError(f"{folder.path / name}: there is no image of this name in '{images}'")
        if ids.ndim == 3 and (ids[..., :3] == ids[..., :1]).all():  # greys that a tool saved as colours
            ids = ids[..., 0]
        if ids.ndim == 3:
            raise DataError(f"{folder.path / name}: has colours; expected one channel of ids, or a palette")
        class_file = f"{images}/{stem}.png".replace("images", "classes", 1)
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
