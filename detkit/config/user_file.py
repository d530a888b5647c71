"""The door for user code: the files and modules that a config lists under ``imports``.

A file is loaded as the module ``detkit.config.user_file.<its path>``. The path is the name, so two files of one stem
do not clash, and a process that unpickles an object of such a file (a loader's worker, where processes are spawned)
finds the file again by itself.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from detkit.config.yaml_file import display
from detkit.registry import ConfigError, Registry, did_you_mean

__path__: list[str] = []  # makes this module a package, whose submodules the finder below supplies


def import_user_code(name: str, source: str) -> ModuleType:
    """The module ``name``: an absolute path that ends in ``.py``, or a dotted module name; loaded once.

    Raises ConfigError, with ``source`` and the place in the user's file, for whatever goes wrong in it.
    """
    file = name if name.endswith(".py") else None
    if file and not Path(file).is_file():
        near = did_you_mean(Path(file).name, [p.name for p in Path(file).parent.glob("*.py")])
        raise ConfigError(f"{source}: imports: there is no file '{file}'.{near}")
    loaded = _loaded(file) if file else None
    if loaded is not None:
        return loaded
    module = _module_name(Path(file)) if file else name
    try:
        return importlib.import_module(module)
    except Exception as error:
        for registry in Registry.of.values():
            registry.forget(module)
        if isinstance(error, ModuleNotFoundError) and not file and (name + ".").startswith(f"{error.name}."):
            hint = "it must be installed or on PYTHONPATH; a file is given by its path, with .py"
            raise ConfigError(f"{source}: imports: there is no module '{name}'; {hint}") from error
        raise ConfigError(
            f"{source}: imports: {_place(error, file or name)}: {type(error).__name__}: {error}"
        ) from error


def _loaded(file: str) -> ModuleType | None:
    """The module that was made from ``file``, under whatever name (the user's script may have imported it)."""
    stem = Path(file).stem
    for module in list(sys.modules.values()):
        other = getattr(module, "__file__", None)
        if isinstance(other, str) and stem in other and Path(other).resolve() == Path(file).resolve():
            return module
    return None


def _place(error: Exception, fallback: str) -> str:
    """``file:line`` of the innermost line of user code that ``error`` went through."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{display(Path(error.filename))}:{error.lineno}"
    here = str(Path(__file__).resolve().parents[1])
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((here, "<")) and "importlib" not in f.filename]
    own = [f for f in own if f.filename == fallback] or own
    return f"{display(Path(own[-1].filename))}:{own[-1].lineno}" if own else fallback


def _module_name(path: Path) -> str:
    text = str(path.resolve().with_suffix("")).replace("%", "%25").replace(".", "%2E")
    return f"{__name__}.{text}"


def _file_name(module: str) -> str:
    return module[len(__name__) + 1 :].replace("%2E", ".").replace("%25", "%") + ".py"


class _UserFileFinder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Importlib's question: how to load ``fullname``; None where it is no user file's."""
        if not fullname.startswith(__name__ + ".") or not Path(_file_name(fullname)).is_file():
            return None
        return importlib.util.spec_from_file_location(fullname, _file_name(fullname))


sys.meta_path.append(_UserFileFinder())
