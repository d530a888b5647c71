"""What becomes of a node's options when an override changes only its ``name``."""

from typing import Any

from detkit.config.parse import fits
from detkit.config.schema import schema
from detkit.registry import Registry


def sort_options(node: dict[str, Any], old_name: str, explicit: set[str]) -> tuple[list[str], list[str]]:
    """``(dropped, kept)``: which options of ``node``, written for the class ``old_name``, its new class can use.

    An option stays if the new class has one of that name and, where the two classes declare it differently, the
    value fits the new declaration. ``explicit`` options (the user's own overrides) are in neither list.
    """
    found = [registry for registry in Registry.of.values() if node.get("name") in registry]
    found = [registry for registry in found if old_name in registry] or found
    if not found:
        return [], []  # an unknown name is an error of its own, which the check reports
    dropped: list[str] = []
    kept: list[str] = []
    for key, value in node.items():
        if key != "name" and key not in explicit:
            usable = any(_usable(key, value, node["name"], old_name, registry) for registry in found)
            (kept if usable else dropped).append(key)
    return dropped, kept


def _usable(key: str, value: Any, new_name: str, old_name: str, registry: Registry[Any]) -> bool:
    new = schema(registry.get(new_name)).options.get(key)
    old = schema(registry.get(old_name)).options.get(key) if old_name in registry else None
    if new is None:
        return False
    return (old is not None and old.want == new.want) or fits(value, new.want)
