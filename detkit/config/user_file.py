"""The door for user code: the files and modules that a config lists under ``imports``.

A file is loaded as the module ``detkit.config.user_file.<its path>``. The path is the name, so two files of one stem
do not clash, and a process that unpickles an object of such a file (a loader's worker, where processes are spawned)
finds the file again by itself.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import site
import sys
import sysconfig
import traceback
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from detkit.config.yaml_file import display
from detkit.registry import ConfigError, Registry, did_you_mean

__path__: list[str] = []  # makes this module a package, whose submodules the finder below supplies
_INSTALLED = {Path(path) for path in (*site.getsitepackages(), site.getusersitepackages())} | {
    Path(sysconfig.get_path("stdlib")),
    Path(__file__).resolve().parents[1],
}
CODE = "imported_code"
"""The folder, beside a run's config, with the run's copy of the code that it imported."""
_loaded: dict[str, dict[str, tuple[str, bytes]]] = {}
"""What a config named -> the user's modules that this loaded, itself first: name -> file, and the text that was run."""


def import_user_code(name: str, source: str, others: Collection[str] = (), folder: Path | None = None) -> ModuleType:
    """The module ``name``: an absolute path that ends in ``.py``, or a dotted module name.

    It is loaded once, and again when its file, or one that it imported from beside it, has changed. It replaces a file
    of the same name that another config imported: a run's copy of it registers the same classes.

    Args:
        name: the path or module name.
        source: where the config says so.
        others: all that the config imports.
        folder: where a module is looked for first.

    Raises:
        ConfigError: with ``source`` and the place in the user's file, whatever goes wrong in it.
    """
    file = Path(name) if name.endswith(".py") else None
    if not file and not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{source}: imports: '{name}' is no name of a module; a file is given by its path, with .py")
    if file and not file.is_file():
        near = did_you_mean(file.name, [p.name for p in file.parent.glob("*.py")])
        raise ConfigError(f"{source}: imports: there is no file '{file}'.{near}")
    if file and file.stem == "__init__":
        package = f"'{file.parent.name}', with the folder that it lies in on PYTHONPATH"
        raise ConfigError(f"{source}: imports: '{file}' is a package's; a package is given by its name, {package}")
    module, known = _module_name(file) if file else name, _known(name)
    if known is None and (by_script := _imported_by_script(name)):
        _loaded[name], known = _user_modules([by_script]), name
    if known is not None:
        return importlib.import_module(next(iter(_loaded[known]), module))
    for old in [*_loaded]:
        if old == name or (file and old not in others and Path(old).name == file.name):
            _forget(_loaded.pop(old))
    with _first_on_path(file.parent if file else folder):
        before = set(sys.modules)  # without what lies beside another file under a name that this folder has, too
        try:
            made = importlib.import_module(module)
        except (Exception, SystemExit) as error:
            _forget([module, *_user_modules(set(sys.modules) - before)])
            raise ConfigError(f"{source}: imports: {_problem(error, name)}") from error
    shared = [other for parts in _loaded.values() for other, (path, _) in parts.items() if file and _below(path, file)]
    more = [other for other in sorted({*sys.modules} - before) + shared if not other.startswith(f"{__name__}.")]
    _loaded[name] = _user_modules([module, *more])
    return made


def _problem(error: BaseException, name: str) -> str:
    """What went wrong while ``name`` was imported, where in the user's code, and the fix where it is known."""
    is_file = name.endswith(".py")
    if isinstance(error, ModuleNotFoundError) and not is_file and f"{name}.".startswith(f"{error.name}."):
        hint = "it must be installed or on PYTHONPATH; a file is given by its path, with .py"
        return f"there is no module '{name}'; {hint}"
    words = f"{type(error).__name__}: {error}"
    if isinstance(error, ImportError) and f"{error.name}.".startswith(f"{__name__}."):  # from .helper, from .
        beside = str(error.name)[len(__name__) + 1 :] or str(error).split("'")[1]
        words = f"a file of imports is no package; write 'import {beside}', without the dot, for what lies beside it,"
        words += " or list the file as a module of its package, by the dotted name"
    return f"{own_place(error) or name}: {words}"


