"""``.pt2``: torch's exported programs."""

import io
import json
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from detkit.export.description import Description, read_description
from detkit.export.forms.interfaces import FORMS, Calibration, Engine, Form, Precision
from detkit.export.static.nms import nms_mask_of_torchvision, soft_nms_scores_of_torch
from detkit.export.tracing import Traced, quiet
from detkit.registry import ConfigError, DataError
from detkit.utils.paths import atomic_write

NAME = "detkit.json"
"""Of the description among the archive's extra files."""

_NAMES = "Symbol|Integer|Add|Mul|Pow|FloorDiv|CeilDiv|CleanDiv|Mod|PythonMod|Max|Min|And|Or|Not|Equality|Unequality"
_NAMES += "|LessThan|GreaterThan|StrictLessThan|StrictGreaterThan|True|False|integer|positive|nonnegative"
_POWER = r"(?!.*\bPow\b(?!\(Symbol\('[su]\d+'[\w\s,=]*\), Integer\(\d\)\)))"
_FORMULA = re.compile(rf"{_POWER}(?:[\s\d\-(),=]|\b(?:{_NAMES})\b|'[su]\d+')*", re.DOTALL)
"""Sizes as formulas. torch reads them by sympy, which evaluates any Python: no other names may stand there, nor what
makes numbers of any length, such as operators and powers of numbers."""
_OPERATOR = re.compile(
    r"torch\.ops\.(?:aten|prims|torchvision)\.(?!from_file|save\b|load\b)\w+\.\w+|math\.\w+|torch\._?sym_\w+"
    r"|_operator\.(?:add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|ge|gt|le|lt|and_|or_|lshift|rshift|getitem)"
)
"""What a graph may call: nothing that opens files, or finds and calls a Python function by its name."""
_PART = re.compile(
    r"models/model\.json|data/(?:weights|constants)/(?:model_\w+_config\.json|weight_\d+|tensor_\d+)"
    r"|data/sample_inputs/model\.pt|extra/[\w.]+|archive_format|archive_version|byteorder|version|\.format_version"
    r"|\.data/\w+"
)
"""The parts of an archive without those that are code, or pickled objects."""
_WORD = re.compile(r"[\w.+-]*")
"""Names in a graph, of which torch writes a Python function."""
_STRUCTURES = (None, "builtins.tuple", "builtins.list", "builtins.dict")
"""Of inputs and outputs. Other types, and values of enumerations, let torch import the module that they name."""


