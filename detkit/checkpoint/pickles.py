"""Reading pickles of numpy arrays without ever running what they ask for.

A pickle is a program for a stack machine: it may name any function and have it called. This reader keeps the machine
of the standard library, whose plain instructions (numbers, strings, containers) harm nobody, and takes away the rest.
A name is looked up in the table below and becomes a token that cannot be called; the few calls that numpy's arrays
are written with are carried out by functions of this module, on arguments that they check. Nothing is imported.
"""

import enum
import io
import math
import pickle
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NoReturn

import numpy as np
import torch

from detkit.registry import DataError

_MAX_DEPTH = 50


class _Name(enum.Enum):
    """What a pickle may name."""

    ARRAY_TYPE = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    RECONSTRUCT = "numpy.core.multiarray._reconstruct"
    SCALAR = "numpy.core.multiarray.scalar"
    FROM_BUFFER = "numpy.core.numeric._frombuffer"
    ENCODE = "_codecs.encode"
    ORDERED_DICT = "collections.OrderedDict"
    BYTES = "builtins.bytes"
    SET = "builtins.set"
    FROZENSET = "builtins.frozenset"


_BY_NAME = {name.value: name for name in _Name}


class Refused(pickle.UnpicklingError):
    """The pickle wants what it may not have; the message names it."""


class _DType:
    """A number type in the making: its state, which follows it, brings the byte order."""

    def __init__(self, code: Any, *_: Any):
        self.value = np.dtype("?")
        kinds = {f"{np.dtype(c).kind}{np.dtype(c).itemsize}": np.dtype(c) for c in "?bhilqBHILQefdFD"}
        text = code.decode("ascii", "replace") if isinstance(code, bytes) else code
        order, text = (text[0], text[1:]) if isinstance(text, str) and text[:1] in ("<", ">", "=", "|") else ("=", text)
        if text not in kinds:
            raise Refused(f"numpy.dtype({code!r:.40}), which is no type of numbers")
        self.value = kinds[text].newbyteorder(_order(order))

    def fill(self, state: Any) -> None:
        """Takes the pickled state, of which only the byte order counts."""
        self.value = self.value.newbyteorder(_order(state[1]))


def _order(mark: Any) -> Literal["<", ">", "="]:
    """A byte order; numpy writes "|" for types of one byte."""
    return "<" if mark == "<" else ">" if mark == ">" else "="


class _Array:
    """An array in the making: its state, which follows it, brings shape, type and bytes."""

    def __init__(self, kind: Any, *_: Any):
        if kind is not _Name.ARRAY_TYPE:
            raise Refused("a subclass of numpy.ndarray")
        self.value: np.ndarray | None = None

    def fill(self, state: Any) -> None:
        """Takes the pickled state: shape, type, order and bytes. Raises as ``_numbers``."""
        shape, dtype, fortran, raw = state[-4:]
        self.value = _numbers(raw, dtype, shape, "F" if fortran else "C")


class _Mapping(dict[Any, Any]):
    """An ordered dictionary; attributes that one was given are dropped."""

    def __init__(self, pairs: Any = ()):
        super().__init__()
        for key, value in pairs:
            self[_hashable(key)] = value

    def fill(self, state: Any) -> None:
        """Takes the pickled state, and drops it."""


