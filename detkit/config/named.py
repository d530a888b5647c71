"""Configs by name: those that come with detkit need no path, and a run's folder is its config."""

import os
from collections.abc import Collection
from pathlib import Path

from detkit.config.yaml_file import SUFFIXES, display, nearest_file
from detkit.registry import nearest

_PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = next((p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if p.is_dir()), _PACKAGE / "configs")
"""The folder of detkit's configs: in the package, or beside it in a clone."""


def config_names() -> list[str]:
    """The names of the configs that come with detkit and can be trained, such as ``coco/mask_rcnn_R_50_FPN_1x``."""
    names = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml")]
    return sorted(name for name in names if not name.startswith("_base_/"))


def find_config(path: Path, folder: Path = Path()) -> Path:
    """The file that ``path`` names: one in ``folder``, else one of detkit's; the ending may be left out.

    The folder of a run stands for the config in it. What names nothing comes back as a path in ``folder``.
    """
    own = folder / path
    for start in [own, CONFIGS / _name(path)] if _may_be_name(path) else [own]:
        for file in (start, *(start.with_name(start.name + suffix) for suffix in SUFFIXES if start.name)):
            if file.is_file():
                return file
        for name in ("run_config.yaml", "config.yaml"):
            if (start / name).is_file():
                return start / name
    return own


def nearest_config(path: Path, folder: Path = Path(), without: Collection[Path] = ()) -> str | None:
    """What ``path``, which names nothing, was most probably meant to be, as one would write it; see ``find_config``.

    Args:
        path: as it was written.
        folder: where it is looked for.
        without: files that cannot be meant, resolved.
    """
    file = nearest_file(folder / path, *SUFFIXES)
    own = "" if file is None or file.resolve() in without else os.path.relpath(file, folder)
    if own and file is not None and (file.name == path.name or path.is_absolute()):
        return display(file) if folder == Path() else own
    known = {name: name for name in (config_names() if _may_be_name(path) else ())}
    if own:
        known[os.path.splitext(_name(Path(own)))[0]] = own
    near = nearest(os.path.splitext(_name(path))[0], known)
    return None if near is None else known[near]


def _may_be_name(path: Path) -> bool:
    return not path.is_absolute() and ".." not in path.parts


def _name(path: Path) -> str:
    return path.as_posix().removeprefix("configs/")
