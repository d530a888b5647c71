"""The categories of a COCO file: their names, which of them are the classes, and their keypoints."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from detkit.data.datasets.keypoints import KeypointSpec
from detkit.data.issues import Issue, Report
from detkit.registry import DataError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Categories:
    """The categories of a file, by what becomes of them.

    Args:
        classes: id -> name of each class, in order.
        left_out: ids of those that are not wanted.
        keypoints: what the classes' keypoints are; None where they have none.
    """

    classes: dict[int, str]
    left_out: Collection[int]
    keypoints: KeypointSpec | None


def read_categories(
    entries: Sequence[Any], class_names: Sequence[str] | None, place: str, report: Report
) -> Categories:
    """The categories, checked.

    Args:
        entries: what stands in the file.
        class_names: the wanted ones, in order of the classes; None for all, in the order of their ids.
        place: the file, for messages.
        report: takes each issue; where it returns, the category is left out.

    Raises:
        DataError: there is none, a wanted name is not there, or the classes have different keypoints.
    """
    found = _by_id(entries, place, report)
    if not found:
        raise DataError(f"{place}: 'categories' is empty; a detector needs at least one class")
    names = {id_: str(entry["name"]) for id_, entry in sorted(found.items())}
    wanted = list(dict.fromkeys(names.values())) if class_names is None else list(class_names)
    if not wanted or len(set(wanted)) < len(wanted):
        raise DataError(f"{place}: class_names: expected different names, got {wanted}")
    for name in wanted:
        if name not in names.values():
            known = [str(entry["name"]) for entry in found.values()]
            raise DataError(
                f"{place}: class_names: there is no category '{name}'.{did_you_mean(name, known)} It has "
                f"{', '.join(known[:20])}{' ...' if len(known) > 20 else ''}"
            )
    classes = {id_: name for name in wanted for id_, other in names.items() if other == name}
    return Categories(classes, names.keys() - classes.keys(), _keypoints([found[id_] for id_ in classes], place))


def _by_id(entries: Sequence[Any], place: str, report: Report) -> dict[int, Mapping[str, Any]]:
    """Id -> category."""
    found: dict[int, Mapping[str, Any]] = {}
    for i, entry in enumerate(entries):
        id_, name = (entry.get("id"), entry.get("name")) if isinstance(entry, Mapping) else (None, None)
        label = f"category {id_}" if type(id_) is int else f"categories[{i}]"
        if type(id_) is not int or type(name) is not str:
            what = f"{label} is {str(entry)[:60]!r}; expected a mapping with an id (a whole number) and a name"
            report(Issue("malformed entry", place, label, what))
            continue
        if id_ in found:
            what = f"two categories have the id {id_}"
            report(Issue("category id twice", place, label, what, "give each its own"))
            continue
        if any(name == other["name"] for other in found.values()):
            what = f"two categories are named '{name}'"
            report(Issue("category name twice", place, label, what, "rename one, or merge both into one category"))
        found[id_] = entry
    return found


def _keypoints(categories: Sequence[Mapping[str, Any]], place: str) -> KeypointSpec | None:
    """The one set of keypoints that the categories have; those without any have objects without any."""
    with_some = [category for category in categories if category.get("keypoints")]
    if not with_some:
        return None
    first = with_some[0]
    for other in with_some:
        if other["keypoints"] != first["keypoints"]:
            raise DataError(
                f"{place}: the categories '{first['name']}' and '{other['name']}' have different keypoints; a dataset "
                "has one set of them. Take one of the two with class_names, or write each into a file of its own"
            )
    names, lines = first["keypoints"], first.get("skeleton") or []
    if type(names) is not list or len(set(map(str, names))) < len(names):
        raise DataError(
            f"{place}: category '{first['name']}': keypoints is {str(names)[:60]}; expected a list of different names"
        )
    numbers = range(1, len(names) + 1)
    if type(lines) is not list or any(
        type(pair) is not list or [n for n in pair if n in numbers] != pair for pair in lines
    ):
        what = f"skeleton is {str(lines)[:60]}; expected pairs of keypoints, the first of which is 1"
        raise DataError(f"{place}: category '{first['name']}': {what}")
    return KeypointSpec(tuple(map(str, names)), tuple((a - 1, b - 1) for a, b in lines))
