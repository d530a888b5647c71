"""detkit: object detection and instance segmentation from registered, interchangeable components."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Sequence
from typing import Any

__version__ = "0.1.0"
_API = ("Predictor", "Run", "evaluate", "load_experiment", "open_dataset", "train")


def __getattr__(name: str) -> Any:
    """What ``detkit.api`` has, which is imported with torch when it is first asked for."""
    if name not in _API:
        raise AttributeError(f"module 'detkit' has no attribute '{name}'; it has {', '.join(_API)}")
    return getattr(importlib.import_module("detkit.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *_API]


class _QuietImports(importlib.abc.MetaPathFinder):
    """Imports this package's modules without the warnings that libraries give while they are imported with them.

    No user of ours can do anything about those.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See ``MetaPathFinder``; a module of this package is run with warnings ignored."""
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name.startswith(f"{__name__}.") else None
        if spec is not None and spec.loader is not None:
            run_module = spec.loader.exec_module

            def run_quietly(module: types.ModuleType) -> None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    run_module(module)

            spec.loader.exec_module = run_quietly  # type: ignore[method-assign]
        return spec


if not any(type(finder).__name__ == _QuietImports.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, _QuietImports())
