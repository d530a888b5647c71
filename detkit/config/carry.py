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
    registries = [registry for registry in Registry.of.values() if node.get("name") in registry]
    if len(registries) != 1:
        return [], []  # an unknown name is an error of its own, which the check reports
    new = schema(registries[0].get(node["name"])).options
    old = schema(registries[0].get(old_name)).options if old_name in registries[0] else {}
    dropped, kept = [], []
    for key, value in node.items():
        if key == "name" or key in explicit:
            continue
        same = key in new and key in old and new[key].want == old[key].want
        usable = same or (key in new and fits(value, new[key].want))
        (kept if usable else dropped).append(key)
    return dropped, kept
