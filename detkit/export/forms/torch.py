"""``.pt2``: torch's exported programs."""

import io
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detkit.export.description import Description, read_description
from detkit.export.forms.interfaces import Calibration, Engine, Form, Precision
from detkit.export.static.nms import nms_mask_of_torchvision
from detkit.export.tracing import Traced
from detkit.registry import DataError
from detkit.utils.paths import atomic_write

NAME = "detkit.json"
"""Of the description among the archive's extra files."""

_NAMES = "Symbol|Integer|Add|Mul|Pow|FloorDiv|CeilDiv|CleanDiv|Mod|PythonMod|Max|Min|And|Or|Not|Equality|Unequality"
_NAMES += "|LessThan|GreaterThan|StrictLessThan|StrictGreaterThan|True|False|integer|positive|nonnegative"
_FORMULA = re.compile(rf"(?:[\s\d+\-*/(),=]|\b(?:{_NAMES})\b|'[su]\d+'|\b[su]\d+\b)*")
"""Sizes as formulas. torch reads them by sympy, which evaluates any Python: no other names may stand there."""
_OPERATOR = re.compile(
    r"torch\.ops\.(?:aten|prims|torchvision)\.(?!from_file)\w+\.\w+|_operator\.\w+|math\.\w+|torch\._?sym_\w+"
)
"""What a graph may call."""


def write(
    traced: Traced, description: Description, precision: Precision, calibration: Calibration | None, path: Path
) -> None:
    """See ``Form.write``."""
    graph = traced.graph.run_decompositions({torch.ops.detkit.nms_mask.default: nms_mask_of_torchvision})
    graph._example_inputs = None  # zeros, which nobody needs
    graph._guards_code = []  # checks of sizes as Python code, which a reader would have to run
    with atomic_write(path) as file:
        torch.export.save(graph, file, extra_files={NAME: description.json()})


def describe(path: Path) -> Description:
    """See ``Form.describe``. What of the archive could run code is refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (broken := archive.testzip()) is not None:
                raise DataError(f"{path}: is damaged ({broken}); export it again")
            names = {name.partition("/")[2]: name for name in archive.namelist()}
            text = next((archive.read(n).decode() for short, n in names.items() if short.endswith(f"/{NAME}")), None)
            for short, name in names.items():
                _check(path, short, name, archive)
    except (
        zipfile.BadZipFile,
        ValueError,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
        pickle.UnpicklingError,
    ) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is no whole .pt2 file ({error}); export it again") from None
    return read_description(text, str(path))


def _check(path: Path, short: str, name: str, archive: zipfile.ZipFile) -> None:
    """Raises DataError for a part of the archive that could run code when it is read."""
    folder = short.partition("/")[0]
    if folder == "extra" or short in ("archive_format", "archive_version", "byteorder", ".format_version", "version"):
        return
    if short.startswith(".data/"):
        return
    if folder not in ("models", "data") or "opaque_obj" in short or "custom_obj" in short or "aotinductor" in short:
        raise DataError(f"{path}: has a part that may run code, {short!r}, which detkit does not write; take another")
    if short.endswith(".json"):
        _check_json(path, json.loads(archive.read(name)))
    elif short.endswith(".pt") and (content := archive.read(name)):
        torch.load(io.BytesIO(content), weights_only=True)  # raises for what is no tensor; torch would try without


def _check_json(path: Path, content: Any) -> None:
    """Raises DataError for what torch would run as code as it reads the file."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            formula, called = value.get("expr_str", ""), value.get("target", "torch.ops.aten.add.Tensor")
            bad = (
                "pickled values"
                if value.get("use_pickle")
                else "checks in Python"
                if value.get("guards_code")
                else None
            )
            if not isinstance(formula, str) or not _FORMULA.fullmatch(formula):
                bad = f"{formula!r:.60} for a size"
            elif not isinstance(called, str) or ("inputs" in value and not _OPERATOR.fullmatch(called)):
                bad = f"a call of {called!r:.60}"
            if bad is not None:
                raise DataError(f"{path}: has {bad}, which may run code and which detkit does not write; take another")
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def run(path: Path, description: Description, threads: int) -> Engine:
    """See ``Form.engines``."""
    describe(path)
    try:
        module: Any = torch.export.load(path).module()
    except Exception as error:  # torch raises many types for a file that is not right
        raise DataError(
            f"{path}: torch {torch.__version__} does not read it ({str(error)[:200]}); export it again"
        ) from None

    @torch.no_grad()
    def engine(images: Tensor, regions: Tensor) -> list[Tensor]:
        return [value.cpu() for value in module(images, regions).values()]

    return engine


TORCH = Form(".pt2", "torch", {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}, write, describe, {"torch": run})
