"""KeypointSpec: which points an object has, by name; how they are mirrored, drawn and evaluated."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from detkit.config import CountOrZero, Positive

SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}
USUAL_SIGMA = 0.067
"""The mean of the sigmas of COCO's 17 points."""


@dataclasses.dataclass(frozen=True)
class KeypointSpec:
    """The P keypoints that an object has.

    Args:
        names: P names.
        skeleton: pairs of keypoints (0 is the first) that a drawing joins by a line.
        sigmas: how far people who mark a keypoint are apart, P standard deviations in parts of the square root of the
            object's area, for OKS; none: COCO's for the names of COCO's persons, else 0.067 each.
        mirrored: pairs of keypoints that change places in a mirror; null: those whose names differ in left and right.

    Raises:
        ValueError: sigmas are not as many as names, or a pair names a keypoint that is not there.
    """

    names: tuple[str, ...]
    skeleton: tuple[tuple[CountOrZero, CountOrZero], ...] = ()
    sigmas: tuple[Positive, ...] = ()
    mirrored: tuple[tuple[CountOrZero, CountOrZero], ...] | None = None

    def __post_init__(self) -> None:
        if len(self.sigmas) not in (0, len(self.names)):
            raise ValueError(f"{len(self.sigmas)} sigmas are given for {len(self.names)} keypoints; give each its own")
        points = [point for pair in (*self.skeleton, *(self.mirrored or ())) for point in pair]
        if points and not 0 <= min(points) <= max(points) < len(self.names):
            raise ValueError(f"a pair of keypoints names {max(points)}; 0 to {len(self.names) - 1} are there")

    @property
    def flip_pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of keypoints that change places in a mirror: ``mirrored``, or by their names.

        The side may stand anywhere in the name, in any writing: ``left_eye``, ``eye_r``, ``Ear-L``, ``RAnkle``.
        """
        if self.mirrored is not None:
            return self.mirrored
        index = {_words(name): i for i, name in enumerate(self.names)}
        others = [index.get(_words(name, mirrored=True)) for name in self.names]
        return tuple((i, other) for i, other in enumerate(others) if other is not None and i < other)

    @property
    def oks_sigmas(self) -> tuple[float, ...]:
        """``sigmas``, or those that stand for them."""
        usual = COCO_PERSON.sigmas if self.names == COCO_PERSON.names else (USUAL_SIGMA,) * len(self.names)
        return self.sigmas or usual

    @staticmethod
    def from_coco(category: Mapping[str, Any]) -> "KeypointSpec":
        """From a category of a COCO file, which may have ``sigmas`` and ``flip_pairs``, too; points count from 1.

        Raises:
            ValueError: names, a skeleton, pairs or sigmas that are none.
        """
        names, lines, sigmas = category["keypoints"], category.get("skeleton") or [], category.get("sigmas") or []
        if (
            type(names) is not list
            or len(set(map(str, names))) < len(names)
            or not all(type(name) is int or _is_text(name) for name in names)
        ):
            raise ValueError(f"keypoints is {str(names)[:60]}; expected a list of different names")
        pairs = {"skeleton": lines, "flip_pairs": category.get("flip_pairs") or []}
        for key, given in pairs.items():
            if type(given) is not list or not all(
                isinstance(pair, list | tuple)
                and len(pair) == 2
                and all(type(n) is int and 1 <= n <= len(names) for n in pair)
                for pair in given
            ):
                raise ValueError(f"{key} is {str(given)[:60]}; expected pairs of keypoints, the first of which is 1")
        if type(sigmas) is not list or not all(type(s) in (int, float) and 0 < s < 1e6 for s in sigmas):
            raise ValueError(f"sigmas is {str(sigmas)[:60]}; expected a number above 0 for each keypoint")
        skeleton, mirrored = (tuple((a - 1, b - 1) for a, b in given) for given in pairs.values())
        own = mirrored if "flip_pairs" in category else None
        return KeypointSpec(tuple(map(str, names)), skeleton, tuple(map(float, sigmas)), own)

    def coco(self) -> dict[str, Any]:
        """What stands in a category of a COCO file; ``from_coco`` reads it."""
        found: dict[str, Any] = {"keypoints": list(self.names), "skeleton": [[a + 1, b + 1] for a, b in self.skeleton]}
        if self.sigmas:
            found["sigmas"] = list(self.sigmas)
        if self.mirrored is not None:
            found["flip_pairs"] = [[a + 1, b + 1] for a, b in self.mirrored]
        return found


def _is_text(name: Any) -> bool:
    try:
        return type(name) is str and name.encode() != b""
    except UnicodeEncodeError:  # half a surrogate pair, which JSON may hold
        return False


def _words(name: str, mirrored: bool = False) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    side = r"left|right|(?<![a-z])[lr](?![a-z])"
    return re.sub(side, lambda found: SIDES[found[0]], words) if mirrored else words


_SIDED = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_LINES = "16-14 14-12 17-15 15-13 12-13 6-12 7-13 6-7 6-8 7-9 8-10 9-11 2-3 1-2 1-3 2-4 3-5 4-6 5-7"
COCO_PERSON = KeypointSpec(
    names=("nose", *(f"{side}_{part}" for part in _SIDED for side in ("left", "right"))),
    skeleton=tuple((int(a) - 1, int(b) - 1) for a, b in (line.split("-") for line in _LINES.split())),
    sigmas=(0.026, *(s for s in (0.025, 0.035, 0.079, 0.072, 0.062, 0.107, 0.087, 0.089) for _ in range(2))),
)
"""The 17 points of COCO's persons (https://cocodataset.org/#keypoints-eval)."""
