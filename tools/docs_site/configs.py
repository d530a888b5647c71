"""The pages of all configs: what each is, and which fields it sets."""

import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from detkit.config import Config, ForeignConfig, load_config, written
from detkit.config.lookup import part_names
from detkit.config.named import find_config
from detkit.config.write import flow
from detkit.experiment import Experiment, load_experiment
from detkit.registry import Registry
from docs_site.links import ROOT, source_page

FOLDER = "reference/configs"
CONFIGS = ROOT / "configs"
NOT_SET = "not set"


class ConfigFile(NamedTuple):
    """A file under ``configs/``: its name without the suffix, its first comment, and the complete tree of a leaf."""

    path: Path
    name: str
    comment: str
    tree: dict[str, Any] | None

    @property
    def folder(self) -> str:
        """The page that it is on."""
        return self.name.split("/")[0]

    @property
    def anchor(self) -> str:
        """Its place on that page."""
        return _anchor(self.name)


def read_configs() -> list[ConfigFile]:
    """Every config, checked and completed."""
    os.environ.pop("DETKIT_DATASETS", None)  # the pages say nothing of the machine that makes them
    found = []
    for path in sorted(CONFIGS.rglob("*.yaml")):
        name = path.relative_to(CONFIGS).with_suffix("").as_posix()
        tree = None if name.startswith("_base_") else load_experiment(path).tree
        found.append(ConfigFile(path, name, _comment(path.read_text()), tree))
    first = {"quick_start": 0, "own_data": 1, "_base_": 3}
    return sorted(found, key=lambda config: (first.get(config.folder, 2), config.name))


def targets(configs: list[ConfigFile]) -> dict[str, str]:
    """Name of a config, and its path, -> its place."""
    names = {config.name: f"{FOLDER}/{config.folder}.md#{config.anchor}" for config in configs}
    return {**names, **{f"configs/{name}.yaml": place for name, place in names.items()}}


def used_by(configs: list[ConfigFile]) -> dict[str, list[str]]:
    """Component -> links to the configs that use it, named or by default."""
    known = {name for registry in Registry.of.values() for name in registry.names()}
    links: dict[str, list[str]] = {}
    for config in configs:
        for name in sorted(known & part_names(config.tree)):
            links.setdefault(name, []).append(f"[{config.name}](../configs/{config.folder}.md#{config.anchor})")
    return links


def _comment(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def pages(configs: list[ConfigFile]) -> Iterator[tuple[str, str]]:
    """A page for every folder, and one of all."""
    folders = list(dict.fromkeys(config.folder for config in configs))
    tables = [f"## {_escaped(folder)}\n\n{_table([c for c in configs if c.folder == folder])}" for folder in folders]
    yield f"{FOLDER}/index.md", "\n\n".join([_WORDS, *tables])
    for folder in folders:
        own = [config for config in configs if config.folder == folder]
        yield f"{FOLDER}/{folder}.md", "\n\n".join([f"# {_escaped(folder)}", *(_section(config) for config in own)])


_WORDS = """# All configs

Every YAML under `configs/`, read when this page was built. A config is named without its path and suffix, on the
command line and under `_base_`."""


def _table(configs: list[ConfigFile]) -> str:
    rows = []
    for config in configs:
        name = _escaped(config.name.partition("/")[2])
        facts = "" if config.tree is None else f" {' | '.join(_facts(config.tree))} |"
        first = re.split(r"[.:] ", config.comment)[0].rstrip(".")
        rows.append(f"| [{name}]({config.folder}.md#{config.anchor}) |{facts} {_escaped(first)} |")
    head = ["part", ""] if configs[0].tree is None else ["config", "model", "data", "length", ""]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows])


def _facts(tree: Mapping[str, Any]) -> list[str]:
    """What it trains on what data, and for how long."""
    model, solver = tree["model"], tree["solver"]
    backbone, neck = model.get("backbone") or {}, model.get("neck") or {}
    parts = [
        backbone.get("model") or f"{backbone.get('name', model['name'])} {backbone.get('depth', '')}".strip(),
        *([neck["name"]] if neck else []),
        *(["masks"] if (model.get("roi_heads") or {}).get("mask_head") else []),
    ]
    length = f"{solver['max_iter']:,}&nbsp;steps" if solver["max_iter"] else f"{solver['epochs']:g}&nbsp;epochs"
    return [", ".join(parts), tree["data"]["train_dataset"]["name"], length]


def _section(config: ConfigFile) -> str:
    bases = _bases(config.path)
    below = load_config(ForeignConfig({"_base_": bases}, config.path.parent), root=Experiment) if bases else None
    blocks = [f"## {_escaped(config.name)} {{#{config.anchor}}}", _escaped(config.comment)]
    if bases:
        blocks.append(f"Bases: {', '.join(_base_link(find_config(Path(base), config.path.parent)) for base in bases)}.")
    rows = ["| differs in | here | in its bases |", "|---|---|---|"] if bases else ["| field | value |", "|---|---|"]
    own = load_config(config.path, root=Experiment)
    for path, value, earlier in _differences(_fields(own), _fields(below), ""):
        cells = [f"`{path}`", _value(value), *[_value(earlier)] * bool(bases)]
        rows.append(f"| {' | '.join(cells)} |")
    file = config.path.relative_to(ROOT).as_posix()
    address = posixpath.relpath(source_page(file), FOLDER)
    blocks += ["\n".join(rows), f'Source: <a href="{address}">`{file}`</a>']
    return "\n\n".join(filter(None, blocks))


def _bases(path: Path) -> list[str]:
    """What the file lists under ``_base_``."""
    bases = (yaml.safe_load(path.read_text()) or {}).get("_base_") or []
    return [bases] if isinstance(bases, str) else bases


def _base_link(file: Path) -> str:
    name = file.resolve().relative_to(CONFIGS).with_suffix("").as_posix()
    return f"[{_escaped(name)}]({name.split('/')[0]}.md#{_anchor(name)})"


def _anchor(name: str) -> str:
    return name.lower().replace("/", "-").replace("_base_", "base")


def _fields(config: Config | None) -> Any:
    """The tree, with what reads the environment as it is written."""
    return {} if config is None else written(config.tree, config.outside)


def _differences(own: Any, earlier: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Path, value and earlier value of what differs. A node of another name is one value: it is replaced whole."""
    old = {} if earlier is NOT_SET else earlier
    if own == earlier:
        return
    if (
        isinstance(own, Mapping)
        and isinstance(old, Mapping)
        and own
        and own.get("name") == old.get("name", own.get("name"))
    ):
        for key in dict.fromkeys([*own, *old]):
            below = f"{path}.{key}" if path else str(key)
            yield from _differences(own.get(key, NOT_SET), old.get(key, NOT_SET), below)
    else:
        yield path, own, earlier


def _value(value: Any) -> str:
    return NOT_SET if value is NOT_SET else f"`{flow(value)}`"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("_base_", "\\_base\\_")
