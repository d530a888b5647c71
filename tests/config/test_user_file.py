"""User code in a living process: run again, edited, beside other files, moved, and a stranger's."""

import shutil
import sys

import pytest

from detkit.config import ConfigError, ForeignConfig, load_config
from detkit.config.user_file import CODE, copied_code

HEAD = """import stub_house as h
{more}
@h.parts.register()
class {name}(h.Part):
    def __init__(self, in_channels, *, {options}): pass
"""


@pytest.fixture
def shop(house, monkeypatch):
    """The house as a module that user code imports; what user code leaves behind is removed."""
    monkeypatch.setitem(sys.modules, "stub_house", house)
    modules, path = set(sys.modules), [*sys.path]
    yield house
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.path[:] = path


def code(name="Mine", options="a: int = 1", more=""):
    return HEAD.format(name=name, options=options, more=more)


def options_of(house, name="Mine"):
    from detkit.config.schema import schema

    return list(schema(house.parts.get(name)).options)


def test_an_edited_file_is_loaded_anew_and_so_is_one_beside_it(shop, write):
    write("helper.py", "AMOUNT = 1")
    write("my.py", code(options="a: int = AMOUNT", more="from helper import AMOUNT"))
    path = write("c.yaml", "imports: [my.py]")
    load_config(path)
    first = shop.parts.get("Mine")
    load_config(path)
    assert shop.parts.get("Mine") is first
    write("helper.py", "AMOUNT = 22")
    load_config(path)
    assert shop.parts.get("Mine").__init__.__kwdefaults__ == {"a": 22}
    write("my.py", code(options="a: int = 1, b: int = 2"))
    load_config(path)
    assert options_of(shop) == ["a", "b"]


def test_files_of_one_name_in_two_folders_each_find_what_lies_beside_them(shop, write):
    for folder, name in (("one", "First"), ("two", "Second")):
        write(f"{folder}/helper.py", f"FOLDER = '{folder}'")
        write(f"{folder}/my.py", code(name, f"a: str = '{folder}', b: str = FOLDER", "from helper import FOLDER"))
        load_config(write(f"{folder}/c.yaml", "imports: [my.py]"))
    assert shop.parts.get("Second").__init__.__kwdefaults__ == {"a": "two", "b": "two"}
    load_config(write("one/c.yaml", "imports: [my.py]"))
    assert shop.parts.get("First").__init__.__kwdefaults__ == {"a": "one", "b": "one"}


