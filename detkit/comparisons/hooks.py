"""Looking into a model while it runs, and changing a part of it for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def recorded(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Any]]]:
    """Name -> what the module of that name gives, call by call; containers are copied, for callers may change them."""
    outputs: dict[str, list[Any]] = {name: [] for name in modules}
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: outputs[name].append(_copied(output)))
        for name, module in modules.items()
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within, an attribute of this object has another value; afterwards it is as it was."""
    before = dict(vars(owner))
    vars(owner)[name] = value
    try:
        yield
    finally:
        vars(owner).pop(name)
        if name in before:
            vars(owner)[name] = before[name]


def _copied(output: Any) -> Any:
    if isinstance(output, dict):
        return {key: _copied(value) for key, value in output.items()}
    return type(output)(map(_copied, output)) if type(output) in (list, tuple) else output
