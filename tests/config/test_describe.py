"""Options in words, and questions about a config."""

import dataclasses

import pytest

from detkit.config import ConfigError, OptionRow, describe, load_config, parse, usage
from detkit.config.describe import argument_words, summary
from detkit.config.lookup import explain, find_classes, find_location, roles_in
from detkit.config.schema import schema


def test_options_are_told_with_type_default_and_the_docstrings_words(house):
    assert describe(house.PlainPart)[:2] == [
        OptionRow("width", "int", "8", "channels inside."),
        OptionRow("kind", "thin | thick", "thin", "how it is made."),
    ]
    assert describe(house.NeedyPart)[0] == OptionRow("model", "str", None, "")
    assert "        channels inside." in usage(house.PlainPart, explain=True)


def test_words_may_run_over_lines_stand_for_two_names_and_be_inherited(house):
    class Heir(house.Limits):
        """Bounds and more.

        Attributes:
            low: not an option.
        """

    words = argument_words(Heir)
    assert words == {"low": "the bounds, both inclusive.", "high": "the bounds, both inclusive."}


def test_types_are_shown_as_they_are_written(house):
    types = {row.name: row.type for row in describe(house.Machine)}
    assert types == {
        "part": "part node | null",
        "spare": "part node",
        "extra": "[part node, ...]",
        "matching": "Matching options",
        "rate": "float",
    }


def test_a_summary_is_the_docstrings_first_paragraph_and_not_a_dataclass_signature(house):
    assert summary(house.PlainPart) == "A plain part. It does little."
    assert summary(dataclasses.make_dataclass("Bare", ["x"])) == ""


def question(house, write, *overrides):
    write("base.yaml", "model:\n  name: Machine\n  part: {name: PlainPart, width: 3}\n")
    path = write("c.yaml", "_base_: base.yaml\nmodel:\n  matching: {thresholds: [0.5]}\n  extra: [{name: PlainPart}]\n")
    config = load_config(path, overrides)
    return parse(config.tree, house.Root, sources=config.sources), config.sources


def test_a_path_leads_to_the_class_or_value_and_its_option(house, write):
    recipe, _ = question(house, write)
    assert find_location(recipe, "").value is recipe
    assert find_location(recipe, "model.part").value.cls is house.PlainPart
    assert find_location(recipe, "model.extra[0]").value.cls is house.PlainPart
    assert find_location(recipe, "model.extra.0.width").value == 8
    assert find_location(recipe, "model.matching.limits").value.cls is house.Limits
    location = find_location(recipe, "model.part.width")
    assert (location.value, location.owner, location.option) == (
        3,
        house.PlainPart,
        schema(house.PlainPart).options["width"],
    )
    assert roles_in(find_location(recipe, "model.part").option.want) == [house.parts]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("model.prat", "model: Machine has no option 'prat'. Did you mean 'part'?"),
        ("modell", "config: Root has no option 'modell'. Did you mean 'model'?"),
        ("model.rate.x", "model.rate: nothing stands below it at 'x'"),
        ("model.extra[4]", "model.extra: nothing stands below it at '4'"),
        ("model..x", "not a key path"),
    ],
)
def test_a_path_that_leads_nowhere_is_an_error(house, write, path, words):
    with pytest.raises(ConfigError) as caught:
        find_location(question(house, write)[0], path)
    assert words in str(caught.value)


def test_classes_are_found_by_name_nested_options_too(house):
    assert find_classes("PlainPart", house.Root) == [house.PlainPart]
    assert find_classes("Limits", house.Root) == [house.Limits]
    with pytest.raises(ConfigError, match=r"there is no class 'Limit'\. Did you mean 'Limits'"):
        find_classes("Limit", house.Root)


def test_why_names_file_override_or_the_class_with_the_default(house, write):
    recipe, sources = question(house, write, "model.part.kind=thick")

    def why(path):
        (value,) = explain(recipe, sources, path)
        return value.value, value.source

    value, source = why("model.part.width")
    assert value == "3"
    assert source.endswith("base.yaml:3")
    assert why("model.part.kind") == ("thick", "override 'model.part.kind=thick'")
    assert why("model.part.old")[1].startswith("default of PlainPart (")
    assert why("model.part.name")[0] == "PlainPart"
    assert why("model.matching.thresholds")[1].endswith("c.yaml:3")
    assert why("model.matching.limits.high") == ("9.0", why("model.rate")[1])  # Machine's, not Limits' own 1.0
    assert why("model.spare.width")[1].startswith("default of Machine")
    assert why("limits.low")[1].startswith("default of Root")


def test_why_of_a_node_lists_every_value_below_it(house, write):
    recipe, sources = question(house, write)
    paths = [value.path for value in explain(recipe, sources, "model.part")]
    assert paths == ["model.part.name", "model.part.width", "model.part.kind", "model.part.old"]
    everything = {value.path for value in explain(recipe, sources, "")}
    assert {"model.name", "model.extra[0].width", "model.matching.limits.low", "steps", "names"} <= everything
