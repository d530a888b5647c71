"""Weights of matterport's Keras Mask R-CNN, under the names of its port pytorch-mask-rcnn."""

import os
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detkit.registry import DataError
from detkit.utils import path_manager
from detkit.utils.logging import first_line

_HEADS = {
    "conv1": "fpn.C1.0",
    "bn_conv1": "fpn.C1.1",
    "rpn_conv_shared": "rpn.conv_shared",
    "rpn_class_raw": "rpn.conv_class",
    "rpn_bbox_pred": "rpn.conv_bbox",
    "mrcnn_class_conv1": "classifier.conv1",
    "mrcnn_class_bn1": "classifier.bn1",
    "mrcnn_class_conv2": "classifier.conv2",
    "mrcnn_class_bn2": "classifier.bn2",
    "mrcnn_class_logits": "classifier.linear_class",
    "mrcnn_bbox_fc": "classifier.linear_bbox",
    **{f"mrcnn_mask_conv{i}": f"mask.conv{i}" for i in range(1, 5)},
    **{f"mrcnn_mask_bn{i}": f"mask.bn{i}" for i in range(1, 5)},
    "mrcnn_mask_deconv": "mask.deconv",
    "mrcnn_mask": "mask.conv5",
    **{f"fpn_c{s}p{s}": f"fpn.P{s}_conv1" for s in range(2, 6)},
    **{f"fpn_p{s}": f"fpn.P{s}_conv2.1" for s in range(2, 6)},
}
"""Keras layer -> the port's."""

_KINDS = {
    "kernel": "weight",
    "W": "weight",
    "gamma": "weight",
    "bias": "bias",
    "b": "bias",
    "beta": "bias",
    "moving_mean": "running_mean",
    "running_mean": "running_mean",
    "moving_variance": "running_var",
    "running_std": "running_var",  # which is what Keras 1 called the variance
}
"""Keras tensor -> PyTorch's."""


_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, OverflowError)
"""What h5py raises, whichever part of a file is damaged."""
_MOST_COMPRESSED = 20
"""Times that compression makes weights smaller at most; without bounds a small file could take all memory."""


def read_keras(path: str | os.PathLike[str], source: str = "") -> dict[str, Tensor]:
    """The tensors of a Keras ``.h5`` of matterport's Mask R-CNN, or of its ResNet alone, under the port's names.

    Kernels are turned: (height, width, in, out) to (out, in, height, width), those of a deconvolution likewise, and
    (in, out) of a linear layer to (out, in). A tensor of another layer keeps its path in the file as its name. Reading
    HDF5 runs no code; links to other files are not followed.

    Args:
        path: the file, or its address.
        source: the file, for messages.

    Raises:
        DataError: the file is missing, damaged, or no HDF5, or has a layer of an unexpected shape; or h5py is missing.
    """
    path = os.fspath(path)
    source = source or path
    try:
        import h5py
    except ImportError:
        raise DataError(f"{source}: Keras weights need h5py: pip install 'detkit[keras]' (or h5py)") from None
    local = path_manager.get_local_path(path)
    if not os.path.isfile(local):
        raise DataError(f"{source}: there is no such file; expected Keras weights (.h5)")
    state: dict[str, Tensor] = {}
    claimed, most = 0, os.path.getsize(local) * _MOST_COMPRESSED + (1 << 28)

    def visit(name: str, item: Any) -> None:
        """Takes one of the file's entries into ``state``."""
        nonlocal claimed
        if isinstance(item, h5py.Dataset):
            tensor = _tensor(item, f"{source}: '{name}'", most - claimed)
            if tensor is not None:
                claimed += item.nbytes
                ours = port_name(name)
                state[ours or name] = tensor if ours is None else _turned(tensor, f"{source}: '{name}'")

    try:
        with h5py.File(local, "r") as file:
            file.visititems(visit)
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(
            f"{source}: cannot be read as Keras weights ({first_line(error)}); it is damaged, incomplete, or no HDF5"
            " file. Copy or download it again"
        ) from error
    if not state:
        raise DataError(f"{source}: is HDF5, but holds no weights")
    return state


def _tensor(item: Any, place: str, most: int) -> Tensor | None:
    """The values of a dataset of numbers; None for one of other things.

    Raises:
        DataError: its values lie elsewhere, or are more than ``most`` bytes or than the file can hold.
    """
    if item.external or item.is_virtual:
        raise DataError(f"{place} keeps its values in other files, which are not read")
    if item.dtype.kind not in "fiu":
        return None
    if item.shape is None:
        raise DataError(f"{place} is an empty dataset; expected the values of a tensor")
    if item.nbytes > min(max(item.id.get_storage_size() * _MOST_COMPRESSED, 1 << 24), most):
        raise DataError(f"{place} claims a shape of {item.shape}, and the file has not its values")
    values = np.asarray(item[()])
    return torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=False))


def port_name(path: str) -> str | None:
    """The port's name of the tensor at ``path`` of the file, e.g. ``rpn_model/rpn_class_raw/kernel:0``; else None."""
    *layers, last = path.split("/")
    match = re.fullmatch(r"(?:.*_)?(kernel|W|gamma|bias|b|beta|(?:moving|running)_\w+?)(?:_\d+)?(?::0)?", last)
    kind = _KINDS.get(match[1]) if match else None
    layer = next((found for name in reversed(layers) if (found := _port_layer(name))), None)
    return None if layer is None or kind is None else f"{layer}.{kind}"


def _port_layer(name: str) -> str | None:
    block = re.fullmatch(r"(res|bn)([2-5])([a-z])_branch(1|2[abc])", name)
    if block is None:
        return _HEADS.get(name)
    what, stage, letter, branch = block.groups()
    prefix = f"fpn.C{stage}.{ord(letter) - ord('a')}"
    if branch == "1":
        return f"{prefix}.downsample.{int(what == 'bn')}"
    return f"{prefix}.{'conv' if what == 'res' else 'bn'}{'abc'.index(branch[1]) + 1}"


def _turned(tensor: Tensor, place: str) -> Tensor:
    """A Keras tensor with its axes in PyTorch's order."""
    if tensor.ndim == 4:
        return tensor.permute(3, 2, 0, 1).contiguous()
    if tensor.ndim == 2:
        return tensor.T.contiguous()
    if tensor.ndim != 1:
        raise DataError(f"{place} has shape {tuple(tensor.shape)}; expected 1, 2 or 4 axes")
    return tensor
