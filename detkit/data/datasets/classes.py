"""Which categories of the data are the classes, and the keypoints that these have."""

from collections.abc import Mapping, Sequence

from detkit.registry import DataError, did_you_mean
from detkit.structures import KeypointSpec


def choose_classes(
    categories: Mapping[int, str], class_names: Sequence[str] | None, place: str
) -> tuple[tuple[tuple[int, str], ...], dict[int, int]]:
    """``(id, name)`` of each class, and category id -> class index, -1 for a category that is left out.

    Args:
        categories: id -> name; two of one name are one class, which has the id of the last.
        class_names: the wanted ones, in order of the classes; None for all.
        place: the file, for messages.

    Raises:
        DataError: there is none, or a wanted name is not there or there twice.
    """
    known = list(dict.fromkeys(categories.values()))
    if not known:
        raise DataError(f"{place}: 'categories' is empty; a detector needs at least one class")
    wanted = known if class_names is None else list(class_names)
    if not wanted or len(set(wanted)) < len(wanted):
        raise DataError(f"{place}: class_names: expected different names, got {wanted}")
    ids = {name: id_ for id_, name in categories.items()}
    for name in wanted:
        if name not in ids:
            raise DataError(
                f"{place}: class_names: there is no category '{name}'.{did_you_mean(name, known[:1000])} It has "
                f"{', '.join(known[:20])}{' ...' if len(known) > 20 else ''}"
            )
    number = {name: i for i, name in enumerate(wanted)}
    return tuple((ids[name], name) for name in wanted), {id_: number.get(name, -1) for id_, name in categories.items()}


def common_keypoints(
    classes: Sequence[tuple[int, str]], keypoints: Mapping[int, KeypointSpec], place: str
) -> KeypointSpec | None:
    """The keypoints of the classes, of which some may have none. Raises DataError where two have different ones."""
    found = [(name, keypoints[id_]) for id_, name in classes if id_ in keypoints]
    for name, spec in found[1:]:
        if spec.names != found[0][1].names:
            raise DataError(
                f"{place}: the categories '{found[0][0]}' and '{name}' have different keypoints; a dataset has one set "
                "of them. Take one of the two with class_names, or write each into a file of its own"
            )
    return found[0][1] if found else None
