"""One registry per role: a name -> class table whose entries implement one interface."""

import dataclasses
import difflib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from fvcore.common.registry import Registry as _Registry

T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., Any])


class ConfigError(ValueError):
    """The user's config is wrong. The message starts with the dotted path of the offending key."""


class DataError(ValueError):
    """The user's data is wrong. The message names the file and, where there is one, the annotation id."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that suggests the entry of ``known`` nearest to ``word``; empty when none is near."""
    near = nearest(word, known)
    return f" Did you mean '{near}'?" if near else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The entry of ``known`` that is most like ``word``, and so probably what was meant; None when none is near."""
    typed = str(word).lower()

    def nearness(entry: str) -> float:
        """0..1, and a little above for what mistypings have in common."""
        other = entry.lower()
        swapped = sorted(other) == sorted(typed)  # letters in the wrong order: the commonest slip
        return difflib.SequenceMatcher(None, typed, other).ratio() + 0.1 * swapped + 0.05 * other.startswith(typed[:1])

    near = max(map(str, known), key=nearness, default="")
    return near if near and nearness(near) >= 0.55 else None


def required(method: Method) -> Method:
    """Marks a method of an interface that each class that registers has of its own."""
    setattr(method, "required", True)  # noqa: B010
    return method


@dataclasses.dataclass(frozen=True)
class Removed:
    """An option that a class does not have any more, as a value of its ``renamed_options``.

    Args:
        fix: what to write instead, for the error message.
        default: what it was where nobody set it. A config that says just this loads without the option: those that
            a run or a checkpoint saved have every default written out.
        subclass: the registered class that has the option today. A node that sets the option becomes one of it.
        becomes: pairs of a value and of the registered class that does today what the value said. A node with this
            value becomes one of the class, without the option.
        group: of an option that was a group, its defaults: what a config said that left out some of them.
    """

    fix: str = ""
    default: Any = inspect.Parameter.empty
    subclass: str | None = None
    becomes: tuple[tuple[Any, str], ...] = ()
    group: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Registry(_Registry, Generic[T]):
    """``name -> class`` for one role.

    A class is checked when it registers: it has the ``required`` methods of the role's interface, takes the role's
    runtime arguments (the parameters before ``*``, or wiring: what its owner knows, such as shapes), hides no options
    behind ``**kwargs`` and annotates every option, because the annotations are the schema of its config node.

    What a class and its options were called before, the class itself says, so that old configs load:
    ``renamed_from: ClassVar[tuple[str, ...]]`` has the earlier names of the class, ``renamed_options:
    ClassVar[Mapping[str, str | Removed]]`` the earlier options. ``{"score_thresh": "detection.score_thresh"}`` moves
    the value to that path below the node; ``"!why, and what to write"`` or a ``Removed`` refuses it. The earlier option
    may be a path too, and a dataclass of nested options may have ``renamed_options``.

    Classes that users ask for by a short word, such as a format on a command line, say it: ``key: ClassVar[str]``.

    Args:
        role: the role in words, as error messages say it, e.g. ``"mask head"``.
        base: the interface; every registered class must be a subclass of it.
    """

    of: ClassVar[dict[type, "Registry[Any]"]] = {}
    """interface -> its registry"""

    def __init__(self, role: str, base: type[T]):
        super().__init__(role)
        self.role, self.base = role, base
        self.renamed: dict[str, str] = {}  # a class's earlier name -> its name
        Registry.of[base] = self

    def _do_register(self, name: str, obj: Any) -> None:
        if not (isinstance(obj, type) and issubclass(obj, self.base)):
            raise TypeError(f"{name} is registered as {self.a_role} but is not a {self.base.__name__}")
        if name != obj.__name__:
            raise TypeError(f"{obj.__name__} registers as '{name}'; the registered name is the class name")
        given, wanted = runtime_arguments(obj), runtime_arguments(self.base)
        if given != wanted:
            raise TypeError(f"{name}.__init__ takes {given} before '*'; {self.a_role} takes {wanted}")
        for p in inspect.signature(obj).parameters.values():
            if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
                raise TypeError(f"{name}.__init__: '{p}' hides options from the schema; name them")
            if p.kind is p.KEYWORD_ONLY and p.annotation is p.empty:
                raise TypeError(f"{name}.__init__: annotate '{p.name}'; the annotation is its schema")
        missing = [m for m in dir(obj) if getattr(getattr(obj, m), "required", False)]
        if missing:
            where = f"{self.base.__name__} in {self.base.__module__}"
            raise TypeError(f"{name} lacks {', '.join(missing)}, which {self.a_role} needs; see {where}")
        other = super().get(name) if name in self else None
        if other is not None and not _is_again(obj, other):
            raise KeyError(f"{self.role} '{name}' is already registered by {other.__module__}; choose another name")
        same = self.by_key().get(vars(obj).get("key", ""))
        if same is not None and same.__name__ != name:
            raise KeyError(f"{name}: the key '{vars(obj)['key']}' is that of {same.__name__}; choose another")
        self._obj_map.pop(name, None)
        super()._do_register(name, obj)
        self.renamed.update(dict.fromkeys(obj.__dict__.get("renamed_from", ()), name))

    @property
    def a_role(self) -> str:
        """The role with its article, for error messages: "a mask head", "an optimizer"."""
        return f"{'an' if self.role[0] in 'aeiou' or self.role.startswith('RPN') else 'a'} {self.role}"

    def get(self, name: str) -> type[T]:
        """The class registered as ``name``. Raises ConfigError, with the nearest name, if there is none."""
        if name not in self:
            known = self.names()
            raise ConfigError(
                f"no {self.role} named '{name}'.{did_you_mean(name, known)} Registered: {', '.join(known) or 'none'}"
                " (a component of your own must be listed under 'imports:')"
            )
        return super().get(name)

    def by_key(self) -> dict[str, type[T]]:
        """The classes that say a ``key``, by it. A subclass has none until it says its own."""
        return {vars(cls)["key"]: cls for cls in map(self.get, self.names()) if "key" in vars(cls)}

    def with_key(self, key: str, place: str, *others: str) -> type[T]:
        """The class that says this ``key``.

        Args:
            key: what the user wrote.
            place: where, e.g. ``"--to"``.
            others: words that have no class and may stand there, too.

        Raises:
            ConfigError: there is none; with the nearest key.
        """
        classes = self.by_key()
        if key not in classes:
            known = [*classes, *others]
            raise ConfigError(
                f"{place}: there is no '{key}'.{did_you_mean(key, known)} There are {', '.join(known)} (one of "
                "your own must be listed under 'imports:')"
            )
        return classes[key]

    def forget(self, module: str) -> None:
        """Takes out the classes of ``module``, so that a module whose import failed can be imported again."""
        for name in [name for name, obj in self if obj.__module__ == module]:
            del self._obj_map[name]
            self.renamed = {old: new for old, new in self.renamed.items() if new != name}

    def names(self) -> list[str]:
        """The registered names, sorted."""
        return sorted(name for name, _ in self)


def _is_again(new: type, old: type) -> bool:
    """Whether ``new`` is ``old``, run again: a cell of a notebook, or a module that was edited and reloaded.

    Two classes of one name in one file are a mistake: both come while it is imported for the first time, or from two
    places in a function.
    """
    if (new.__module__, new.__qualname__) != (old.__module__, old.__qualname__):
        return False
    if "<locals>" in new.__qualname__:
        lines = [{f.__code__.co_firstlineno for f in vars(cls).values() if inspect.isfunction(f)} for cls in (new, old)]
        return bool(lines[0]) and lines[0] == lines[1]
    return not getattr(getattr(sys.modules.get(new.__module__), "__spec__", None), "_initializing", False)


def options(cls: type) -> dict[str, inspect.Parameter]:
    """What a config may set: the keyword-only parameters of ``cls.__init__`` (all of a dataclass's fields)."""
    params = inspect.signature(cls).parameters.values()
    nested = hasattr(cls, "__dataclass_fields__") and role_of(cls) is None
    return {p.name: p for p in params if p.kind is p.KEYWORD_ONLY or nested}


def runtime_arguments(cls: type) -> tuple[str, ...]:
    """What the owner passes and no config may set: the parameters of ``cls.__init__`` before the star."""
    params = inspect.signature(cls).parameters.values()
    return tuple(p.name for p in params if p.kind is p.POSITIONAL_OR_KEYWORD)


def renamed_options(cls: type) -> dict[str, "str | Removed"]:
    """Earlier option -> where it stands today, of ``cls`` and its bases, without those that are options of ``cls``."""
    said = {key: to for base in reversed(cls.__mro__) for key, to in vars(base).get("renamed_options", {}).items()}
    texts = {key: Removed(to[1:]) if isinstance(to, str) and to.startswith("!") else to for key, to in said.items()}
    return {key: to for key, to in texts.items() if key not in options(cls)}


def role_of(cls: type) -> "Registry[Any] | None":
    """The registry of the role that ``cls`` implements, or None for nested options (a plain dataclass)."""
    return next((Registry.of[base] for base in cls.__mro__ if base in Registry.of), None)
