"""What was written for an earlier version loads as it is written today, and says so once."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import pytest

from detkit.config import ConfigError, Recipe, complete, load_config, parse
from detkit.experiment import load_experiment
from detkit.registry import Registry, Removed


@pytest.fixture
def shop():
    """A registry of tools whose options and names are not those of before."""
    before = dict(Registry.of)
    yield _build_shop()
    for base in set(Registry.of) - set(before):
        del Registry.of[base]


def _build_shop():
    @dataclasses.dataclass(frozen=True)
    class Cut:
        renamed_options: ClassVar[Mapping[str, str]] = {"length": "size"}

        size: int = 1
        speed: float = 2.0

    class Tool:
        def __init__(self): ...

    class Blade:
        def __init__(self): ...

    tools: Registry = Registry("tool", Tool)
    blades: Registry = Registry("blade", Blade)

    @blades.register()
    class SteelBlade(Blade):
        renamed_options: ClassVar[Mapping[str, str]] = {"hard": "hardness"}

        def __init__(self, *, hardness: int = 5, edge: str = "fine"):
            super().__init__()

    @blades.register()
    class GlassBlade(Blade):
        def __init__(self, *, hardness: int = 9):
            super().__init__()

    @tools.register()
    class Saw(Tool):
        renamed_from: ClassVar[tuple[str, ...]] = ("OldSaw",)
        renamed_options: ClassVar[Mapping[str, str | Removed]] = {
            "cut.style": Removed("choose a class", default="plain", becomes=(("fine", "FineSaw"), ([1], "BigSaw"))),
            "speed": "cut.speed",
            "sharpness": "blade.hardness",
            "colour": "!paint it yourself",
            "oil": Removed("oil is gone", default=[1, 2]),
            "teeth": Removed(subclass="FineSaw", default=0),
        }

        def __init__(
            self,
            *,
            cut: Cut = Cut(),
            blade: Recipe[Blade] | None = Recipe(SteelBlade, {"edge": "rough"}),
            spares: tuple[Recipe[Blade], ...] = (),
            named: dict[str, Recipe[Blade]] = {},  # noqa: B006
        ):
            super().__init__()

    @tools.register()
    class BigSaw(Saw):
        renamed_options: ClassVar[Mapping[str, str | Removed]] = {"teeth": Removed("it has none", default=5)}

    @tools.register()
    class FineSaw(Saw):
        def __init__(self, *, teeth: int = 100, cut: Cut = Cut(), blade: Recipe[Blade] | None = None):
            super().__init__()

    @dataclasses.dataclass(kw_only=True)
    class Root:
        renamed_options: ClassVar[Mapping[str, str]] = {"machine": "tool", "count": "limits.count"}

        tool: Annotated[Recipe[Tool], "a comment"]
        limits: dict[str, Any] = dataclasses.field(default_factory=dict)

    return SimpleNamespace(**{k: v for k, v in locals().items() if isinstance(v, type | Registry)})


@pytest.fixture
def load(shop, write, caplog):
    """Loads the last of the given files, with overrides: its tree and the warnings."""

    def run(*texts: str, overrides: tuple[str, ...] = ()) -> tuple[dict[str, Any], list[str]]:
        paths = [write(f"{'abc'[i]}.yaml", text) for i, text in enumerate(texts)]
        caplog.clear()
        config = load_config(paths[-1], overrides, shop.Root)
        parse(config.tree, shop.Root, sources=config.sources)
        return config.tree, [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]

    return run


def test_an_option_moves_to_its_path_of_today_with_one_line_that_names_both(load):
    tree, lines = load("tool: {name: Saw, speed: 3.0, sharpness: 7, cut: {length: 4}}")
    assert tree == {"tool": {"name": "Saw", "cut": {"size": 4, "speed": 3.0}, "blade": {"hardness": 7}}}
    assert sorted(line.partition(": ")[2] for line in lines) == [
        "'tool.cut.length' is 'tool.cut.size' now",
        "'tool.sharpness' is 'tool.blade.hardness' now",
        "'tool.speed' is 'tool.cut.speed' now",
    ]
    assert all("a.yaml:1" in line for line in lines)


def test_the_root_and_a_class_have_earlier_names_too(load):
    tree, lines = load("machine: {name: OldSaw, speed: 3.0}\ncount: 2")
    assert tree == {"tool": {"name": "Saw", "cut": {"speed": 3.0}}, "limits": {"count": 2}}
    assert any("'tool.name=OldSaw' is 'tool.name=Saw' now" in line for line in lines)


@pytest.mark.parametrize(
    ("base", "leaf"),
    [
        ("tool: {name: Saw, cut: {speed: 3.0, size: 4}}", "tool: {speed: 5.0}"),
        ("tool: {name: Saw, speed: 3.0, cut: {length: 4}}", "tool: {cut: {speed: 5.0}}"),
        ("machine: {name: OldSaw, speed: 3.0, cut: {size: 4}}", "machine: {speed: 5.0}"),
    ],
)
def test_what_lies_above_wins_whichever_of_the_two_names_it_has(load, base, leaf):
    tree, _ = load(base, f"_base_: a.yaml\n{leaf}")
    assert tree == {"tool": {"name": "Saw", "cut": {"speed": 5.0, "size": 4}}}


def test_a_file_that_leaves_the_name_to_another_base_is_migrated_for_the_class_of_that_base(load):
    tree, _ = load("tool: {name: Saw}", "tool: {speed: 5.0}", "_base_: [a.yaml, b.yaml]")
    assert tree == {"tool": {"name": "Saw", "cut": {"speed": 5.0}}}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tool.speed=5.0", {"cut": {"speed": 5.0}}),
        ("machine.speed=5.0", {"cut": {"speed": 5.0}}),
        ("tool.cut.length=5", {"cut": {"size": 5}}),
        ("tool.cut={length: 5}", {"cut": {"size": 5}}),
        ("tool.blade.hard=5", {"blade": {"hardness": 5}}),
        ("tool.blade=GlassBlade", {"blade": {"name": "GlassBlade"}}),
        ("tool.spares=[GlassBlade,{name: SteelBlade, hard: 2}]",
         {"spares": [{"name": "GlassBlade"}, {"name": "SteelBlade", "hardness": 2}]}),
        ("tool.spares[0].hard=3", {"spares": [{"name": "SteelBlade", "hardness": 3}]}),
        ("tool.named.a.hard=3", {"named": {"a": {"name": "SteelBlade", "hardness": 3}}}),
    ],
)  # fmt: skip
def test_an_override_has_the_names_of_before_too(load, override, expected):
    given = "tool: {name: Saw, spares: [SteelBlade], named: {a: SteelBlade}}"
    start, no_lines = load(given)
    tree, lines = load(given, overrides=(override,))
    assert tree == {"tool": {**start["tool"], **expected}}
    assert not no_lines
    assert bool(lines) == (override != "tool.blade=GlassBlade")


def test_a_name_in_an_override_may_be_the_earlier_one(load):
    tree, lines = load("tool: {name: FineSaw, teeth: 3, cut: {size: 9}}", overrides=("tool.name=OldSaw",))
    assert tree == {"tool": {"name": "Saw", "cut": {"size": 9}}}
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("tool: {name: Saw, speed: 3.0, cut: {speed: 4.0}}", (), ["tool.speed", "'tool.cut.speed' now", "given too"]),
        ("tool: {name: Saw, colour: red}", (), ["tool.colour: Saw has no option", "paint it yourself", "a.yaml:1"]),
        ("tool: {name: Saw, oil: [1]}", (), ["tool.oil", "oil is gone"]),
        ("tool: Saw", ("tool.colour=red",), ["tool.colour: Saw has no option", "paint it yourself"]),
        ("tool: Saw", ("tool.teeth=3",), ["tool.teeth", "name: FineSaw"]),
        ("tool: Saw", ("tool.speed=3", "tool.cut.speed=4"), ["'tool.speed=3'", "'tool.cut.speed=4'", "keep one"]),
    ],
)
def test_conflicts_and_removed_options_are_errors_that_say_what_to_write(load, text, overrides, words):
    with pytest.raises(ConfigError) as caught:
        load(text, overrides=overrides)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_removed_option_that_says_its_default_of_then_is_left_out(load):
    tree, lines = load("tool: {name: Saw, oil: [1, 2], teeth: 0}")
    assert tree == {"tool": {"name": "Saw"}}
    assert not lines


def test_an_option_that_stood_beside_a_name_outlives_another_name_above_it(load):
    tree, _ = load("tool: {name: Saw, blade: SteelBlade, sharpness: 3}", "_base_: a.yaml\ntool: {blade: GlassBlade}")
    assert tree == {"tool": {"name": "Saw", "blade": {"name": "GlassBlade", "hardness": 3}}}
    tree, _ = load(
        "tool: {name: Saw, blade: {name: SteelBlade, hardness: 3}}", "_base_: a.yaml\ntool: {blade: GlassBlade}"
    )
    assert tree == {"tool": {"name": "Saw", "blade": {"name": "GlassBlade"}}}


def test_an_option_of_a_part_that_is_not_there_is_left_out(load):
    tree, lines = load("tool: {name: Saw, sharpness: 3, blade: null}")
    assert tree == {"tool": {"name": "Saw", "blade": None}}
    assert not lines


def test_an_option_that_a_subclass_has_today_makes_the_node_one_of_it(load):
    tree, lines = load("tool: {name: Saw, teeth: 3, speed: 5.0}")
    assert tree == {"tool": {"name": "FineSaw", "teeth": 3, "cut": {"speed": 5.0}}}
    assert any("'tool.teeth' is 'tool.name=FineSaw' now" in line for line in lines)
    tree, _ = load("tool: {name: Saw, cut: {size: 7}}", "_base_: a.yaml\ntool: {teeth: 3}")
    assert tree == {"tool": {"name": "FineSaw", "teeth": 3, "cut": {"size": 7}}}


def test_an_option_whose_value_a_class_stands_for_today_makes_the_node_one_of_it(load):
    assert load("tool: {name: Saw, cut: {style: plain, size: 2}}") == (
        {"tool": {"name": "Saw", "cut": {"size": 2}}},
        [],
    )
    tree, lines = load("tool: {name: Saw, cut: {style: [1], size: 2}, teeth: 5}")
    assert tree == {"tool": {"name": "BigSaw", "cut": {"size": 2}}}, "the rest is migrated for the new class"
    assert [line.partition(": ")[2] for line in lines] == ["'tool.cut.style' is 'tool.name=BigSaw' now"]
    with pytest.raises(ConfigError, match=r"tool\.cut\.style: Saw has no option 'cut\.style' any more: choose a class"):
        load("tool: {name: Saw, cut: {style: wild}}")


@pytest.mark.parametrize("file", sorted((Path(__file__).parent / "earlier").iterdir()), ids=lambda file: file.stem)
def test_a_config_that_a_run_saved_before_is_the_same_model_today(file, pytestconfig):
    today = load_experiment(pytestconfig.rootpath / "configs" / f"{file.stem.replace('__', '/')}.yaml")
    assert load_experiment(file).tree["model"] == today.tree["model"]


def test_the_config_of_a_checkpoint_is_migrated(shop, caplog):
    tree = {"machine": {"name": "OldSaw", "speed": 3.0}}
    config = load_config(tree, ["tool.sharpness=2"], shop.Root)
    assert config.tree == {"tool": {"name": "Saw", "cut": {"speed": 3.0}, "blade": {"hardness": 2}}}
    assert len(caplog.records) == 4


def test_parsing_alone_migrates_too(shop, caplog):
    recipe = parse({"name": "OldSaw", "speed": 3.0}, shop.Tool, "here")
    assert recipe == parse({"name": "Saw", "cut": {"speed": 3.0}}, shop.Tool)
    assert [record.getMessage().split("'")[1] for record in caplog.records] == ["here.name=OldSaw", "here.speed"]


def test_a_line_is_said_once_though_two_bases_share_the_file(load):
    load("tool: {name: Saw, speed: 3.0}")
    _, lines = load("tool: {name: Saw, speed: 3.0}", "_base_: [a.yaml, a.yaml]")
    assert len(lines) == 1


def test_what_was_migrated_has_the_place_where_it_was_written(shop, write):
    config = load_config(write("c.yaml", "tool:\n  name: Saw\n  speed: 3.0"), ["tool.sharpness=1"], shop.Root)
    assert config.sources["tool.cut.speed"].endswith("c.yaml:3")
    assert config.sources["tool.blade.hardness"] == "override 'tool.sharpness=1'"


def test_a_plain_name_is_short_for_a_node_of_that_name(load, shop):
    tree, lines = load("tool: Saw")
    assert parse(tree, shop.Root) == parse({"tool": {"name": "Saw"}}, shop.Root)
    assert not lines
    kept, _ = load("tool: {name: Saw, cut: {size: 3}}", "_base_: a.yaml\ntool: Saw")
    assert kept == {"tool": {"name": "Saw", "cut": {"size": 3}}}


def test_a_plain_name_that_an_interpolation_gives_is_one_too(load, shop):
    tree, _ = load("tool: {name: Saw, blade: '${limits.blade}'}\nlimits: {blade: GlassBlade}")
    recipe = parse(tree, shop.Root)
    assert recipe.kwargs["tool"].kwargs["blade"].cls is shop.GlassBlade


def test_a_mapping_without_name_is_laid_over_the_default(shop):
    node = {"name": "Saw", "sharpness": 8}
    assert complete(parse(node, shop.Tool))["blade"] == {"name": "SteelBlade", "hardness": 8, "edge": "rough"}


def test_an_option_of_the_class_is_not_taken_for_an_earlier_one(shop):
    @shop.tools.register()
    class QuickSaw(shop.Saw):
        def __init__(self, *, speed: float = 1.0):
            super().__init__()

    assert parse({"name": "QuickSaw", "speed": 2.0}, shop.Tool).kwargs == {"speed": 2.0}