def _parts(path: Path) -> dict[str, bytes]:
    """The archive's parts by name without its folder. Raises DataError where it is damaged or could run code."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if any(info.compress_type != zipfile.ZIP_STORED for info in infos) or (
                sum(info.file_size for info in infos) > path.stat().st_size
            ):
                raise DataError(
                    f"{path}: has compressed parts, or parts that overlap, which detkit does not write; take another"
                )
            parts = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
            if len({name.lower() for name in parts}) < len(archive.namelist()):
                raise DataError(f"{path}: has parts of the same name, of which torch may read another; take another")
        for name, content in parts.items():
            _check(path, name, content)
        for kind in ("weights", "constants"):
            _check_sizes(path, kind, parts)
    except DataError:
        raise
    except _BROKEN as error:
        raise DataError(f"{path}: is no whole .pt2 file ({error}); export it again") from None
    return parts


_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, EOFError, OSError),
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error, RecursionError, OverflowError),
    *(RuntimeError, MemoryError, NotImplementedError),
)
"""What reading a damaged archive raises."""


def _check(path: Path, name: str, content: bytes) -> None:
    """Raises DataError for a part of the archive that could run code when it is read."""
    if not _PART.fullmatch(name) or (name.endswith(".pt") and content):  # example inputs: detkit writes none
        raise DataError(
            f"{path}: has a part that may run code, {name!r:.60}, which detkit does not write; take another"
        )
    if name.startswith("extra/"):
        return
    if name.endswith(".json"):
        _check_json(path, json.loads(content.decode()))


def _check_sizes(path: Path, kind: str, parts: dict[str, bytes]) -> None:
    """Raises DataError for a tensor without content that has a size, of which torch would make one of zeros."""
    config = json.loads(parts.get(f"data/{kind}/model_{kind}_config.json", b"{}"))
    for name, tensor in config.get("config", {}).items():
        sizes = [side["as_int"] for side in tensor["tensor_meta"]["sizes"]]
        if not parts[f"data/{kind}/{tensor['path_name']}"] and 0 not in sizes:
            raise DataError(f"{path}: has no content for {name!r:.60} of size {sizes!r:.60}; export it again")


def _check_json(path: Path, content: Any) -> None:
    """Raises DataError for what torch would run as code as it reads the file."""
    waiting = [("", content)]
    while waiting:
        key, value = waiting.pop()
        bad = None
        if isinstance(value, dict):
            if value.get("use_pickle") or value.get("guards_code"):
                bad = "pickled values, or checks in Python"
            elif "inputs" in value and "target" in value and not _OPERATOR.fullmatch(value["target"]):
                bad = f"a call of {value['target']!r:.60}"
            waiting += value.items()
        elif isinstance(value, list):
            waiting += ((key, item) for item in value)
        elif key in ("in_spec", "out_spec"):
            bad = None if _is_structure(value) else "other inputs or outputs than tuples, lists and dictionaries"
        elif isinstance(value, str) and key != "as_string":
            bad = None if (_FORMULA if key == "expr_str" else _WORD).fullmatch(value) else f"{value!r:.60} as {key}"
        if bad is not None:
            raise DataError(f"{path}: has {bad}, which may run code and which detkit does not write; take another")


def _is_structure(text: str) -> bool:
    """Whether a structure, as torch writes one, is of ``_STRUCTURES``, with keys that are names."""
    waiting = list(json.loads(text)[1:])
    while waiting:
        node = waiting.pop()
        if node["type"] not in _STRUCTURES:
            return False
        keys = [] if node["context"] is None else json.loads(node["context"]) or []
        if not all(isinstance(key, str) and _WORD.fullmatch(key) for key in keys):
            return False
        waiting += node["children_spec"]
    return True


@FORMS.register()
class TorchForm(Form):
    """torch's exported programs, run by torch."""

    key = "torch"
    suffix = ".pt2"
    precisions: ClassVar[Mapping[Precision, str]] = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}
    instead = ".onnx or .xml"

    @classmethod
    def check(cls, precision: Precision = "fp32") -> None:
        """Before torch 2.9 these files had another layout, with other dangers in it."""
        if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9):
            raise ConfigError(
                f".pt2: this is torch {torch.__version__}, and detkit writes and reads these files with 2.9 or later: "
                "pip install --upgrade torch torchvision; or take a program of ONNX or OpenVINO (.onnx, .xml)"
            )

    @classmethod
    def write(
        cls, traced: Traced, description: Description, precision: Precision, calibration: Calibration | None, path: Path
    ) -> None:
        with quiet():
            graph = traced.graph.run_decompositions(
                {
                    torch.ops.detkit.nms_mask.default: nms_mask_of_torchvision,
                    torch.ops.detkit.soft_nms.default: soft_nms_scores_of_torch,
                }
            )
        graph._example_inputs = None  # zeros, which nobody needs
        graph._guards_code = []  # checks of sizes as Python code, which a reader would have to run
        for node in graph.graph.nodes:
            node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}  # without traces of the machine
        with atomic_write(path) as file:
            torch.export.save(graph, file, extra_files={NAME: description.json()})

    @classmethod
    def describe(cls, path: Path) -> Description:
        """What of the archive could run code is refused."""
        cls.check()
        return read_description(_parts(path).get(f"extra/{NAME}", b"").decode(errors="replace"), str(path))

    @classmethod
    def load(cls, path: Path, description: Description, threads: int) -> Engine:
        if threads:
            raise ConfigError(f"{path}: torch has threads for the process alone: torch.set_num_threads({threads})")
        copy = io.BytesIO()
        with zipfile.ZipFile(copy, "w") as archive:  # of the parts that were checked: zip files can be read in two ways
            for name, content in _parts(path).items():
                archive.writestr(f"archive/{name}", content)
        copy.seek(0)
        try:
            module: Any = torch.export.load(copy).module()
        except Exception as error:  # torch raises many types for a file that is not right
            raise DataError(
                f"{path}: torch {torch.__version__} does not read it ({str(error)[:200]}); export it again"
            ) from None

        @torch.no_grad()
        def engine(images: Tensor, regions: Tensor) -> list[Tensor]:
            return [value.cpu() for value in module(images, regions).values()]

        return engine
