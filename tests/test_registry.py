"""What a registry demands of a class, and what it says."""

import dataclasses
import importlib
import sys

import pytest

from detkit.registry import ConfigError, Registry, did_you_mean, options, required, role_of, runtime_arguments


class Base:
    def __init__(self, shape: int):
        pass


@pytest.fixture
def bases():
    registry: Registry = Registry("thing", Base)
    yield registry
    del Registry.of[Base]


def test_a_class_registers_under_its_own_name(bases):
    @bases.register()
    class Good(Base):
        def __init__(self, shape: int, *, size: int = 1):
            pass

    assert bases.get("Good") is Good
    assert bases.names() == ["Good"]
    assert "Good" in bases
    assert role_of(Good) is bases
    assert Registry.of[Base] is bases


def test_the_interface_is_demanded(bases):
    class Stranger:
        def __init__(self, shape: int):
            pass

    with pytest.raises(TypeError, match="Stranger is registered as a thing but is not a Base"):
        bases.register(Stranger)
    with pytest.raises(TypeError, match="is not a Base"):
        bases.register(lambda shape: None)


def test_the_runtime_arguments_are_demanded(bases):
    class Wrong(Base):
        def __init__(self, shape: int, size: int):
            pass

    with pytest.raises(
        TypeError, match=r"Wrong.__init__ takes \('shape', 'size'\) before '\*'; a thing takes \('shape',\)"
    ):
        bases.register(Wrong)


def test_hidden_options_are_refused(bases):
    class ByName(Base):
        def __init__(self, shape: int, **kwargs: int):
            pass

    class ByPlace(Base):
        def __init__(self, shape: int, *args: int):
            pass

    for cls in (ByName, ByPlace):
        with pytest.raises(TypeError, match="hides options from the schema"):
            bases.register(cls)


def test_an_option_without_annotation_is_refused(bases):
    class Bare(Base):
        def __init__(self, shape: int, *, size=1):
            pass

    with pytest.raises(TypeError, match="annotate 'size'"):
        bases.register(Bare)


def test_a_second_class_of_one_name_is_refused_and_the_first_stays(bases):
    class Twin(Base):
        pass

    first = Twin
    bases.register(Twin)

    class Twin(Base):  # type: ignore[no-redef]
        pass

    with pytest.raises(KeyError, match=r"thing 'Twin' is already registered by .*test_registry"):
        bases.register(Twin)
    assert bases.get("Twin") is first


def test_an_unknown_name_gets_the_nearest_one_and_the_way_in(bases):
    class PlainThing(Base):
        pass

    bases.register(PlainThing)
    with pytest.raises(ConfigError) as caught:
        bases.get("PlainThin")
    message = str(caught.value)
    assert message.startswith("no thing named 'PlainThin'. Did you mean 'PlainThing'? Registered: PlainThing")
    assert "'imports:'" in message


def test_a_key_is_one_classs_and_not_that_of_its_subclass(bases):
    @bases.register()
    class Keyed(Base):
        key = "short"

    @bases.register()
    class Below(Keyed):
        pass

    class Taken(Base):
        key = "short"

    with pytest.raises(KeyError, match="Taken: the key 'short' is that of Keyed; choose another"):
        bases.register(Taken)
    assert bases.by_key() == {"short": Keyed}
    assert bases.with_key("short", "--thing") is Keyed
    with pytest.raises(ConfigError) as caught:
        bases.with_key("shrot", "--thing", "other")
    message = str(caught.value)
    assert message.startswith(
        "--thing: there is no 'shrot'. Did you mean 'short'? There are short, other (one of your own"
    )


def test_a_module_can_be_forgotten(bases):
    class Mine(Base):
        pass

    bases.register(Mine)
    bases.forget("another_module")
    assert "Mine" in bases
    bases.forget(__name__)
    assert bases.names() == []


def test_options_stand_behind_the_star_and_runtime_arguments_before_it(bases):
    class Split(Base):
        def __init__(self, shape: int, *, size: int = 1, kind: str):
            pass

    assert list(options(Split)) == ["size", "kind"]
    assert runtime_arguments(Split) == ("shape",)


def test_every_field_of_nested_options_is_an_option():
    nested = dataclasses.make_dataclass("Nested", [("a", int), ("b", int, dataclasses.field(default=1, kw_only=True))])
    assert list(options(nested)) == ["a", "b"]
    assert role_of(nested) is None


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("num_cov", ["num_conv", "conv_dim", "norm"], "num_conv"),
        ("prat", ["rate", "part"], "part"),
        ("bn", ["GN", "BN"], "BN"),
        ("RESNET", ["ResNet", "ResNeXt"], "ResNet"),
        ("zzz", ["num_conv"], None),
        ("x", [], None),
    ],
)
def test_the_nearest_word_is_suggested(word, known, meant):
    assert did_you_mean(word, known) == (f" Did you mean '{meant}'?" if meant else "")


def test_a_cell_that_is_run_again_registers_its_class_again(bases):
    cell = "@bases.register()\nclass Cell(Base):\n    pass\n"
    scope = {"bases": bases, "Base": Base, "__name__": "__main__"}
    exec(cell, scope)
    first = scope["Cell"]
    exec(cell.replace("pass", "x = 1"), scope)
    assert bases.get("Cell") is scope["Cell"] is not first


def test_a_module_that_is_reloaded_registers_again_but_two_classes_in_it_are_a_mistake(bases, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "bases_of_test", (bases, Base), raising=False)
    once = "import sys\nbases, Base = sys.bases_of_test\n@bases.register()\nclass Part(Base): pass\n"
    (tmp_path / "reloaded_parts.py").write_text(once)
    module = importlib.import_module("reloaded_parts")
    importlib.reload(module)
    assert bases.get("Part") is module.Part
    (tmp_path / "twice_parts.py").write_text(once.replace("Part", "Two") + "@bases.register()\nclass Two(Base): pass\n")
    with pytest.raises(KeyError, match="already registered"):
        importlib.import_module("twice_parts")


def test_required_methods_are_demanded():
    class Base:
        @required
        def measure(self):
            raise NotImplementedError

        def other(self):
            raise NotImplementedError

    class Lacking(Base):
        pass

    class Measuring(Base):
        def measure(self):
            return 1

    registry = Registry("measure", Base)
    with pytest.raises(TypeError, match=r"Lacking lacks measure, which a measure needs; see Base in test_registry"):
        registry.register(Lacking)
    assert registry.register(Measuring) in (None, Measuring)
    del Registry.of[Base]
