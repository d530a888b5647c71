"""Functions with a form for each class of a role: what a part does with fixed counts."""

import functools
from collections.abc import Callable
from typing import Any

from detkit.registry import ConfigError


class FormTable:
    """A function that takes the form of its first argument's class, as ``functools.singledispatch`` does.

    A class has the form of the class that it is derived from, unless it does one of these things in its own way.

    Args:
        function: what is called for a class without a form; it raises.
        methods: names of the methods that a form stands for.

    Attributes:
        register: gives a class a form.
        dispatch: the form of a class.
    """

    def __init__(self, function: Callable[..., Any], methods: tuple[str, ...]):
        functools.update_wrapper(self, function)
        self._function, self._methods, self._name = functools.singledispatch(function), methods, function.__name__
        self.register, self.dispatch = self._function.register, self._function.dispatch

    def __call__(self, part: Any, *arguments: Any) -> Any:
        """What the part's form gives.

        Raises:
            ConfigError: there is no form of it, or it overrides a method that the form stands for.
        """
        known = next(cls for cls in type(part).__mro__ if cls in self._function.registry)
        for name in self._methods:
            if getattr(type(part), name, None) is not getattr(known, name, None) and known is not object:
                raise no_static_form(part, self._name, f", and its {name} is not {known.__name__}'s")
        return self._function(part, *arguments)


def static_form(*methods: str) -> Callable[[Callable[..., Any]], FormTable]:
    """A decorator; see ``FormTable``."""
    return lambda function: FormTable(function, methods)


def no_static_form(part: object, function: str, why: str = "") -> ConfigError:
    """The error for a part that export does not know."""
    return ConfigError(
        f"{type(part).__name__}: has no form with fixed counts, which a program needs{why}; give it one with "
        f"detkit.export.{function}.register({type(part).__name__}) (docs/extending.md), or derive it from a "
        "part that has one"
    )
