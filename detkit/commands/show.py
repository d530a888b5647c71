"""Says what a config says, what it could say, and who said it: the work of ``detkit show``."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from detkit.commands.parsers.show import TRUST, parse_arguments
from detkit.config import Config, Recipe, complete, describe, load_config, parse, to_yaml, usage, written
from detkit.config.describe import summary
from detkit.config.lookup import explain, find_classes, find_location, part_names, roles_in
from detkit.config.named import config_names
from detkit.config.schema import place, schema, words
from detkit.experiment import Experiment
from detkit.registry import ConfigError, Registry, role_of


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Raises ConfigError for a mistake in the config or in the question."""
    args = parse_arguments(argv)
    print(_answer(args))
    return 0


def _answer(args: argparse.Namespace) -> str:
    config = None
    if args.config_file:
        imports = "run" if args.trust_imports else "skip"
        config = load_config(args.config_file, args.overrides, Experiment, imports)  # type: ignore[arg-type]
    skipped = [] if config is None or args.trust_imports else config.imports
    if skipped:
        print(f"not imported, because it is code: {', '.join(skipped)} ({TRUST})", file=sys.stderr)
    if args.configs:
        return "\n".join(config_names())
    if args.list is not None:
        return users_text(args.list) if args.list else roles_text()
    if args.options and (config is None or _is_class_name(args.options)):
        role = roles_text(args.options)
        return role or "\n\n".join(class_text(cls) for cls in find_classes(args.options, Experiment))
    assert config is not None  # main saw to it
    try:
        recipe = parse(config.tree, Experiment, sources=config.sources)
    except ConfigError as error:
        if not skipped or args.options or args.why:
            raise
        print(f"as it is written, without defaults and unchecked: {str(error).splitlines()[0]}", file=sys.stderr)
        return to_yaml({"imports": config.imports, **written(config.tree, config.outside)}).rstrip()
    if args.options:
        return path_text(recipe, config, args.options)
    if args.why:
        return why_text(recipe, config, args.why)
    listed = {"imports": config.imports} if config.imports else {}
    return to_yaml({**listed, **written(complete(recipe), config.outside)}).rstrip()


def _is_class_name(text: str) -> bool:
    return text[:1].isupper() and "." not in text


def roles_text(only: str | None = None) -> str:
    """Every role (or the one called ``only``) with its runtime arguments, and the classes registered for it."""
    blocks = []
    for base, registry in Registry.of.items():
        if only not in (None, base.__name__):
            continue
        runtime = f"; runtime arguments: {', '.join(schema(base).runtime)}" if schema(base).runtime else ""
        lines = [f"{registry.role} ({base.__name__}{runtime})"]
        names = registry.names()
        lines += [f"  {name:<26} {summary(registry.get(name))}".rstrip() for name in names] or ["  (none)"]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def users_text(name: str) -> str:
    """Which of detkit's configs have a part (a class, or each class of a role), written down or by a default.

    Raises:
        ConfigError: there is no such class or role.
    """
    role = next((registry for base, registry in Registry.of.items() if base.__name__ == name), None)
    parts = [cls.__name__ for cls in find_classes(name, Experiment)] if role is None else role.names()
    users = {part: list[str]() for part in parts}
    for config_name in config_names():
        config = load_config(config_name, (), Experiment, "skip")
        tree = complete(parse(config.tree, Experiment, sources=config.sources))
        for part in part_names(tree) & users.keys():
            users[part].append(config_name)
    counts = {part: f"{len(found)} config{'s' * (len(found) != 1)}" for part, found in users.items()}
    return "\n".join("\n  ".join([f"{part}: in {counts[part]}", *found]) for part, found in users.items())


def class_text(cls: type) -> str:
    """What ``cls`` is, its options with types, defaults and words, and its runtime arguments."""
    registry = role_of(cls)
    lines = [
        f"{cls.__name__} ({registry.role if registry else 'nested options'})",
        *[f"  {summary(cls)}"] * bool(summary(cls)),
    ]
    lines.append(usage(cls, explain=True))
    if schema(cls).runtime:
        lines.append(f"  runtime arguments, passed by its owner: {', '.join(schema(cls).runtime)}")
    return "\n".join(lines)


def path_text(recipe: Recipe[Any], config: Config, path: str) -> str:
    """The options of the node at ``path``; for a single value, what it may be and what it is."""
    location = find_location(recipe, path)
    lines = []
    if isinstance(location.value, Recipe):
        lines.append(class_text(location.value.cls))
    if location.option is not None and location.owner is not None:
        if not lines:
            row = next(row for row in describe(location.owner) if row.name == location.option.name)
            given = " (required)" if row.default is None else f" = {row.default}"
            lines.append(f"{path}: {row.type}{given}, an option of {location.owner.__name__} ({place(location.owner)})")
            lines += [f"    {row.words}"] if row.words else []
            lines.append(why_text(recipe, config, path))
        for registry in roles_in(location.option.want):
            lines.append(
                f"{path} takes {words(location.option.want)}; registered: {', '.join(registry.names()) or 'none'}"
            )
    return "\n".join(lines or [why_text(recipe, config, path)])


def why_text(recipe: Recipe[Any], config: Config, path: str) -> str:
    """One line a value at or below ``path``: what it is and where that was said."""
    values = explain(recipe, config.sources, path)
    width = max((len(f"{value.path}: {value.value}") for value in values), default=0)
    lines = [f"{f'{v.path}: {v.value}':<{min(width, 70)}}  {v.source}" for v in values]
    return "\n".join(lines or [f"{path}: []  {config.sources.get(path, 'a default')}"])
