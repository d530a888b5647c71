"""Nodes against signatures: what is taken, what is refused and with which words."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Optional, Union

import pytest

from detkit.config import ConfigError, Recipe, build, complete, load_config, parse, to_yaml
from detkit.config.recipe import Eager
from detkit.experiment import load_experiment


def take(want: Any, value: Any) -> Any:
    """``value`` as the annotation ``want`` takes it."""
    nested = dataclasses.make_dataclass("Nested", [("option", want)], frozen=True)
    return parse({"option": value}, nested, "node").kwargs["option"]


def refuse(want: Any, value: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        take(want, value)
    assert str(caught.value).startswith("node.option")
    return str(caught.value)


@pytest.mark.parametrize(
    ("want", "value", "made"),
    [
        (int, 3, 3),
        (float, 3, 3.0),
        (float, "1e-4", 1e-4),
        (float, "-.5", -0.5),
        (str, "x", "x"),
        (bool, False, False),
        (Literal[50, 101], 101, 101),
        (Literal["a", None], None, None),
        (int | None, None, None),
        (Optional[int], 2, 2),
        (Union[int, str], "x", "x"),
        (float | Literal["auto"], "auto", "auto"),
        (int | tuple[int, int], [1, 2], (1, 2)),
        (list[int], [1, 2], [1, 2]),
        (tuple[float, ...], [1, 2], (1.0, 2.0)),
        (tuple[()], [], ()),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[tuple[int, ...], ...], [[1], [2, 3]], ((1,), (2, 3))),
        (Sequence[str], ["a"], ["a"]),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (dict[int, str], {1: "x"}, {1: "x"}),
        (Mapping[str, list[int]], {"a": [1]}, {"a": [1]}),
        (list, [1, "a"], [1, "a"]),
        (dict, {"a": [1]}, {"a": [1]}),
        (Any, {"a": [None, 1.5]}, {"a": [None, 1.5]}),
        (Annotated[int, "words"], 3, 3),
    ],
)
def test_annotations_convert(want, value, made):
    got = take(want, value)
    assert got == made
    assert type(got) is type(made)


@pytest.mark.parametrize(
    ("want", "value", "words"),
    [
        (int, True, "expected int, got True (bool)"),
        (int, 3.0, "expected int, got 3.0 (float); write 3"),
        (int, "3", "expected int, got '3' (str); remove the quotes"),
        (int, float("inf"), "expected int, got inf (float)"),
        (int, None, "expected int, got null"),
        (float, True, "expected float, got True (bool)"),
        (float, "fast", "expected float, got 'fast' (str)"),
        (str, False, "expected str, got False (bool); put it in quotes"),
        (bool, 1, "expected bool, got 1 (int)"),
        (Literal[50, 101], 51, "expected 50 | 101, got 51 (int)"),
        (Literal[1, 2], True, "expected 1 | 2, got True (bool)"),
        (Literal["GN", "BN"], "bn", "expected GN | BN, got 'bn' (str). Did you mean 'BN'?"),
        (int | None, "x", "expected int | null, got 'x' (str)"),
        (int | tuple[int, int], "x", "expected int | [int, int], got 'x' (str)"),
        (int | tuple[int, int], [1], "as [int, int]: node.option: expected a list of 2 values"),
        (list[int], 3, "expected a list [int, ...], got 3 (int)"),
        (list[int], {"a": 1}, "expected a list [int, ...], got {'a': 1} (mapping)"),
        (tuple[int, int], [1, 2, 3], "expected a list of 2 values [int, int], got [1, 2, 3] (list)"),
        (dict[str, int], [1], "expected a mapping {str: int}, got [1] (list)"),
        (Exception, 3, "no form in YAML"),
    ],
)
def test_wrong_values_are_named_with_what_was_expected(want, value, words):
    assert words in refuse(want, value)


def test_the_path_of_a_mistake_goes_into_lists_and_mappings():
    assert refuse(list[tuple[int, ...]], [[1], [2, "x"]]).startswith("node.option[1][1]: expected int, got 'x'")
    assert refuse(dict[str, int], {"a": 1, "b": "x"}).startswith("node.option.b: expected int, got 'x'")


def test_any_is_copied():
    given = {"a": [1]}
    assert take(Any, given) == given
    assert take(Any, given)["a"] is not given["a"]


def mistakes(house, tree, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(tree, house.Root, **options)
    return str(caught.value)


def machine(**options):
    return {"model": {"name": "Machine", "part": None, **options}}


def test_a_recipe_is_handed_over_unbuilt_and_makes_a_new_object_each_time(house):
    root = parse(machine(part={"name": "PlainPart", "width": 3}), house.Root)()
    whole = root.model(7)
    assert isinstance(whole, house.Machine)
    assert whole.num_classes == 7
    first, second = whole.part(1), whole.part(2)
    assert (first.width, first.in_channels, second.in_channels) == (3, 1, 2)
    assert first is not second


def test_a_role_annotation_is_built_with_its_owner(house):
    class Bare:
        pass

    house.Registry = type(house.parts)
    bares = house.Registry("bare", Bare)

    @bares.register()
    class Made(Bare):
        def __init__(self, *, size: int = 2):
            self.size = size

    @house.wholes.register()
    class Owner(house.Whole):
        def __init__(self, num_classes: int, *, bare: Bare, more: tuple[Bare, ...] = (), maybe: Bare | None = None):
            self.bare, self.more, self.maybe = bare, more, maybe

    node = {"name": "Owner", "bare": {"name": "Made"}, "more": [{"name": "Made", "size": 5}]}
    recipe = parse(node, house.Whole)
    assert isinstance(recipe.kwargs["bare"], Eager)
    owner = recipe(1)
    assert isinstance(owner.bare, Made)
    assert (owner.bare.size, owner.more[0].size, owner.maybe) == (2, 5, None)
    assert build(node, house.Whole, 3).bare is not owner.bare


def test_keys_left_out_of_nested_options_come_from_the_default_instance(house):
    made = parse(machine(matching={"limits": {"low": 2}}), house.Root)().model(1)
    assert made.matching == house.Matching(thresholds=(0.3, 0.7), limits=house.Limits(low=2.0, high=9.0))
    assert parse(machine(), house.Root)().model(1).matching.thresholds == (0.3, 0.7)


def test_a_default_recipe_is_the_base_of_a_node_without_name_or_of_the_same_name(house):
    def spare(node):
        return parse(machine(spare=node), house.Root)().model(1).spare(1)

    assert (spare({"kind": "thick"}).width, spare({"kind": "thick"}).kind) == (5, "thick")
    assert spare({"name": "PlainPart"}).width == 5
    assert spare({"name": "FancyPart"}).width == 16


def test_a_given_default_is_the_base_of_the_root_node(house):
    recipe = parse({"width": 4}, house.Part, default=Recipe(house.PlainPart, {"kind": "thick"}))
    assert (recipe.cls, recipe.kwargs["width"], recipe.kwargs["kind"]) == (house.PlainPart, 4, "thick")


def test_a_default_factory_is_called(house):
    assert parse(machine(), house.Root)().limits == house.Limits()


@pytest.mark.parametrize(
    ("tree", "first"),
    [
        (machine(prat=None), "model: Machine has no option 'prat'. Did you mean 'part'?"),
        ({**machine(), "stepps": 3}, "config: Root has no option 'stepps'. Did you mean 'steps'?"),
        (machine(part={"name": "PlainPort"}), "model.part: no part named 'PlainPort'. Did you mean 'PlainPart'?"),
        (machine(part={"width": 3}), "model.part: a part node needs a 'name'. Registered: FancyPart, NeedyPart"),
        (machine(part={"name": 3}), "model.part: a part node has a wrong name: expected a word, got 3 (int)"),
        (machine(part="PlainPort"), "model.part: no part named 'PlainPort'. Did you mean 'PlainPart'?"),
        (machine(part=[{"name": "PlainPart"}]), "model.part: expected a part node"),
        (machine(part=3), "model.part: expected a part node: a mapping with a 'name', got 3 (int)"),
        (machine(spare=None), "model.spare: expected a part node: a mapping with a 'name', got null"),
        (machine(matching=3), "model.matching: expected Matching options: a mapping, got 3 (int)"),
        (machine(extra={"name": "PlainPart"}), "model.extra: expected a list [part node, ...]"),
        (machine(extra=[{"name": "PlainPart", "width": "x"}]), "model.extra[0].width: expected int, got 'x' (str)"),
        (machine(part={"name": "NeedyPart"}), "model.part: NeedyPart needs 'model' (str)"),
        (machine(num_classes=3), "model: 'num_classes' is a runtime argument of Machine: Root passes it"),
        (
            machine(part={"name": "PlainPart", "in_channels": 3}),
            "model.part: 'in_channels' is a runtime argument of PlainPart: Machine",
        ),
        (machine(matching={"limits": {"low": 20}}), "model.matching.limits: low 20.0 is above high 9.0"),
        ({**machine(), "limits": {"low": 2}}, "limits: low 2.0 is above high 1.0"),
        ({}, "config: Root needs 'model' (whole node)"),
        ([1], "config: expected Root options: a mapping, got [1] (list)"),
    ],
)
def test_a_mistake_names_path_value_expectation_and_fix(house, tree, first):
    assert mistakes(house, tree).startswith(first)


def test_the_options_of_the_class_follow_the_mistake(house):
    lines = mistakes(house, machine(part={"name": "PlainPart", "widht": 3})).splitlines()
    assert lines[0] == "model.part: PlainPart has no option 'widht'. Did you mean 'width'?"
    assert lines[1].startswith("  options of PlainPart (")
    assert lines[2:] == ["    width: int = 8", "    kind: thin | thick = thin", "    old: str | null = null"]
    assert "model: str  (required)" in mistakes(house, machine(part={"name": "NeedyPart"}))


def test_all_mistakes_are_found_at_once_and_the_first_is_reported_in_full(house):
    tree = machine(part={"name": "PlainPart", "width": "x"}, rate="fast", extra=[{"name": "No"}])
    message = mistakes(house, {**tree, "steps": 1.5})
    assert message.startswith("model.part.width: ")
    assert "There are 3 other mistakes:" in message
    for path in ("model.rate", "model.extra[0]", "steps"):
        assert f"\n  {path}: " in message


def test_a_long_list_of_mistakes_is_cut(house):
    message = mistakes(house, machine(extra=[{"name": "PlainPart", "width": "x"}] * 30))
    assert message.count("expected int") == 10
    assert message.endswith("...")
    assert "29 other mistakes" in message


def test_a_mistake_names_the_line_or_override_where_it_was_made(house, write):
    path = write("c.yaml", "model:\n  name: Machine\n  part:\n    name: PlainPart\n    widht: 3\n")
    config = load_config(path, ["steps=x"])
    message = mistakes(house, config.tree, sources=config.sources)
    assert "c.yaml:5]" in message
    assert "[override 'steps=x']" in message


def test_nothing_is_built_before_the_whole_tree_is_right(house):
    built = []

    @house.parts.register()
    class Noisy(house.Part):
        def __init__(self, in_channels: int):
            built.append(in_channels)

    with pytest.raises(ConfigError):
        parse({**machine(part={"name": "Noisy"}), "steps": "x"}, house.Root)
    root = parse(machine(part={"name": "Noisy"}), house.Root)()
    assert built == []
    root.model(1).part(3)
    assert built == [3]


def test_a_default_that_its_own_annotation_refuses_is_a_mistake_of_the_class(house):
    @house.parts.register()
    class Sloppy(house.Part):
        def __init__(self, in_channels: int, *, size: int = "big"):
            pass

    message = mistakes(house, machine(part={"name": "Sloppy"}))
    assert (
        "model.part.size: expected int, got 'big' (str) (this is the default of Sloppy: a mistake in the class)"
        in message
    )


def test_an_annotation_that_cannot_be_resolved_names_the_class(house):
    @house.parts.register()
    class Vague(house.Part):
        def __init__(self, in_channels: int, *, size: "NoSuchType" = 3):  # noqa: F821
            pass

    assert "an annotation of Vague cannot be resolved" in mistakes(house, machine(part={"name": "Vague"}))


def test_a_subclass_without_init_has_its_bases_options(house):
    @house.parts.register()
    class Heir(house.PlainPart):
        pass

    assert parse({"name": "Heir", "width": 3}, house.Part)(1).width == 3


def test_a_role_may_be_narrowed_to_a_class(house):
    assert parse({"width": 3}, house.PlainPart)(1).width == 3
    with pytest.raises(ConfigError, match="expected PlainPart or a kind of it, got 'FancyPart'"):
        parse({"name": "FancyPart"}, house.PlainPart)


def test_a_union_of_nodes_shows_the_mistake_of_each(house):
    @dataclasses.dataclass
    class Owner:
        what: Recipe[house.Part] | Recipe[house.Whole]

    assert parse({"what": {"name": "PlainPart"}}, Owner).kwargs["what"].cls is house.PlainPart
    with pytest.raises(ConfigError) as caught:
        parse({"what": {"name": "Nothing"}}, Owner)
    assert "as part node: what: no part named" in str(caught.value)
    assert "as whole node: what: no whole named" in str(caught.value)


FULL = {
    "model": {
        "name": "Machine",
        "part": {"name": "FancyPart", "levels": [1, 2]},
        "extra": [{"name": "NeedyPart", "model": "1e-4"}, {"name": "PlainPart"}],
        "matching": {"limits": {"low": 0.1}},
    },
    "names": {"a": [1, None, "yes"]},
}


def test_the_complete_config_holds_every_default_and_loads_to_an_equal_recipe(house, write):
    recipe = parse(FULL, house.Root)
    tree = complete(recipe)
    assert tree["model"]["matching"] == {"thresholds": [0.3, 0.7], "limits": {"low": 0.1, "high": 9.0}}
    assert tree["model"]["spare"] == {"name": "PlainPart", "width": 5, "kind": "thin", "old": None}
    assert tree["model"]["rate"] == 1e-5
    assert tree["limits"] == {"low": 0.0, "high": 1.0}
    again = parse(load_config(write("c.yaml", to_yaml(tree))).tree, house.Root)
    assert again == recipe
    assert complete(again) == tree


def test_what_no_yaml_can_say_is_no_default(house):
    @house.parts.register()
    class Opaque(house.Part):
        def __init__(self, in_channels: int, *, how: Any = functools.partial(int)):  # noqa: B008
            pass

    with pytest.raises(TypeError, match="cannot be written in YAML"):
        parse({"name": "Opaque"}, house.Part)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("train.epochs=3", "'solver.epochs'"),
        ("solver.lr=0.1", "'solver.optimizer.lr'"),
        ("lr=0.1", "'solver.optimizer.lr'"),
        ("max_iter=3", "'solver.max_iter'"),
        ("model.mask_head.num_conv=2", "'model.roi_heads.mask_head'"),
        ("model.depth=50", "'model.backbone.depth'"),
        ("train.batch_size=4", "'data.batch_size'"),
        ("model.neck.out_channel=3", "'out_channels'"),  # a slip of the hand is nearer than a name elsewhere
    ],
)
def test_an_option_is_looked_for_in_the_whole_tree(override, meant):
    overrides = ["model.backbone={name: ResNet, depth: 50}", override]
    with pytest.raises(ConfigError) as caught:
        load_experiment("configs/quick_start/mask_rcnn_shapes.yaml", overrides)
    assert f"Did you mean {meant}" in str(caught.value).splitlines()[0]


@pytest.mark.parametrize(
    "override", ["model.roi_heads.mask_head=None", "train.init_weights=None", "train.eval_period=None"]
)
def test_null_is_written_null(override):
    with pytest.raises(ConfigError, match=r"got 'None'.*write null"):
        load_experiment("configs/quick_start/mask_rcnn_shapes.yaml", [override])


@pytest.mark.parametrize(
    ("value", "words"), [("yes", "write true"), ("off", "write false"), ("1_000", "write 1000"), (2**63, "64 bits")]
)
def test_habits_of_other_yaml_get_a_hint(value, words):
    want = bool if value in ("yes", "off") else int
    assert words in refuse(want, value)


def test_what_an_owner_passes_is_told_wherever_it_is_written():
    with pytest.raises(ConfigError, match=r"'num_classes'. It is passed to GeneralizedRCNN by its owner"):
        load_experiment("configs/quick_start/mask_rcnn_shapes.yaml", ["num_classes=3"])
