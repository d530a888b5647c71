"""Reading a checkpoint: tensors and plain data only, never code."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import detkit
from detkit.checkpoint.files import read_torch
from detkit.checkpoint.formats.detectron2 import coco_category_ids, zoo_class_names
from detkit.checkpoint.formats.keras import read_keras
from detkit.checkpoint.pickles import read_pickle
from detkit.checkpoint.sharded import read_sharded
from detkit.config import ForeignConfig
from detkit.registry import DataError
from detkit.structures import KeypointSpec
from detkit.utils import path_manager
from detkit.utils.file_checks import is_safetensors
from detkit.utils.transfer import DownloadError
from detkit.zoo import SCHEMES, shown

_ANYWHERE = "module|model|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module"
_WRAPPERS = re.compile(rf"^(net|network|detector)\.|(^|(?<=\.))({_ANYWHERE})\.")
"""What is added to names by DistributedDataParallel, torch.compile and the like, wherever the wrapped part stands, and
by modules of Lightning and the like before every name."""


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
    places = _places(content)
    usual = [key for key in _KEYS if isinstance(content.get(key), Mapping)]
    averages = [key for key in places if "ema" in key or "averag" in key]
    chosen = place or next((found for key in usual for found in places if found.partition(".")[0] == key), "")
    if not chosen and not usual:
        chosen = next((key for key in places if key not in averages), next(iter(places), ""))
    if place and place not in places:  # the beginning of names, such as student, instead of a key
        flat = {plain_name(str(name)): v for name, v in next((content[key] for key in usual), content).items()}
        behind = {n.removeprefix(f"{place}."): v for n, v in flat.items() if n.startswith(f"{place}.")}
        places |= {place: behind} if behind else {}
    if place and place not in places:
        raise DataError(
            f"{source}: has no weights under '{place}'; there are some under {', '.join(places) or 'no key'}"
        )
    state = places[chosen] if chosen else content[usual[0]] if usual else content
    _check_state(state, content, source)
    model = _unwrapped(state, source)
    names, ids = content.get("class_names"), content.get("category_ids")
    config = _mapping(content.get("config"))
    ours = "detkit_version" in content  # Detectron2's training checkpoints have a "trainer" too
    zoo_names = None if isinstance(names, list | tuple) else zoo_class_names(content)
    known_ids = tuple(ids) if ours and isinstance(ids, list | tuple) and set(map(type, ids)) == {int} else None
    return Checkpoint(
        model=model,
        class_names=tuple(str(n) for n in names) if isinstance(names, list | tuple) else zoo_names,
        category_ids=coco_category_ids()[: len(zoo_names)] if zoo_names else known_ids,
        keypoints=_keypoints(content.get("keypoints"), source) if ours else None,
        config=ForeignConfig(config, Path(source).parent) if ours and config is not None else None,
        trainer=_mapping(content.get("trainer")) if ours else None,
        source=source,
        others=tuple(
            key
            for key, other in places.items()
            if key != chosen and len({*map(plain_name, other)} & model.keys()) * 2 > len(model)
        ),
    )


_KEYS = ("model", "state_dict", "blobs")
"""What the weights usually stand under; else they stand at the top, or under the one key that holds a state dict."""


def _places(content: Mapping[Any, Any]) -> dict[str, Mapping[Any, Any]]:
    """The state dicts under one key or two of a file, by those keys."""
    places: dict[str, Mapping[Any, Any]] = {}
    for key, value in content.items():
        if not isinstance(value, Mapping) or not isinstance(key, str):
            continue
        if _is_state(value):
            places[key] = value
        inner = {name: v for name, v in value.items() if isinstance(name, str) and _is_state(v)}
        places |= {f"{key}.{name}": inner[name] for name in ("module", *_KEYS) if name in inner}
    return places


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _check_state(state: Mapping[Any, Any], content: Mapping[Any, Any], source: str) -> None:
    """Raises DataError unless this is a state dict of tensors that a model can take."""
    others = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        what = f"'{others[0]}' is not a tensor" if others else "it is empty"
        raise DataError(
            f"{source}: is not a checkpoint ({what}); expected a state dict at the top or under one of"
            f" {', '.join(map(repr, _KEYS))}. Its keys are {', '.join(map(str, list(content)[:6])) or 'none'}"
        )
    for name, value in state.items():
        if not isinstance(name, str):
            raise DataError(f"{source}: a tensor's name is {name!r:.40}; expected text, as model.state_dict() has it")
        kind = _unusual(value)
        if kind:
            raise DataError(
                f"{source}: the tensor '{name}' is {kind}; expected a plain one. Save what to_dense(), dequantize() or"
                " real makes of it"
            )


def _unusual(tensor: Tensor) -> str:
    """What keeps a tensor from being copied into a weight; "" where nothing does."""
    if tensor.is_meta:
        return "without values (meta)"
    if tensor.layout is not torch.strided or tensor.is_nested:
        return "sparse or nested"
    if tensor.numel() * tensor.element_size() > max(tensor.untyped_storage().nbytes(), 1 << 26):
        return f"of shape {tuple(tensor.shape)} with the values of fewer"
    return "quantised" if tensor.is_quantized else "complex" if tensor.is_complex() else ""


def _keypoints(value: Any, source: str) -> KeypointSpec | None:
    try:
        return KeypointSpec.from_coco(value) if isinstance(value, Mapping) else None
    except (KeyError, ValueError) as error:
        raise DataError(f"{source}: what it says of keypoints is damaged ({error}); take another checkpoint") from None


def _mapping(value: Any) -> dict[str, Any] | None:
    return dict(value) if isinstance(value, Mapping) else None


def plain_name(name: str) -> str:
    """A tensor's name without what wrappers of a model, or of a part of it, have added."""
    while (shorter := _WRAPPERS.sub("", name)) != name:
        name = shorter
    return name


def under_names_of(names: Iterable[str], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict that was read, with a model's own ``names`` where they differ from their ``plain_name``: a part of
    the model may be compiled, or called "model"."""
    own = {plain_name(name): name for name in names}
    return {own.get(name, name): tensor for name, tensor in state.items()}


def _unwrapped(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    names: dict[str, Tensor] = {}
    for name, tensor in state.items():
        first = names.setdefault(plain_name(name), tensor)
        if first is not tensor and not (first.shape == tensor.shape and torch.equal(first, tensor)):
            raise DataError(f"{source}: has two tensors for '{plain_name(name)}', as of two models; save one's alone")
    names.pop("n_averaged", None)  # AveragedModel's counter
    return names
