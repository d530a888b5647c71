"""Command-line overrides."""

import pytest

from detkit.config import ConfigError, load_config, parse


def test_values_are_yaml_and_missing_parts_are_made(write):
    path = write("c.yaml", "a: {b: 1}\nn: null")
    overrides = ["a.b=[1, x]", "a.c.d=1e-3", "n.k=null", "s=a=b", "t=''", "m={p: {q: true}}"]
    assert load_config(path, overrides).tree == {
        "a": {"b": [1, "x"], "c": {"d": 1e-3}}, "n": {"k": None}, "s": "a=b", "t": "", "m": {"p": {"q": True}},
    }  # fmt: skip


def test_later_overrides_win(write):
    assert load_config(write("c.yaml", "a: 1"), ["a=2", "a=3"]).tree == {"a": 3}


@pytest.mark.parametrize("key", ["a[1].x", "a.1.x"])
def test_list_items_by_index(write, key):
    tree = load_config(write("c.yaml", "a: [{x: 1}, {x: 2, y: 3}]"), [f"{key}=9"]).tree
    assert tree == {"a": [{"x": 1}, {"x": 9, "y": 3}]}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.neck", ["there is no '='", "model.neck=value"]),
        ("model.neck:3", ["there is no '='", "write model.neck=3"]),
        ("~model.neck", ["there is no '='", "write model.neck=null"]),
        ("=3", ["not a key path"]),
        ("a..b=3", ["not a key path", "'a..b'"]),
        ("a[x]=3", ["not a key path"]),
        ("a.b.c=3", ["a.b:", "needs a mapping", "is 1"]),
        ("l[5]=3", ["l:", "[0] to [1]", "5"]),
        ("l.x=3", ["l:", "'x'"]),
        ("a[0]=3", ["a:", "needs a list"]),
        ("a={", ["override 'a={'", "not YAML"]),
        ("_base_=x.yaml", ["_base_ is read from files only"]),
        ("a.b=", ["there is no value", "a.b=null"]),
        ("l= ", ["there is no value", "l=null"]),
        ("l=[1] # two", ["'# two'", "quotes"]),
        ("a.list[0]={x: 1}", ["a.list:", "a.list=[{x: 1}]"]),
        ("l[2]=3", ["[0] to [1]", "l=[...]"]),
    ],
)
def test_a_wrong_override_says_what_is_wrong(write, override, words):
    with pytest.raises(ConfigError) as caught:
        load_config(write("c.yaml", "a: {b: 1}\nl: [1, 2]"), [override])
    for word in [override, *words]:
        assert word in str(caught.value)


MACHINE = "model: {name: Machine, part: {name: PlainPart, width: 3, kind: thick, old: x}}"


def part(write, *overrides, text=MACHINE):
    return load_config(write("c.yaml", text), overrides).tree["model"]["part"]


def test_a_renamed_node_keeps_the_options_that_the_new_class_takes(house, write):
    kept = part(write, "model.part.name=FancyPart")
    assert kept == {"name": "FancyPart", "width": 3}  # 'old' is unknown to it, 'thick' is none of its kinds
    assert parse(load_config(write("c.yaml", MACHINE), ["model.part.name=FancyPart"]).tree, house.Root)


def test_a_renamed_node_keeps_every_option_that_the_user_set_beside_it(house, write):
    for order in (1, -1):
        overrides = ["model.part.name=FancyPart", "model.part.old=y"][::order]
        assert part(write, *overrides) == {"name": "FancyPart", "width": 3, "old": "y"}
    with pytest.raises(ConfigError, match="FancyPart has no option 'old'"):
        parse(load_config(write("c.yaml", MACHINE), overrides).tree, house.Root)


def test_a_rename_says_so_in_the_sources(house, write):
    config = load_config(write("c.yaml", MACHINE), ["model.part.name=FancyPart"])
    assert config.sources["model.part.width"].endswith("c.yaml:1 (kept by override 'model.part.name=FancyPart')")
    assert "model.part.old" not in config.sources


