"""A small world of stub roles and components, so that the rules are tested without a model."""

import dataclasses
import textwrap
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from detkit.config import Recipe
from detkit.registry import Registry


@pytest.fixture
def house():
    """Roles ``Part`` and ``Whole`` with components, nested options and a root; forgotten after the test."""
    before = dict(Registry.of)
    yield _build_house()
    for base in set(Registry.of) - set(before):
        del Registry.of[base]


@pytest.fixture
def write(tmp_path):
    """Writes a file below ``tmp_path`` and returns its path."""

    def write_file(name: str, text: str):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write_file


def _build_house():
    @dataclasses.dataclass(frozen=True)
    class Limits:
        """Bounds.

        Args:
            low, high: the bounds,
                both inclusive.
        """

        low: float = 0.0
        high: float = 1.0

        def __post_init__(self):
            if self.low > self.high:
                raise ValueError(f"low {self.low} is above high {self.high}")

    @dataclasses.dataclass(frozen=True)
    class Matching:
        thresholds: tuple[float, ...] = (0.5,)
        limits: Limits = Limits()

    class Part:
        """A part."""

        def __init__(self, in_channels: int):
            self.in_channels = in_channels

    class Whole:
        def __init__(self, num_classes: int):
            self.num_classes = num_classes

    parts: Registry = Registry("part", Part)
    wholes: Registry = Registry("whole", Whole)

    @parts.register()
    class PlainPart(Part):
        """A plain part. It does little.

        Args:
            width: channels inside.
            kind: how it is made.
        """

        def __init__(
            self, in_channels: int, *, width: int = 8, kind: Literal["thin", "thick"] = "thin", old: str | None = None
        ):
            super().__init__(in_channels)
            self.width, self.kind, self.old = width, kind, old

    @parts.register()
    class FancyPart(Part):
        def __init__(
            self,
            in_channels: int,
            *,
            width: int = 16,
            kind: Literal["thin", "wild"] = "wild",
            levels: tuple[int, ...] = (),
        ):
            super().__init__(in_channels)
            self.width, self.kind, self.levels = width, kind, levels

    @parts.register()
    class NeedyPart(Part):
        def __init__(self, in_channels: int, *, model: str, width: int = 1):
            super().__init__(in_channels)
            self.model, self.width = model, width

    @wholes.register()
    class Machine(Whole):
        """A machine.

        Args:
            part: what it has.
        """

        def __init__(
            self,
            num_classes: int,
            *,
            part: Recipe[Part] | None,
            spare: Recipe[Part] = Recipe(PlainPart, {"width": 5}),
            extra: tuple[Recipe[Part], ...] = (),
            matching: Matching = Matching(thresholds=(0.3, 0.7), limits=Limits(high=9.0)),
            rate: float = 1e-5,
        ):
            super().__init__(num_classes)
            self.part, self.spare, self.extra = part, spare, extra
            self.matching, self.rate = matching, rate

    @dataclasses.dataclass(kw_only=True)
    class Root:
        model: Recipe[Whole]
        limits: Limits = dataclasses.field(default_factory=Limits)
        steps: int = 10
        names: dict[str, Any] = dataclasses.field(default_factory=dict)

    return SimpleNamespace(**{k: v for k, v in locals().items() if isinstance(v, type | Registry)})