def _numbers(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """A new array of the machine's own byte order. Python 2 wrote the bytes as a string: each character is one."""
    if not isinstance(dtype, _DType):
        raise Refused("a numpy array of objects")
    content = raw.encode("latin1") if isinstance(raw, str) else bytes(memoryview(raw))
    if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array's shape is no tuple of numbers")
    if math.prod(shape) * dtype.value.itemsize != len(content):
        raise ValueError(f"an array of shape {shape} has {len(content)} bytes")
    flat = np.frombuffer(content, dtype.value).astype(dtype.value.newbyteorder("="))
    return np.ascontiguousarray(flat.reshape(shape, order="F" if order == "F" else "C")).reshape(shape)


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array(_Name.ARRAY_TYPE)
    array.value = _numbers(raw, dtype, shape, order)
    return array


def _encode(text: Any, encoding: Any = "") -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise Refused(f"_codecs.encode with {encoding!r:.40}")
    return text.encode("latin1")


def _hashable(key: Any) -> Any:
    """Keys of dictionaries and members of sets are plain: hashing nested tuples could exhaust the machine's stack."""
    if not isinstance(key, str | bytes | int | float | None):
        raise Refused(f"a key that is a {type(key).__name__}")
    return key


_CALLS: dict[_Name, Callable[..., Any]] = {
    _Name.DTYPE: _DType,
    _Name.RECONSTRUCT: _Array,
    _Name.SCALAR: lambda dtype, raw: _from_buffer(raw, dtype, (), "C"),
    _Name.FROM_BUFFER: _from_buffer,
    _Name.ENCODE: _encode,
    _Name.ORDERED_DICT: _Mapping,
    _Name.BYTES: lambda: b"",
    _Name.SET: lambda items=(): {_hashable(item) for item in items},
    _Name.FROZENSET: lambda items=(): frozenset(_hashable(item) for item in items),
}


class _Reader(pickle._Unpickler):
    """The standard library's stack machine in Python, without the instructions that reach outside of it."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]

    def find_class(self, module: str, name: str) -> Any:
        """What stands for the one class or function that is known by this name; raises Refused for others."""
        module = "builtins" if module == "__builtin__" else module  # as Python 2 called it
        known = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if known not in _BY_NAME:
            raise Refused(f"{module}.{name}")
        return _BY_NAME[known]

    def persistent_load(self, pid: Any) -> NoReturn:
        """Raises Refused: what it asks for is not in the file."""
        raise Refused("an object outside of the file (persistent id)")

    def _call(self) -> None:
        args = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(function, _Name) or function not in _CALLS or type(args) is not tuple:
            raise Refused("a call of what is no function")
        self.stack[-1] = _CALLS[function](*args)

    def _build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _DType | _Array | _Mapping):
            raise Refused(f"attributes on a {type(self.stack[-1]).__name__}")
        self.stack[-1].fill(state)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._store([key, value])

    def _set_items(self) -> None:
        self._store(self.pop_mark())

    def _store(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise Refused(f"items in a {type(self.stack[-1]).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][_hashable(key)] = value

    def _make_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self._store(items)

    def _add_items(self) -> None:
        items = self.pop_mark()
        if not isinstance(self.stack[-1], set):
            raise Refused(f"members in a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(map(_hashable, items))

    def _make_frozenset(self) -> None:
        items = self.pop_mark()  # first: it changes the stack
        self.stack.append(frozenset(map(_hashable, items)))

    def _byte_array(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(size)))  # what is there, where the standard library takes the memory first

    def _refuse(self) -> NoReturn:
        raise Refused("the making of an object of a class")

    dispatch |= {
        pickle.REDUCE[0]: _call,
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.DICT[0]: _make_dict,
        pickle.ADDITEMS[0]: _add_items,
        pickle.FROZENSET[0]: _make_frozenset,
        pickle.BYTEARRAY8[0]: _byte_array,
        pickle.OBJ[0]: _refuse,
        pickle.NEWOBJ[0]: _refuse,
        pickle.NEWOBJ_EX[0]: _refuse,
        pickle.EXT1[0]: _refuse,
        pickle.EXT2[0]: _refuse,
        pickle.EXT4[0]: _refuse,
    }


def read_pickle(content: bytes, source: str) -> Any:
    """What a pickle of numpy arrays and plain containers holds, with a tensor in the place of every array and scalar.

    Strings that Python 2 wrote are taken as latin-1.

    Args:
        content: the file's bytes.
        source: the file, for messages.

    Raises:
        DataError: it names anything else than numpy's arrays and plain containers (the message says what), is nested
            too deeply, is damaged, or is no pickle. Nothing of it has run.
    """
    try:
        return _plain(_Reader(io.BytesIO(content), encoding="latin1").load(), {}, 0)
    except Refused as error:
        raise refusal(source, str(error)) from error
    except Exception as error:  # a damaged program fails in as many ways as there are instructions
        raise DataError(
            f"{source}: cannot be read as a checkpoint ({_first_line(error)}); it is damaged, was not written"
            " completely, or is no file of weights. Copy or download it again; weights are read from .pth of"
            " torch.save, .pkl of numpy arrays and .h5"
        ) from error


def refusal(source: str, what: str) -> DataError:
    """The error for a file that holds ``what`` instead of arrays and plain data, with the way out."""
    return DataError(
        f"{source}: holds {what}. Weights are read from arrays and plain data alone; Python objects are never unpickled"
        " because that runs code, and nothing of the file was run. If you trust where it comes from, save its tensors"
        " alone with the program that wrote it: torch.save({'model': model.state_dict()}, path)"
    )


def _first_line(error: Exception) -> str:
    if isinstance(error, KeyError | EOFError | IndexError):  # which say nothing by themselves
        return "it ends too early" if isinstance(error, EOFError) else "it is no pickle, or one with errors"
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _plain(value: Any, done: dict[int, Any], depth: int) -> Any:
    """A copy with tensors for arrays. What several places share is copied once, so that no file grows by unfolding."""
    if id(value) in done:
        return done[id(value)]
    if depth > _MAX_DEPTH:
        raise ValueError(f"its containers are nested more than {_MAX_DEPTH} deep")
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array without content")
        result: Any = torch.from_numpy(value.value)
    elif isinstance(value, dict):
        result = {key: _plain(item, done, depth + 1) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        result = type(value)(_plain(item, done, depth + 1) for item in value)
    elif isinstance(value, _Name):
        raise Refused(f"{value.value} itself, not an array")
    else:
        return str(value.value) if isinstance(value, _DType) else value
    done[id(value)] = result
    return result
