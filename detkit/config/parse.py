"""A node -> a Recipe. The annotations of a constructor are the schema of its node.

The whole tree is checked, and as many mistakes as can be found are reported together, before anything is built.
"""

import copy
import dataclasses
import itertools
import types
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from detkit.config.describe import usage
from detkit.config.lookup import meant_option
from detkit.config.merge import merge
from detkit.config.migrate import migrate
from detkit.config.recipe import Eager, Recipe, make, reads_own_options
from detkit.config.scalar import Mismatch, convert, shown
from detkit.config.schema import MISSING, Schema, is_dict, is_list, is_nested, is_node, registry_for, schema, words
from detkit.config.write import plain
from detkit.config.yaml_file import wrap
from detkit.registry import ConfigError, DataError, Registry, did_you_mean, role_of

T = TypeVar("T")
_MOST = 10
_NOTHING: Recipe[Any] = Recipe(object)


def parse(
    node: Any,
    role: type[T],
    path: str = "",
    default: Any = None,
    *,
    sources: Mapping[str, str] | None = None,
) -> Recipe[T]:
    """``node`` and everything under it, checked against signatures, as a recipe. Builds nothing.

    Args:
        node: plain data: ``{name: Class, option: value, ...}``, or without ``name`` for nested options.
        role: the interface that the node's class must implement, or a dataclass (nested options; the root of a config).
        path: the dotted path of the node, for messages.
        default: a Recipe (or an object of nested options) over which the node is laid.
        sources: dotted path -> where it was written, for messages.

    The recipe's ``kwargs`` hold every option, defaults included. Raises ConfigError.
    """
    node = migrate(node, role, path, MISSING if default is None else default)
    check = _Check(sources or {})
    recipe = check.node(node, role, path, MISSING if default is None else default)
    check.finish(recipe, path)
    return recipe


def build(node: Any, role: type[T], *runtime: Any) -> T:
    """Checks ``node`` and everything under it, then makes the object from it and its runtime arguments."""
    return parse(node, role)(*runtime)


def fits(value: Any, want: Any) -> bool:
    """Whether ``value`` is one that the annotation ``want`` takes."""
    check = _Check({})
    check.value(value, want, "value")
    return not check.problems


@dataclasses.dataclass(frozen=True)
class _Problem:
    text: str  # "path: what is wrong"
    detail: str = ""  # further lines


