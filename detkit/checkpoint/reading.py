"""Reading a checkpoint: tensors and plain data only, never code."""

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import detkit
from detkit.checkpoint.files import read_torch
from detkit.checkpoint.formats.detectron2 import coco_category_ids, zoo_class_names
from detkit.checkpoint.formats.keras import read_keras
from detkit.checkpoint.pickles import read_pickle
from detkit.checkpoint.sharded import read_sharded
from detkit.checkpoint.state_dicts import find_state_dict
from detkit.config import ForeignConfig
from detkit.registry import DataError
from detkit.structures import KeypointSpec
from detkit.utils import path_manager
from detkit.utils.file_checks import is_safetensors
from detkit.utils.transfer import DownloadError
from detkit.zoo import SCHEMES, shown


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Args:
        model: state dict, on the CPU, without the prefixes of wrapped models.
        class_names: the names of the classes that the model was trained on, where they are known.
        category_ids: the ids that these classes have in the data's files, where they are known.
        keypoints: what the keypoints are that the model gives, where it gives some and that is known.
        config: the complete config of the run as plain mappings and lists; None where another program wrote the file.
        trainer: the trainer's state; None in weights that are only for use, and where another program wrote the file.
        source: the file, for messages.
        others: where in the file other weights of the same names stand, such as moving averages: ``model_ema``.
    """

    model: dict[str, Tensor]
    class_names: tuple[str, ...] | None = None
    category_ids: tuple[int, ...] | None = None
    keypoints: KeypointSpec | None = None
    config: dict[str, Any] | None = None
    trainer: dict[str, Any] | None = None
    source: str = "state dict"
    others: tuple[str, ...] = ()

    def content(self) -> dict[str, Any]:
        """The plain mapping to write to a file, from which ``as_checkpoint`` makes the checkpoint again."""
        content: dict[str, Any] = {
            "model": self.model,
            "class_names": None if self.class_names is None else list(self.class_names),
            "config": None if self.config is None else dict(self.config),
            "detkit_version": detkit.__version__,
        }
        if self.category_ids is not None:
            content["category_ids"] = list(self.category_ids)
        if self.keypoints is not None:
            content["keypoints"] = self.keypoints.coco()
        if self.trainer is not None:
            content["trainer"] = self.trainer
        return content


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in a local file, at an address or of a name, or in the folder of a sharded one (of FSDP).

    Names are those of ``detkit.zoo``: ``torchvision://MaskRCNN_ResNet50_FPN_Weights.COCO_V1``, ``hf://org/repo``, ...

    Besides detkit's own checkpoints this takes what other frameworks write: any file of ``torch.save`` with a plain
    state dict, at its top, under ``"model"`` or ``"state_dict"``, or where else one stands (``weights.pth#model_ema``
    takes the one under that key, or what stands behind that prefix); a pickle (``.pkl``) of numpy arrays, of Detectron2
    or, under ``"blobs"`` or at its top, of Caffe2; safetensors; and matterport's Keras weights (HDF5; needs
    ``detkit[keras]``).
    Names lose what wrappers of a model or of a part have added; ``load_weights`` translates those of other frameworks.
    The content decides what a file is, not its extension.

    Nothing of a file is ever run: torch's are unpickled with ``weights_only=True``, others by ``read_pickle``.

    Raises:
        DataError: there is no such file, it cannot be read, holds other objects than arrays, tensors and plain data
            (the message names one), or is not a checkpoint. The message names the file and the fix.
    """
    local, source, place = find_weights(path)
    if os.path.isdir(local):
        return as_checkpoint(read_sharded(Path(local)), source)
    try:
        content = _content(local, source)
    except DataError as error:
        if "://" not in source:
            raise
        raise DataError(f"{error}. What was fetched is {local}; remove it to fetch it again") from error
    return as_checkpoint(content, source, place)