def test_a_rename_brings_a_required_option_along(house, write):
    overrides = ["model.part.name=NeedyPart", "model.part.model=abc"]
    assert part(write, *overrides) == {"name": "NeedyPart", "width": 3, "model": "abc"}


def test_a_rename_above_keeps_the_nodes_below(house, write):
    @house.wholes.register()
    class OtherMachine(house.Machine):
        pass

    tree = load_config(write("c.yaml", MACHINE), ["model.name=OtherMachine", "model.part.name=FancyPart"]).tree
    assert tree["model"] == {"name": "OtherMachine", "part": {"name": "FancyPart", "width": 3}}


def test_a_node_given_whole_replaces_one_of_another_name_whole(house, write):
    assert part(write, "model.part={name: FancyPart}") == {"name": "FancyPart"}
    assert part(write, "model.part={name: PlainPart, width: 5}")["kind"] == "thick"


def test_a_renamed_node_may_be_removed_or_replaced_afterwards(house, write):
    assert part(write, "model.part.name=FancyPart", "model.part=null") is None
    assert part(write, "model.part.name=FancyPart", "model.part={name: NeedyPart, model: z}") == {
        "name": "NeedyPart",
        "model": "z",
    }


def test_a_name_where_no_node_was_starts_one(house, write):
    text = "model: {name: Machine, part: null}"
    assert part(write, "model.part.name=FancyPart", text=text) == {"name": "FancyPart"}


def test_an_unknown_new_name_is_left_to_the_check(house, write):
    tree = load_config(write("c.yaml", MACHINE), ["model.part.name=FancyPort"]).tree
    with pytest.raises(
        ConfigError, match=r"model\.part: no part named 'FancyPort'\. Did you mean 'FancyPart'"
    ) as caught:
        parse(tree, house.Root)
    assert "other mistake" not in str(caught.value)


def test_interpolations_survive_a_rename(house, write):
    text = "size: 6\nmodel: {name: Machine, part: {name: PlainPart, width: '${size}', old: '${size}'}}"
    assert part(write, "model.part.name=FancyPart", "size=7", text=text) == {"name": "FancyPart", "width": 7}


def test_a_rename_inside_a_list(house, write):
    text = "model: {name: Machine, part: null, extra: [{name: PlainPart, width: 2, old: q}]}"
    tree = load_config(write("c.yaml", text), ["model.extra[0].name=FancyPart"]).tree
    assert tree["model"]["extra"] == [{"name": "FancyPart", "width": 2}]


def test_a_path_of_any_length_is_answered():
    for key in ("a." * 60 + "b", "a" + "[0]" * 10_000):
        with pytest.raises(ConfigError, match="not a key path"):
            load_config({}, [f"{key}=3"])


@pytest.mark.parametrize("text", ["run #2", "a: b #c", "5 # five", "é #1", "# all"])
def test_no_number_sign_cuts_a_text_off(write, text):
    if ": " in text:
        with pytest.raises(ConfigError, match="quotes"):
            load_config(write("c.yaml", "s: x"), [f"s={text}"])
    else:
        assert load_config(write("c.yaml", "s: x"), [f"s={text}"]).tree == {"s": text}


@pytest.mark.parametrize("value", ["[1]", "{a: 1}", "3", "true"])
def test_a_name_that_is_no_word_is_left_to_the_check(house, write, value):
    tree = load_config(write("c.yaml", MACHINE), [f"model.part.name={value}"]).tree
    with pytest.raises(ConfigError, match=r"model\.part: a part node has a wrong name"):
        parse(tree, house.Root)


def test_an_item_of_no_list_is_told_to_be_written_whole(write):
    file = write("c.yaml", "n: 1")
    for text, fix in (
        ("hooks[0]=EMA", "hooks=[EMA]"),
        ("hooks[0].name=EMA", "hooks=[EMA]"),
        ("hooks[0].d=5", "hooks=[...]"),
    ):
        with pytest.raises(ConfigError) as error:
            load_config(file, [text])
        assert str(error.value).endswith(f"write all of it, {fix}")
