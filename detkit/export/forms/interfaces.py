"""The role Form: writing a program's file, reading what it says of itself, and running it."""

import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import ClassVar, Literal

from torch import Tensor

from detkit.export.description import Description
from detkit.export.tracing import Traced
from detkit.registry import ConfigError, DataError, Registry

Precision = Literal["fp32", "fp16", "bf16", "int8"]

Engine = Callable[[Tensor, Tensor], list[Tensor]]
"""``images``, ``regions`` -> the outputs, in order."""

Calibration = Iterable[tuple[Tensor, Tensor]]
"""``images`` and ``regions`` of real data, from which the ranges of int8 are taken."""


class Form:
    """A kind of file, and the engine that it is for. A subclass is a form; there are no objects of it.

    A subclass of another form that has its suffix is another engine for the same files.

    Attributes:
        key: the engine's name.
        suffix: of the file's name.
        also_reads: suffixes of other forms' files that the engine reads.
        precisions: what it can be written in, with the precision that the graph is traced in.
        instead: what else to take for a graph that cannot be written so, in words.
    """

    key: ClassVar[str]
    suffix: ClassVar[str]
    also_reads: ClassVar[tuple[str, ...]] = ()
    precisions: ClassVar[Mapping[Precision, str]]
    instead: ClassVar[str] = ".pt2, which has all of torch's operators"

    @classmethod
    def reads(cls, suffix: str) -> bool:
        """Whether the engine reads files of a suffix."""
        return suffix in (cls.suffix, *cls.also_reads)

    @classmethod
    def check(cls, precision: Precision) -> None:
        """Raises ConfigError where a library that writing in a precision takes is missing, or too old."""

    @classmethod
    def write(
        cls,
        traced: Traced,
        description: Description,
        precision: Precision,
        calibration: Calibration | None,
        path: Path,
    ) -> None:
        """Writes a graph with its description into the file, atomically; for int8 there are data to calibrate on."""
        raise NotImplementedError

    @classmethod
    def describe(cls, path: Path) -> Description:
        """What the file says of itself. Raises DataError where it is not whole."""
        raise NotImplementedError

    @classmethod
    def files(cls, path: Path) -> list[Path]:
        """All files of the program at ``path``."""
        return [path]

    @classmethod
    def load(cls, path: Path, description: Description, threads: int) -> Engine:
        """The engine with a file that it reads.

        Args:
            path: of the file.
            description: what it says of itself.
            threads: 0: as many as torch uses.

        Raises:
            ConfigError: the engine is missing, or has no threads of its own.
            DataError: it does not take the file.
        """
        raise NotImplementedError


FORMS: Registry[Form] = Registry("program form", Form)


def needed(module: str, extra: str) -> ModuleType:
    """A library of an extra. Raises ConfigError where it is missing, with how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        words = f"{module} is needed here and cannot be imported ({error}): pip install 'detkit[{extra}]'"
        raise ConfigError(words) from None


@contextlib.contextmanager
def conversion(form: type[Form], path: Path, precision: Precision) -> Iterator[None]:
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
        raise ConfigError(
            f"{path}: the model cannot be written in this form and {precision} ({type(cause).__name__}: {what:.300}); "
            f"take {form.instead}, another precision, or other operators in a part of your own"
        ) from error
