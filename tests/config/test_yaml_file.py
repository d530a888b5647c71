"""The project's YAML: the core schema of YAML 1.2, places, and bounds."""

import math

import pytest

from detkit.config import ConfigError, load_config, to_yaml
from detkit.config.yaml_file import MOST_BYTES, MOST_LEVELS, parse_yaml
from detkit.paths import user_path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("012", 12), ("-007", -7), ("0o17", 15), ("0x1F", 31),
        ("1_000", "1_000"), ("1:30", "1:30"), ("1:30:00", "1:30:00"),
        ("yes", "yes"), ("on", "on"), ("Off", "Off"), ("n", "n"), ("TRUE", True), ("False", False),
        ("~", None), ("Null", None), ("NULL", None), ("!!null ''", None), ("None", "None"),
        ("1e3", 1000.0), ("1.e-2", 0.01), ("-.INF", -math.inf), ("+1.5", 1.5), ("0b11", "0b11"),
        ("2001-01-01", "2001-01-01"),
        ("!!str 012", "012"), ("!!float 3", 3.0), ("!!int '12'", 12), ("'012'", "012"), ("! 5", 5), ("=", "="),
    ],
)  # fmt: skip
def test_scalars_are_those_of_the_core_schema_and_are_written_back_as_such(text, value, write):
    read = parse_yaml(f"a: {text}", "x").plain()["a"]
    assert (type(read), read) == (type(value), value)
    path = write("c.yaml", to_yaml({"a": value, "b": text.strip("! ")}))
    assert load_config(path).tree == {"a": value, "b": text.strip("! ")}


@pytest.mark.parametrize("text", ["a:", "a: # todo", "{a: }", "{a}", "? a", "b: {c: [{a: }]}", "a: &x"])
def test_a_key_without_a_value_is_not_taken_for_null(text):
    with pytest.raises(ConfigError, match="x:1: 'a' has no value; write null to remove it"):
        parse_yaml(text, "x")


@pytest.mark.parametrize(
    "text",
    ["!!bool zzz", "!!int", "!!int 1.5", "!!float x", "!!timestamp x", "!!binary é", "!!null 1", "!!set {a}", "!x 1"],
)
def test_a_tag_that_its_text_is_not_is_refused_with_the_place(text):
    with pytest.raises(ConfigError, match=r"^c.yaml:2: "):
        parse_yaml(f"b: 1\na: {text}", "c.yaml")


def multiplied(pattern: str, rounds: int) -> str:
    lines = "".join(f"a{i + 1}: &a{i + 1} {pattern.replace('*', f'*a{i}')}\n" for i in range(rounds))
    return f"a0: &a0 x\n{lines}"


@pytest.mark.parametrize("text", [multiplied("[*, *, *]", 30), multiplied("{x: *, y: *}", 40), multiplied("[*]", 500)])
def test_aliases_that_multiply_are_refused_with_the_line(write, text):
    with pytest.raises(ConfigError, match=r"c\.yaml:\d+: (more than|lists and mappings)"):
        load_config(write("c.yaml", text))


def test_bases_and_trees_that_multiply_are_refused(write):
    write("b40.yaml", "x: 1")
    for i in range(40):
        write(f"b{i}.yaml", f"_base_: [b{i + 1}.yaml, b{i + 1}.yaml]")
    with pytest.raises(ConfigError, match="_base_ leads to more than"):
        load_config(write("c.yaml", "_base_: b0.yaml"))
    wide, deep = {}, []
    for _ in range(60):
        wide = {"a": wide, "b": wide}
    deep.append(deep)
    for tree in ({"x": wide}, {"x": deep}, {"_base_": str(write("d.yaml", "x: 1")), "y": wide}):
        with pytest.raises(ConfigError, match=r"more than|deep"):
            load_config(tree)


def test_a_file_of_a_million_values_is_refused_before_it_is_in_memory(write):
    with pytest.raises(ConfigError, match="hardly a config"):
        load_config(write("c.yaml", "a: [" + "x," * 900_000 + "]"))
    with pytest.raises(ConfigError, match=r"c\.yaml:1: a key must be a word"):
        load_config(write("c.yaml", "x" * 1000 + ": 1"))


def test_nesting_as_deep_as_anybody_writes_is_read(write):
    deep = "[" * (MOST_LEVELS - 1) + "]" * (MOST_LEVELS - 1)
    assert load_config(write("c.yaml", f"x: {deep}")).tree["x"] is not None
    with pytest.raises(ConfigError):
        load_config(write("c.yaml", "x: " + "[" * 100_000))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a:\n\tb: 1", "tab"), (b"a: 1\n\tb: 2", "tab"), ("a: 1".encode("utf-16"), "save it as UTF-8"),
        (b"a: \xe9", "save it as UTF-8"), (b"#" * (MOST_BYTES + 1), "larger than"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_says_why(tmp_path, content, words):
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"c\.yaml.*{words}"):
        load_config(tmp_path / "c.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    assert load_config(tmp_path / "c.yaml").tree == {"a": 1}


@pytest.mark.parametrize("name", ["x" * 300, "~no_such_user/x.yaml", "a\0b.yaml", "é" * 200, "long/" * 900])
def test_a_name_that_no_file_can_have_is_refused_wherever_it_stands(write, name):
    with pytest.raises(ValueError, match=r"no file can be called|no user"):
        user_path(name)
    text = to_yaml({"_base_": name})
    for given in (write("c.yaml", text), {"_base_": name}, {"imports": [f"{name}.py"]}, name):
        with pytest.raises(ConfigError, match=r"no file can be called|no user"):
            load_config(given)


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "c.yaml").symlink_to("nowhere.yaml")
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load_config(tmp_path / "c.yaml")


def test_the_home_folder_is_written_for_short(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("home.yaml", "a: 1")
    assert load_config("~/home.yaml").tree == load_config({"_base_": "~/home.yaml"}).tree == {"a": 1}