def is_detkits(cls: type) -> bool:
    """Whether a class comes with detkit, and is none of a user's own."""
    return f"{cls.__module__}.".startswith("detkit.") and not cls.__module__.startswith(f"{__name__}.")


def copied_code(imports: Iterable[str]) -> tuple[list[str], dict[str, bytes]]:
    """The user's code behind ``imports``, for a folder of its own: a file or module is found there as it was here.

    Returns:
        The imports, files as paths in the folder; and path in the folder -> content.
    """
    names, files = [], dict[str, bytes]()
    for name in imports:
        places: dict[str, bytes] = {}
        for module, (path, text) in _loaded.get(_known(name) or name, {}).items():
            own = not places and name.endswith(".py")
            tail = "/__init__.py" if Path(path).stem == "__init__" else ".py"
            places[Path(path).name if own else module.replace(".", "/") + tail] = text
        tries = ("", *(f"{i}/" for i in range(2, 2 + len(files))))
        prefix = next(p for p in tries if all(files.get(p + place, text) == text for place, text in places.items()))
        files.update({prefix + place: text for place, text in places.items()})
        names.append(prefix + next(iter(places)) if places and name.endswith(".py") else name)
    return names, files


def _known(name: str) -> str | None:
    """What was loaded and has the very content that ``name``, with what lies beside it, has now."""
    same = [old for old in _loaded if old == name or (name.endswith(".py") and Path(old).name == Path(name).name)]
    return next((old for old in same if _unchanged(old, name)), None)


def _unchanged(old: str, name: str) -> bool:
    for module, (path, text) in _loaded[old].items():
        now = path if old == name else os.path.join(os.path.dirname(name), os.path.relpath(path, os.path.dirname(old)))
        try:
            same = Path(now).read_bytes() == text and getattr(sys.modules.get(module), "__file__", None) == path
        except OSError:
            same = False
        if not same and module != "__main__":
            return False
    return True


def _imported_by_script(name: str) -> str | None:
    """The name by which the user's script imported the file ``name`` itself."""
    for module, made in [*sys.modules.items()] if name.endswith(".py") and name not in _loaded else ():
        other = getattr(made, "__file__", None)
        if isinstance(other, str) and Path(name).stem in other and Path(other).resolve() == Path(name).resolve():
            return module
    return None


def _user_modules(names: Iterable[str]) -> dict[str, tuple[str, bytes]]:
    """Those of the modules that are source files of the user's, not installed ones; as ``_loaded`` has them."""
    found = {}
    for name in names:
        file = getattr(sys.modules.get(name), "__file__", None)
        if isinstance(file, str) and file.endswith(".py") and not _INSTALLED & {*Path(file).parents}:
            with contextlib.suppress(OSError):
                found[name] = (file, Path(file).read_bytes())
    return found


def _below(path: str, file: Path) -> bool:
    return file.parent in Path(path).parents


def _forget(modules: Iterable[str]) -> None:
    for name in modules:
        if name != "__main__":
            sys.modules.pop(name, None)
        for registry in Registry.of.values():
            registry.forget(name)


@contextlib.contextmanager
def _first_on_path(folder: Path | None) -> Iterator[None]:
    """Modules of ``folder`` are found: now before all others; later, and in another process, after them."""
    if folder is None or not folder.is_dir():
        yield
        return
    here = {path.stem for path in folder.iterdir()}
    _forget(
        [
            name
            for parts in _loaded.values()
            for name, (file, _) in parts.items()
            if name.partition(".")[0] in here and folder not in Path(file).parents
        ]
    )
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


def own_place(error: BaseException) -> str | None:
    """``file:line`` of the innermost line of a user's file that ``error`` went through; None where it met none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{display(Path(error.filename))}:{error.lineno}"
    frames = reversed(traceback.extract_tb(error.__traceback__))
    own = (f for f in frames if not f.filename.startswith("<") and not _INSTALLED & {*Path(f.filename).parents})
    return next((f"{display(Path(f.filename))}:{f.lineno}" for f in own), None)


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
        file = Path(_file_name(fullname)) if fullname.startswith(__name__ + ".") else None
        if file is None or not file.is_absolute() or not file.is_file():
            return None
        return importlib.util.spec_from_file_location(fullname, _file_name(fullname))


sys.meta_path.append(_UserFileFinder())
