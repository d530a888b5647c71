"""What a form of programs is: writing a file, reading what it says of itself, and running it."""

import contextlib
import dataclasses
import importlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Literal

from torch import Tensor

from detkit.export.description import Description
from detkit.export.tracing import Traced
from detkit.registry import ConfigError, DataError

EngineName = Literal["torch", "onnxruntime", "openvino"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]

Engine = Callable[[Tensor, Tensor], list[Tensor]]
"""``images``, ``regions`` -> the outputs, in order."""

Calibration = Iterable[tuple[Tensor, Tensor]]
"""``images`` and ``regions`` of real data, from which the ranges of int8 are taken."""


@dataclasses.dataclass(frozen=True)
class Form:
    """A kind of file.

    Args:
        suffix: of its name.
        engine: what runs it unless another is asked for.
        precisions: what it can be written in, with the precision that the graph is traced in.
        check: raises ConfigError where a library that writing in a precision takes is missing, or too old.
        write: graph, description, precision and, for int8, data to calibrate on, into the file, atomically.
        describe: what the file says of itself; checks that it is whole.
        engines: what can run it -> from the file and its description to the engine, with a number of threads (0: all
            cores). Raises DataError for a file that the engine does not take.
    """

    suffix: str
    engine: EngineName
    precisions: dict[Precision, str]
    check: Callable[[Precision], None]
    write: Callable[[Traced, Description, Precision, Calibration | None, Path], None]
    describe: Callable[[Path], Description]
    engines: dict[EngineName, Callable[[Path, Description, int], Engine]]


def needed(module: str, extra: str) -> ModuleType:
    """A library of an extra. Raises ConfigError where it is missing, with how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        words = f"{module} is needed here and cannot be imported ({error}): pip install 'detkit[{extra}]'"
        raise ConfigError(words) from None


@contextlib.contextmanager
def conversion(path: Path, precision: Precision) -> Iterator[None]:
    """Raises ConfigError in the place of what libraries raise for a graph that they cannot write."""
    try:
        yield
    except (ConfigError, DataError, OSError, MemoryError):
        raise
    except Exception as error:  # each library has its own types
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        what = next(iter(str(cause).strip().splitlines()), "")
        other = ".onnx or .xml" if path.suffix.lower() == ".pt2" else ".pt2, which has all of torch's operators"
        raise ConfigError(
            f"{path}: the model cannot be written in this form and {precision} ({type(cause).__name__}: {what:.300}); "
            f"take {other}, another precision, or other operators in a part of your own"
        ) from error
