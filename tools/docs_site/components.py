"""A page for every registry, and one for the nested options, from what ``detkit show --options`` reads too."""

import importlib
import inspect
import pkgutil
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from griffe import Docstring, DocstringSectionKind

import detkit
from detkit.config import describe
from detkit.config.describe import summary
from detkit.config.schema import is_nested, leaves, registry_for, schema
from detkit.experiment import Experiment
from detkit.registry import Registry
from docs_site.links import source_link

FOLDER = "reference/components"
NESTED = f"{FOLDER}/nested-options.md"


def import_everything() -> None:
    """Imports every module of detkit, so that every registry and component is there."""
    for module in pkgutil.walk_packages(detkit.__path__, "detkit."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def registries() -> list[Registry[Any]]:
    """Every registry, those of the model first, in the order of the code."""
    found = list(Registry.of.values())
    return sorted(found, key=lambda registry: not registry.base.__module__.startswith("detkit.modeling"))


def page_of(registry: Registry[Any]) -> str:
    """The page of a registry."""
    return f"{FOLDER}/{registry.role.lower().replace(' ', '-')}.md"


def title(registry: Registry[Any]) -> str:
    """The role, as a title."""
    return registry.role[0].upper() + registry.role[1:]


def nested_classes() -> dict[type, list[str]]:
    """Every class of nested options, and the links to what has it as an option, from the root of a config on."""
    owners: dict[type, list[str]] = {Experiment: []}
    queue: list[type] = [Experiment, *(cls for registry in registries() for _, cls in registry)]
    for cls in queue:  # the list grows while it is walked
        for name, option in schema(cls).options.items():
            for want in filter(is_nested, leaves(option.want)):
                if want not in owners:
                    owners[want] = []
                    queue.append(want)
                link = f"{_link(cls, NESTED)} (`{name}`)"
                owners[want] += [] if link in owners[want] else [link]
    return owners


def targets() -> dict[str, str]:
    """Name of a component, or of nested options, -> its place."""
    classes = [*nested_classes(), *(cls for registry in registries() for _, cls in registry)]
    return {cls.__name__: _target(cls) for cls in classes}


def pages(used: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, str]]:
    """The pages; ``used`` has the links to the configs that use a component, by its name."""
    yield f"{FOLDER}/index.md", _index()
    for registry in registries():
        yield page_of(registry), _registry_page(registry, used)
    nested = nested_classes()
    sections = (_section(cls, NESTED, "option of", owners) for cls, owners in nested.items())
    yield NESTED, "\n\n".join(["# Nested options", _NESTED_WORDS, *sections])


_NESTED_WORDS = """Options that belong together and have no `name` of their own. A config's root is `Experiment`: its
options are the top-level keys of a YAML."""


def _index() -> str:
    rows = [
        f"| [{title(registry)}]({posixpath.basename(page_of(registry))}) "
        f"| {', '.join(f'`{name}`' for name in registry.names()) or 'none yet'} |"
        for registry in registries()
    ]
    words = """# Components

A config names components by their class. There is a page for every role, with the components that are registered for
it, what each is, its options with types, ranges and defaults, and the configs that use it. `detkit show --options NAME`
says the same on the command line. How to add one of your own: [Extending](../../extending.md). Options without a class
of their own are on the page of [nested options](nested-options.md).

| role | registered |
|---|---|
"""
    return words + "\n".join(rows)


def _registry_page(registry: Registry[Any], used: Mapping[str, Iterable[str]]) -> str:
    base, page, names = registry.base, page_of(registry), registry.names()
    blocks = [f"# {title(registry)}"]
    if base.__name__ not in names:
        interface = f"[`{base.__name__}`][{base.__module__}.{base.__qualname__}]"
        blocks.append(f"{_first_paragraph(base)} The interface is {interface}.")
    if schema(base).runtime:
        runtime = ", ".join(f"`{name}`" for name in schema(base).runtime)
        blocks.append(f"What its owner passes, and no config says: {runtime}.")
    if not names:
        blocks.append("Nothing is registered yet: the role is there for a component [of your own](../../extending.md).")
    for name in names:
        blocks.append(_section(registry.get(name), page, "used by", used.get(name, ())))
    return "\n\n".join(filter(None, blocks))


def _section(cls: type, page: str, relation: str, links: Iterable[str]) -> str:
    """Heading, docstring, options and users of a class."""
    links = list(links)
    blocks = [f"## {cls.__name__}", _prose(cls), _options(cls, page)]
    if len(links) > 8:
        blocks.append(f'??? note "{relation.capitalize()} {len(links)}"\n\n    {", ".join(links)}')
    elif links:
        blocks.append(f"{relation.capitalize()}: {', '.join(links)}.")
    blocks.append(f"Source: {source_link(cls, page)}")
    return "\n\n".join(filter(None, blocks))


def _prose(cls: type) -> str:
    """The docstring without its list of options, which the table has."""
    if not summary(cls):
        return ""
    lines = []
    sections = Docstring(inspect.getdoc(cls) or "", lineno=1).parse("google", warnings=False)
    for section in sections:
        if section.kind is DocstringSectionKind.text:
            lines.append(section.value)
        elif section.kind is DocstringSectionKind.raises:
            lines += [f"Raises `{item.annotation}`: {' '.join(item.description.split())}" for item in section.value]
    return "\n\n".join(lines)


def _first_paragraph(cls: type) -> str:
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


def _options(cls: type, page: str) -> str:
    rows = describe(cls)
    if not rows:
        return "No options."
    wants = {name: option.want for name, option in schema(cls).options.items()}
    lines = ["| option | type | default | |", "|---|---|---|---|"]
    for row in rows:
        default = "required" if row.default is None else _code(row.default)
        lines.append(f"| `{row.name}` | {_type(row.type, wants[row.name], page)} | {default} | {_cell(row.words)} |")
    return "\n".join(lines)


def _type(text: str, want: Any, page: str) -> str:
    """The type in words, with links where a node or nested options may stand."""
    links = {}
    for leaf in leaves(want):
        registry = registry_for(leaf)
        if registry is not None:
            links[f"{registry.role} node"] = f"[{registry.role} node]({_relative(page_of(registry), page)})"
        elif is_nested(leaf):
            links[f"{leaf.__name__} options"] = _link(leaf, page)
    if not links:
        return _code(text)
    parts = re.split("|".join(f"({re.escape(phrase)})" for phrase in links), text)
    return " ".join(links.get(part) or _code(part.strip()) for part in parts if part and part.strip())


def _link(cls: type, page: str) -> str:
    """A link to a class's section."""
    target = _target(cls)
    return f"[{cls.__name__}]({target.removeprefix(page) if target.startswith(page) else _relative(target, page)})"


def _target(cls: type) -> str:
    registry = registry_for(cls)
    return f"{NESTED if registry is None else page_of(registry)}#{cls.__name__.lower()}"


def _relative(target: str, page: str) -> str:
    return posixpath.relpath(target, posixpath.dirname(page))


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    return re.sub(r"(`+)(.*?)\1|\|", lambda match: match[0] if match[1] else "\\|", text)
