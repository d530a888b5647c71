"""Reading pickles of numpy arrays without ever running what they name.

A pickle is a program: it may name any function and have it called. ``Unpickler.find_class`` below looks names up in an
allow-list, whose entries build arrays of numbers from arguments that they check; nothing is imported, and no function
of numpy is called. What a program may take of memory and of the stack is bounded before any of it is carried out.
"""

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detkit.registry import DataError
from detkit.utils.file_checks import MAX_DEPTH, Refused, check_bounds
from detkit.utils.logging import first_line

_DTYPES = {f"{np.dtype(c).kind}{np.dtype(c).itemsize}": np.dtype(c) for c in "?bhilqBHILQefdFD"}


class _DType:
    """A type of numbers; its state, which follows it in the pickle, has the byte order."""

    def __init__(self, code: Any, *_: Any):
        name = code.decode("ascii", "replace") if isinstance(code, bytes) else code
        self.value = _DTYPES.get(name.lstrip("<>=|")) if isinstance(name, str) else None
        if self.value is None:
            raise Refused(f"numpy.dtype({_shown(code)}), which is no type of numbers")
        self._set_order(name[0])

    def __setstate__(self, state: Any) -> None:
        self._set_order(state[1])

    def _set_order(self, mark: Any) -> None:
        if mark in ("<", ">") and self.value is not None:
            self.value = self.value.newbyteorder(mark)


class _Array:
    """An array; its state, which follows it in the pickle, has shape, type, order and bytes."""

    tensor: Tensor | None = None

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        shape, dtype, fortran, raw = state[-4:]
        self.tensor = _numbers(raw, dtype, shape, "F" if fortran else "C")


class _Function:
    """A function of the allow-list, which can be called and not changed."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise Refused("attributes on a function")


def _numbers(raw: Any, dtype: Any, shape: Any, order: Any = "C") -> Tensor:
    """A new tensor. Python 2 wrote the bytes as a string: each character is one."""
    if not isinstance(dtype, _DType) or dtype.value is None:
        raise Refused("a numpy array of objects")
    content = raw.encode("latin1") if isinstance(raw, str) else bytes(memoryview(raw))
    if type(shape) is not tuple or len(shape) > 64 or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise ValueError("an array's shape is no tuple of a few numbers")
    if math.prod(shape) * dtype.value.itemsize != len(content):
        raise ValueError(f"an array of shape {shape} has {len(content)} bytes")
    array = np.frombuffer(content, dtype.value).reshape(shape, order="F" if order == "F" else "C")
    return torch.from_numpy(array.astype(dtype.value.newbyteorder("="), order="C"))


def _encode(text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise Refused(f"_codecs.encode with {_shown(encoding)}")
    return text.encode("latin1")


def _shown(value: Any) -> str:
    """A text as it is, and of any other value its type alone: showing one may take forever."""
    return f"{value!r:.40}" if isinstance(value, str | bytes) else type(value).__name__


def _scalar(dtype: Any, raw: Any) -> Tensor:
    return _numbers(raw, dtype, ())


PICKLED_NUMPY: dict[str, Any] = {"numpy.dtype": _DType, "numpy.core.multiarray.scalar": _scalar}
"""What stands in for numpy's own where torch reads a number of numpy's beside weights."""

_ALLOWED: dict[str, Any] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _DType,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _Function(_scalar),
    "numpy.core.numeric._frombuffer": _Function(_numbers),
    "_codecs.encode": _Function(_encode),
    "collections.OrderedDict": OrderedDict,
    "builtins.bytes": _Function(lambda: b""),
    "builtins.set": set,
    "builtins.frozenset": frozenset,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The entry of the allow-list; raises Refused for every other name."""
        module = "builtins" if module == "__builtin__" else module  # as Python 2 called it
        try:
            return _ALLOWED[f"{module}.{name}".replace("numpy._core.", "numpy.core.")]
        except KeyError:
            raise Refused(f"{module}.{name}") from None


def read_pickle(content: bytes, source: str) -> Any:
    """Reads a pickle of numpy arrays and plain containers; tensors take the place of arrays and scalars.

    Strings that Python 2 wrote are taken as latin-1.

    Args:
        content: the file's bytes.
        source: the file, for messages.

    Raises:
        DataError: it names anything else than numpy's arrays and plain containers (the message says what), is nested
            too deeply, is damaged, or is no pickle. Nothing of it has run.
    """
    try:
        check_bounds(io.BytesIO(content))
        return _plain(_Unpickler(io.BytesIO(content), encoding="latin1").load(), {}, 0)
    except Refused as error:
        raise refusal(source, str(error)) from error
    except Exception as error:  # a damaged program fails in as many ways as there are instructions
        raise DataError(
            f"{source}: cannot be read as a checkpoint ({_reason(error)}); it is damaged, was not written"
            " completely, or is no file of weights. Copy or download it again; weights are read from .pth of"
            " torch.save, .pkl of numpy arrays and .h5"
        ) from error


def refusal(source: str, what: str) -> DataError:
    """The error for a file that holds ``what`` instead of arrays and plain data, with the fix."""
    return DataError(
        f"{source}: holds {what}. Weights are read from arrays and plain data alone; Python objects are never unpickled"
        " because that runs code, and nothing of the file was run. If you trust where it comes from, save its tensors"
        " alone with the program that wrote it: torch.save({'model': model.state_dict()}, path)"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError | EOFError | IndexError):  # which say nothing by themselves
        return "it ends too early" if isinstance(error, EOFError) else "it is no pickle, or one with errors"
    return first_line(error)[:200]


def _plain(value: Any, done: dict[int, Any], depth: int) -> Any:
    """A copy with tensors for arrays. What several places share is copied once, so that no file grows by unfolding."""
    if id(value) in done:
        return done[id(value)]
    if depth > MAX_DEPTH:
        raise ValueError(f"its containers are nested more than {MAX_DEPTH} deep")
    if isinstance(value, _Array):
        if value.tensor is None:
            raise ValueError("an array without content")
        return value.tensor
    if isinstance(value, dict):
        result: Any = {_key(key): _plain(item, done, depth + 1) for key, item in value.items()}
    elif isinstance(value, set | frozenset):
        result = type(value)(map(_key, value))
    elif isinstance(value, list | tuple):
        result = type(value)(_plain(item, done, depth + 1) for item in value)
    elif isinstance(value, type | _Function):
        raise Refused("the name of a class or function alone, which is no array")
    else:
        return str(value.value) if isinstance(value, _DType) else value
    done[id(value)] = result
    return result


def _key(key: Any) -> Any:
    """A key of a dictionary or member of a set; raises Refused for one that is not plain."""
    if not isinstance(key, str | bytes | int | float | None):
        raise Refused(f"a key that is a {type(key).__name__}")
    return key
