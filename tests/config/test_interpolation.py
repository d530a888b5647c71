"""References and resolvers."""

import pytest

from detkit.config import ConfigError, load_config, to_yaml, written


def test_references_lead_to_texts_numbers_and_whole_nodes_relative_ones_too(write):
    text = "a: {x: 4, y: '${.x}', z: '${..b}'}\nb: ${c[1]}\nc: [1, {k: '${a.x}'}]\nd: n${a.x}_${e}\ne: ${${f}}\nf: a.x"
    tree = load_config(write("c.yaml", text)).tree
    assert tree == {
        "a": {"x": 4, "y": 4, "z": {"k": 4}}, "b": {"k": 4}, "c": [1, {"k": 4}], "d": "n4_4", "e": 4, "f": "a.x",
    }  # fmt: skip


DOUBLING = {f"k{i}": f"${{k{i + 1}}}${{k{i + 1}}}" for i in range(45)} | {"k45": "text"}
WIDENING = {f"k{i}": [f"${{k{i + 1}}}"] * 2 for i in range(45)} | {"k45": ["text"]}
HIDDEN = {f"k{i}": f"${{oc.select:k{i + 1}}}" * 2 for i in range(45)} | {"k45": "text"}


@pytest.mark.parametrize(
    "tree",
    [DOUBLING, WIDENING, HIDDEN, {**WIDENING, "x": "a ${k0}"}, {"a": "${b}", "b": "x${a}"}, {"a": "${a}"},
     {"a": ["${a}"]}, {"a": "${" * 600 + "}" * 600}],
)  # fmt: skip
def test_what_multiplies_or_goes_in_circles_is_refused(tree):
    with pytest.raises(ConfigError, match=r"cannot be resolved|more than|deep"):
        load_config(tree)


def test_a_reference_to_nothing_names_the_nearest_key(write):
    with pytest.raises(
        ConfigError, match=r"^b: .* there is no 'model.nek'. Did you mean 'model.neck'\?  \[.*c\.yaml:2\]"
    ):
        load_config(write("c.yaml", "model: {neck: 1}\nb: ${model.nek}"))


def test_what_comes_from_the_environment_is_written_down_unresolved(write, monkeypatch):
    monkeypatch.setenv("CONFIG_TEST_KEY", "hunter2")
    text = (
        "url: https://${oc.env:CONFIG_TEST_KEY}@host/w\nsame: ${url}\nboth: ${n}/${url}\nn: 3\ndeep: [{u: '${url}'}]\n"
        "copy: ${deep}\nliteral: \\${oc.env:CONFIG_TEST_KEY}\nnumber: ${oc.decode:${oc.env:CONFIG_TEST_NO,5}}"
    )
    config = load_config(write("c.yaml", text))
    assert config.tree["both"] == "3/https://hunter2@host/w"
    assert config.tree["literal"] == "${oc.env:CONFIG_TEST_KEY}"
    down = written(config.tree, config.outside)
    saved = to_yaml(down)
    assert "hunter2" not in saved
    assert load_config(write("saved.yaml", saved)).tree == load_config(down).tree == config.tree
    monkeypatch.setenv("CONFIG_TEST_KEY", "other")
    assert load_config(down).tree["copy"] == [{"u": "https://other@host/w"}]


def test_a_variable_that_is_not_set_is_named_with_a_fix_that_works(write):
    with pytest.raises(
        ConfigError, match=r"resolved: Environment variable 'CONFIG_TEST_UNSET' not found; set it"
    ) as error:
        load_config(write("c.yaml", "s: ${oc.env:CONFIG_TEST_UNSET}"))
    assert "${oc.env:NAME,value}" in str(error.value)
    assert load_config(write("c.yaml", "s: ${oc.env:CONFIG_TEST_UNSET,value}")).tree == {"s": "value"}