def test_a_module_that_the_script_imported_is_loaded_anew_when_it_was_edited(shop, write, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    write("own_module.py", code("Own"))
    __import__("own_module")
    path = write("c.yaml", "imports: [own_module.py]")
    load_config(path)
    write("own_module.py", code("Own", "changed: int = 1"))
    load_config(path)
    assert options_of(shop, "Own") == ["changed"]


def test_an_edited_module_of_a_package_is_loaded_anew(shop, write, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    write("own_package/__init__.py", "")
    write("own_package/parts.py", code("Packed"))
    path = write("c.yaml", "imports: [own_package.parts]")
    load_config(path)
    first = shop.parts.get("Packed")
    load_config(path)
    assert shop.parts.get("Packed") is first
    write("own_package/parts.py", code("Packed", "changed: int = 1"))
    load_config(path)
    assert options_of(shop, "Packed") == ["changed"]
    names, files = copied_code(["own_package.parts"])
    assert (names, sorted(files)) == (["own_package.parts"], ["own_package/__init__.py", "own_package/parts.py"])
    shutil.rmtree(tmp_path / "own_package")
    for place, text in files.items():
        write(f"moved/{CODE}/{place}", text.decode())
    load_config(write("moved/config.yaml", "imports: [own_package.parts]"))
    assert sys.modules["own_package.parts"].__file__ == str(tmp_path / "moved" / CODE / "own_package" / "parts.py")


@pytest.mark.parametrize("line", ["from .helper_beside import x", "from . import helper_beside"])
def test_a_relative_import_is_told_what_to_write(line, shop, write):
    write("helper_beside.py", "")
    write("my.py", line)
    with pytest.raises(ConfigError, match=r"my\.py:1: .*'import helper_beside', without the dot"):
        load_config(write("c.yaml", "imports: [my.py]"))


def test_a_copy_of_the_code_works_where_the_original_is_gone(shop, write, tmp_path):
    write("project/package/__init__.py", "")
    write("project/package/deep.py", "AMOUNT = 5")
    write("project/my.py", code(options="a: int = AMOUNT", more="from package.deep import AMOUNT"))
    write("project/other.py", code("Other"))
    load_config(write("project/c.yaml", "imports: [my.py, other.py]"))
    names, files = copied_code([str(tmp_path / "project" / name) for name in ("my.py", "other.py")])
    assert names == ["my.py", "other.py"]
    assert sorted(files) == ["my.py", "other.py", "package/__init__.py", "package/deep.py"]
    for place, text in files.items():
        (tmp_path / "moved" / CODE / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "moved" / CODE / place).write_bytes(text)
    shutil.rmtree(tmp_path / "project")
    saved = write("moved/config.yaml", f"imports: [{CODE}/my.py, {CODE}/other.py]")
    assert load_config(saved).imports == [str(tmp_path / "moved" / CODE / name) for name in names]
    assert shop.parts.get("Mine").__init__.__kwdefaults__ == {"a": 5}


def test_copies_of_files_of_one_name_stand_apart(shop, write, tmp_path):
    for folder, name in (("a", "OfA"), ("b", "OfB")):
        write(f"{folder}/same.py", code(name))
    load_config(write("c.yaml", "imports: [a/same.py, b/same.py]"))
    names, files = copied_code([str(tmp_path / f"{folder}/same.py") for folder in "ab"])
    assert names == ["same.py", "2/same.py"]
    assert {b"OfA", b"OfB"} == {next(w for w in (b"OfA", b"OfB") if w in text) for text in files.values()}


@pytest.mark.parametrize("given", ["file", "base", "mapping", "checkpoint"])
def test_code_that_is_not_trusted_is_not_run(write, tmp_path, given, monkeypatch):
    write("stranger.py", f"import sys\nsys.stranger_ran = '{given}'")
    file = write("c.yaml", "imports: [stranger.py]")
    tree = {"imports": ["stranger.py"]}
    config = {
        "file": file, "base": {"_base_": str(file)}, "mapping": tree, "checkpoint": ForeignConfig(tree, tmp_path)
    }[given]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"imports: '.*stranger\.py' is code.*--trust-imports.*trust_imports=True"):
        load_config(config, imports="refuse" if given != "checkpoint" else None)
    assert load_config(config, imports="skip").imports == [str(tmp_path / "stranger.py")]
    assert not hasattr(sys, "stranger_ran")
    load_config(config, imports="run")
    assert sys.stranger_ran
    with pytest.raises(ConfigError, match="is code"):
        load_config(config, imports="refuse")
    del sys.stranger_ran


def test_what_the_command_line_imports_is_the_users_own(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("own.py", "")
    load_config({}, ["imports=[own.py]"], imports="refuse")


@pytest.mark.parametrize("name", ["..", "./my_head", ".my_head", "my head", "my/head", "os.", "https://host/x"])
def test_what_is_no_name_of_a_module_is_told_so(name, write):
    with pytest.raises(ConfigError, match=r"imports: '.*' is no name of a module; a file is given by its path"):
        load_config(write("c.yaml", f"imports: ['{name}']"))


def test_copies_of_files_of_one_name_each_have_what_lay_beside_them(shop, write, tmp_path):
    for folder in "ab":
        write(f"{folder}/helper.py", f"NAME = '{folder}'")
        write(f"{folder}/same.py", code(f"Of{folder}", "a: str = NAME", "from helper import NAME"))
    load_config(write("c.yaml", "imports: [a/same.py, b/same.py]"))
    names, files = copied_code([str(tmp_path / f"{folder}/same.py") for folder in "ab"])
    for place, text in files.items():
        write(f"moved/{place}", text.decode())
    for folder in "ab":
        shutil.rmtree(tmp_path / folder)
    load_config(write("moved/c.yaml", f"imports: {[*names]}"))
    assert [shop.parts.get(f"Of{folder}").__init__.__kwdefaults__["a"] for folder in "ab"] == ["a", "b"]


def test_a_package_is_given_by_its_name(write):
    write("own_folder/__init__.py", "")
    with pytest.raises(ConfigError, match=r"a package is given by its name, 'own_folder', .* PYTHONPATH"):
        load_config(write("c.yaml", "imports: [own_folder/__init__.py]"))


def test_the_place_of_an_error_is_the_innermost_line_of_the_users_own(write):
    write("failing_helper.py", "\n{}['x']")
    write("my.py", "import failing_helper")
    with pytest.raises(ConfigError, match=r"failing_helper\.py:2: KeyError: 'x'"):
        load_config(write("c.yaml", "imports: [my.py]"))