class _Check:
    """One walk over a tree. Collects problems; what it returns counts only if there are none."""

    def __init__(self, sources: Mapping[str, str]):
        self.sources = sources
        self.problems: list[_Problem] = []
        self.unknown: dict[int, tuple[str, str, tuple[str, ...]]] = {}  # number of a problem -> node, key, its options

    def fail(self, path: str, message: str, detail: str = "", at: str = "") -> None:
        """Notes a problem of ``path``; ``at`` is the key that is wrong, where it is another."""
        source = self.sources.get(at or path) or self.sources.get(path)
        if not (path and message.startswith((f"{path}:", f"{path}."))):  # a check of nested options may name it
            message = f"{path or 'config'}: {message}"
        self.problems.append(_Problem(message + (f"  [{source}]" if source else ""), detail))

    def finish(self, root: Recipe[Any], path: str) -> None:
        """Raises ConfigError if there were problems: the first in full, the others in one line each."""
        if not self.problems:
            return
        for i, (node, key, known) in self.unknown.items():
            old, new = (f"no option '{key}'.{meant}" for meant in (did_you_mean(key, known), ""))
            new += meant_option(root, path, node, key, known)
            self.problems[i] = dataclasses.replace(self.problems[i], text=self.problems[i].text.replace(old, new, 1))
        first, *others = self.problems
        lines = [first.text, first.detail] if first.detail else [first.text]
        if others:
            lines.append(f"There {'is 1 other mistake' if len(others) == 1 else f'are {len(others)} other mistakes'}:")
            lines += [f"  {problem.text}" for problem in others[: _MOST - 1]]
            lines += ["  ..."] if len(others) >= _MOST else []
        raise ConfigError("\n".join(lines))

    def node(self, node: Any, role: Any, path: str, default: Any = MISSING, owner: type | None = None) -> Recipe[Any]:
        """A mapping as a recipe of ``role``, laid over ``default`` where that is a recipe or nested options."""
        if len(self.problems) > 20 * _MOST:
            return _NOTHING  # nobody reads on
        if isinstance(node, str) and registry_for(role) is not None:
            node = {"name": node}  # for short
        basis = default.cls if isinstance(default, Recipe) else type(default)
        if isinstance(node, Mapping) and issubclass(basis, role) and (isinstance(default, Recipe) or is_nested(basis)):
            node = merge(wrap(plain(default), ""), wrap(dict(node), "")).plain()
        if not isinstance(node, Mapping):
            registry = registry_for(role)
            what = f"{registry.a_role} node: a mapping with a 'name'" if registry else f"{words(role)}: a mapping"
            hint = "; this part is not optional" if node is None else ""
            hint = "; a list cannot stand here (remove the '-')" if isinstance(node, list | tuple) else hint
            self.fail(path, f"expected {what}, got {shown(node)}{hint}")
            return _NOTHING
        cls = self._class_of(node, role, path)
        if cls is None:
            return _NOTHING
        given = {key: value for key, value in node.items() if key != "name" or is_nested(cls)}
        known, before = schema(cls), len(self.problems)
        self._check_keys(given, known, cls, path, owner)
        kwargs = {}
        for name, option in known.options.items():
            below = f"{path}.{name}" if path else name
            if name in given:
                kwargs[name] = self.value(given[name], option.want, below, option.default, cls)
            elif option.default is not MISSING:
                kwargs[name] = self._default(option.default, option.want, below, cls)
        recipe: Recipe[Any] = Recipe(cls, kwargs)
        if len(self.problems) == before:
            self._try(recipe, path)
        return recipe

    def value(
        self, value: Any, want: Any, path: str, default: Any = MISSING, owner: type | None = None, expected: str = ""
    ) -> Any:
        """``value`` converted to what the annotation ``want`` asks for."""
        origin, args = get_origin(want), get_args(want)
        expected = expected or words(want)
        if origin is Annotated:
            return self._in_range(self.value(value, args[0], path, default, owner, expected), args[1:], path, expected)
        if origin in (Union, types.UnionType):
            return self._union(value, want, path, default, owner)
        if is_node(want):
            recipe = self.node(value, args[0] if origin is Recipe else want, path, default, owner)
            return recipe if origin is Recipe else Eager(recipe)
        if want is Any or want is object:
            return copy.deepcopy(value)
        if is_list(want):
            return self._list(value, want, path, owner, expected)
        if is_dict(want):
            return self._dict(value, want, path, owner, expected)
        try:
            return convert(value, want, expected)
        except Mismatch as error:
            self.fail(path, str(error))

    def _in_range(self, value: Any, ranges: tuple[Any, ...], path: str, expected: str) -> Any:
        try:
            for range_ in ranges if value is not None else ():
                value = range_.check(value) if hasattr(range_, "check") else value
        except ValueError as error:
            hint = f"; {error}" if str(error) else ""
            what = (
                value if isinstance(value, int | float) else shown(list(value) if isinstance(value, tuple) else value)
            )
            self.fail(path, f"expected {expected}, got {what}{hint}")
        return value

    def _class_of(self, node: Mapping[Any, Any], role: Any, path: str) -> type | None:
        registry: Registry[Any] | None = registry_for(role)
        if registry is None:
            return role
        name = node.get("name")
        if name is None and role is not registry.base:
            return role
        if not isinstance(name, str):
            what = "needs a 'name'" if name is None else f"has a wrong name: expected a word, got {shown(name)}"
            self.fail(path, f"{registry.a_role} node {what}. Registered: {', '.join(registry.names()) or 'none'}")
            return None
        try:
            cls = registry.get(name)
        except ConfigError as error:
            self.fail(path, str(error), at=f"{path}.name")
            return None
        if not issubclass(cls, role):
            self.fail(path, f"expected {role.__name__} or a kind of it, got '{name}'", at=f"{path}.name")
            return None
        return cls

    def _check_keys(self, given: dict[Any, Any], known: Schema, cls: type, path: str, owner: type | None) -> None:
        for key in itertools.islice((key for key in given if key not in known.options), 2 * _MOST):
            if key in known.runtime:
                who = owner.__name__ if owner else "its builder"
                message = f"'{key}' is a runtime argument of {cls.__name__}: {who} passes it. Remove it from the config"
            else:
                message = f"{cls.__name__} has no option '{key}'.{did_you_mean(key, known.options)}"
                self.unknown[len(self.problems)] = (path, str(key), tuple(known.options))
            self.fail(path, message, usage(cls), at=f"{path}.{key}" if path else str(key))
        missing = [name for name, option in known.options.items() if option.default is MISSING and name not in given]
        for name in missing:
            self.fail(path, f"{cls.__name__} needs '{name}' ({words(known.options[name].want)})", usage(cls))

    def _default(self, default: Any, want: Any, path: str, owner: type) -> Any:
        """A default is checked like a written value, so that the complete config loads to an equal recipe."""
        before = len(self.problems)
        value = self.value(plain(default), want, path, MISSING, owner)
        for i in range(before, len(self.problems)):
            note = f"{self.problems[i].text} (this is the default of {owner.__name__}: a mistake in the class)"
            self.problems[i] = _Problem(note, self.problems[i].detail)
        return value

    def _try(self, recipe: Recipe[Any], path: str) -> None:
        """Makes nested options once, or asks a class's ``check_options``, so that their checks come before building."""
        nested, check = is_nested(recipe.cls), getattr(recipe.cls, "check_options", None)
        check = check if check and reads_own_options(recipe.cls, "check_options") else None
        if not (nested or check) or any(map(_holds_component, recipe.kwargs.values())):
            return
        try:
            recipe() if check is None else check({name: make(value) for name, value in recipe.kwargs.items()})
        except DataError:
            raise
        except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
            part, _, problem = str(error).partition(": ")
            if part in recipe.kwargs and check is not None:
                self.fail(f"{path}.{part}", problem)
            elif (
                isinstance(error, ConfigError) and check is None
            ):  # a check of several parts says itself which one is wrong
                self.fail(part, problem)
            else:
                self.fail(path, str(error))

    def _union(self, value: Any, want: Any, path: str, default: Any, owner: type | None) -> Any:
        arms = [arm for arm in get_args(want) if arm is not type(None)]
        if value is None and len(arms) < len(get_args(want)):
            return None
        if value == "None" and len(arms) < len(get_args(want)):
            return self.fail(path, f"expected {words(want)}, got 'None'; in YAML nothing is null, so write null")
        if len(arms) == 1:
            return self.value(value, arms[0], path, default, owner, words(want))
        tried: list[tuple[Any, list[_Problem]]] = []
        for arm in arms:
            trial = _Check(self.sources)
            made = trial.value(value, arm, path, default, owner)
            if not trial.problems:
                return made
            tried.append((arm, trial.problems))
        nodes = [problems for arm, problems in tried if is_node(arm)]
        if isinstance(value, Mapping) and len(nodes) == 1:
            self.problems += nodes[0]
            return None
        detail = "\n".join(f"  as {words(arm)}: {problems[0].text}" for arm, problems in tried)
        self.fail(
            path, f"expected {words(want)}, got {shown(value)}", detail if isinstance(value, Mapping | list) else ""
        )
        return None

    def _list(self, value: Any, want: Any, path: str, owner: type | None, expected: str) -> Any:
        kind, args = get_origin(want) or want, get_args(want)
        if not isinstance(value, list | tuple):
            hint = "; write [...]" if not isinstance(value, Mapping) else "; each item starts with '-'"
            self.fail(path, f"expected a list {expected}, got {shown(value)}{hint}")
            return None
        if kind is tuple and args and args[-1] is not Ellipsis:
            wants = [arg for arg in args if arg != ()]
            if len(value) != len(wants):
                self.fail(path, f"expected a list of {len(wants)} values {expected}, got {shown(list(value))}")
                return None
        else:
            wants = [args[0] if args else Any] * len(value)
        made = [self.value(v, w, f"{path}[{i}]", MISSING, owner) for i, (v, w) in enumerate(zip(value, wants))]
        return tuple(made) if kind is tuple else made

    def _dict(self, value: Any, want: Any, path: str, owner: type | None, expected: str) -> Any:
        if not isinstance(value, Mapping):
            self.fail(path, f"expected a mapping {expected}, got {shown(value)}")
            return None
        key_want, item_want = get_args(want) or (Any, Any)
        made = {}
        for key, item in value.items():
            below = f"{path}.{key}"
            made[self.value(key, key_want, below)] = self.value(item, item_want, below, MISSING, owner)
        return made


def _holds_component(value: Any) -> bool:
    """Whether making the nested options ``value`` would build a component (what ``Eager`` promises)."""
    if isinstance(value, Eager):
        return role_of(value.recipe.cls) is not None or _holds_component(value.recipe)
    if isinstance(value, Recipe):
        return is_nested(value.cls) and any(_holds_component(item) for item in value.kwargs.values())
    if isinstance(value, Mapping):
        return any(_holds_component(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_holds_component(item) for item in value)