def find_weights(path: str | os.PathLike[str]) -> tuple[str, str, str]:
    """The local file or folder that ``read_checkpoint`` reads, fetched where it has an address; what messages call it;
    and the key in it that ``path`` names, or "".

    Raises:
        DataError: there is none, or it cannot be fetched.
    """
    source = os.path.expanduser(os.fspath(path))
    address, _, place = (source, "", "") if os.path.exists(source) else source.partition("#")
    source = shown(source)
    try:
        local = path_manager.get_local_path(address)
    except DownloadError as error:
        raise DataError(str(error)) from error
    except Exception as error:  # a handler of the user's fails in as many ways as there are networks
        raise DataError(
            f"{source}: could not be fetched ({error}); check the address, or download it by hand"
        ) from error
    if not os.path.isfile(local) and not os.path.isdir(local):
        hint = f"; of addresses, {', '.join(SCHEMES)} are read: download it by hand" if "://" in source else ""
        raise DataError(f"{source}: there is no such file; expected weights written by a run or by torch.save{hint}")
    return local, source, place


_ZIP, _HDF5 = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"
_OLD_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""The number that torch.save begins its first pickle with in the format from before its 1.6."""


_OTHERS = [
    (re.compile(rb"\Z"), "is an empty file: copy or download it again"),
    (re.compile(rb"\s*<(!doctype|html|\?xml)", re.I), "is a web page, no weights: look at the address in a browser"),
    (re.compile(rb"version https://git-lfs"), "only says where git-lfs keeps the weights: run 'git lfs pull' there"),
]
"""How files begin that are taken for weights by mistake, and what to do."""


def _content(local: str, source: str) -> Any:
    with open(local, "rb") as file:
        head = file.read(64)
    if head.startswith(_HDF5):
        return read_keras(local, source)
    if head.startswith(_ZIP) or _OLD_TORCH in head:
        return read_torch(local, source)
    if is_safetensors(local):
        try:
            return load_file(local)
        except (SafetensorError, OSError, ValueError) as error:
            raise DataError(f"{source}: is a damaged safetensors file ({error}); copy or download it again") from error
    for kind, what in _OTHERS:
        if kind.match(head):
            raise DataError(f"{source}: {what}")
    with open(local, "rb") as file:
        return read_pickle(file.read(), source)


def as_checkpoint(content: Any, source: str = "state dict", place: str = "") -> Checkpoint:
    """Loaded content, of whatever nesting ``read_checkpoint`` takes, as a ``Checkpoint``.

    Args:
        content: what a file holds.
        source: the file, for messages.
        place: the key, or keys joined by dots, that the weights stand under; "" takes the usual ones.

    Raises:
        DataError: it holds no weights, none at ``place``, or some that are no plain tensors under plain names.
    """
    if not isinstance(content, Mapping):
        raise DataError(f"{source}: expected a mapping with the weights, got {type(content).__name__}")
    state, others = find_state_dict(content, source, place)
    return dataclasses.replace(_without_weights(content, source), model=state, others=others)


def _without_weights(content: Mapping[Any, Any], source: str) -> Checkpoint:
    """What a file says besides its weights; of other programs' files the classes alone."""
    names, ids = content.get("class_names"), content.get("category_ids")
    class_names = tuple(str(name) for name in names) if isinstance(names, list | tuple) else None
    zoo_names = zoo_class_names(content) if class_names is None else None
    if "detkit_version" not in content:  # Detectron2's training checkpoints have a "trainer" too
        known_ids = None if zoo_names is None else coco_category_ids()[: len(zoo_names)]
        return Checkpoint({}, zoo_names if class_names is None else class_names, category_ids=known_ids, source=source)
    config = _mapping(content.get("config"))
    return Checkpoint(
        {},
        class_names,
        category_ids=tuple(ids) if isinstance(ids, list | tuple) and set(map(type, ids)) == {int} else None,
        keypoints=_keypoints(content.get("keypoints"), source),
        config=None if config is None else ForeignConfig(config, Path(source).parent),
        trainer=_mapping(content.get("trainer")),
        source=source,
    )


def _keypoints(value: Any, source: str) -> KeypointSpec | None:
    try:
        return KeypointSpec.from_coco(value) if isinstance(value, Mapping) else None
    except (KeyError, ValueError) as error:
        raise DataError(f"{source}: what it says of keypoints is damaged ({error}); take another checkpoint") from None


def _mapping(value: Any) -> dict[str, Any] | None:
    return dict(value) if isinstance(value, Mapping) else None
