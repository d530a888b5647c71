"""A page for every package's public names, which mkdocstrings fills."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import detkit
from detkit.registry import Registry
from docs_site.components import page_of

FOLDER = "reference/api"
FIRST = ("detkit.api", "detkit.experiment", "detkit.data", "detkit.structures", "detkit.registry")
"""What most programs begin with (``detkit.api`` is what ``detkit`` itself has); others follow by name."""


def modules() -> list[str]:
    """The packages and modules that have a page: those of ``FIRST``, and what has ``__all__`` or is an interface."""
    names = [info.name for info in pkgutil.walk_packages(detkit.__path__, "detkit.")]
    order = {name: i for i, name in enumerate(FIRST)}
    shown = [
        name for name in names if (name in FIRST or _is_public(name)) and public_names(importlib.import_module(name))
    ]
    return sorted(shown, key=lambda name: (order.get(name, len(order)), name))


def _is_public(name: str) -> bool:
    public = name.count(".") == 1 and hasattr(importlib.import_module(name), "__all__")
    return public or name.endswith((".interfaces", "_interfaces"))


def public_names(module: ModuleType) -> list[str]:
    """``__all__``, without submodules and other libraries' names; or what an interface's file defines."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not _is_foreign(getattr(module, name))]
    defined = {
        name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
    }
    return [name for name, value in defined.items() if not name.startswith("_") and callable(value)]


def _is_foreign(value: Any) -> bool:
    if inspect.ismodule(value):
        return True
    return (inspect.isclass(value) or inspect.isfunction(value)) and not value.__module__.startswith("detkit")


def targets() -> dict[str, str]:
    """Class, or function of ``detkit`` itself with a name of several words, -> its path, which mkdocstrings finds."""
    found: dict[str, str] = {}
    for module in modules():
        for name in public_names(importlib.import_module(module)):
            if name[0].isupper() or (module == FIRST[0] and "_" in name):
                found.setdefault(name, f"{module}.{name}")
    return found


def pages() -> Iterator[tuple[str, str]]:
    """The pages, and one that lists them."""
    names = modules()
    rows = [f"| [`{_title(name)}`]({name}.md) | {_first_line(importlib.import_module(name))} |" for name in names]
    yield f"{FOLDER}/index.md", "\n".join(["# Python API", "", "| module | |", "|---|---|", *rows])
    for name in names:
        yield f"{FOLDER}/{name}.md", _page(importlib.import_module(name))


def _title(name: str) -> str:
    return name.removesuffix(".api")


def _first_line(module: ModuleType) -> str:
    return (module.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")


def _page(module: ModuleType) -> str:
    components = {cls: page_of(registry) for registry in Registry.of.values() for _, cls in registry}
    names = {name: getattr(module, name) for name in public_names(module)}
    blocks = [f"# {_title(module.__name__)}", (inspect.getdoc(module) or "")]
    listed = {name: value for name, value in names.items() if inspect.isclass(value) and value in components}
    if listed:
        links = ", ".join(f"[`{name}`](../../{components[cls]}#{name.lower()})" for name, cls in listed.items())
        blocks.append(f"Components, which have pages of their own: {links}.")
    blocks += [f"::: {module.__name__}.{name}" for name in names if name not in listed]
    return "\n\n".join(blocks)
