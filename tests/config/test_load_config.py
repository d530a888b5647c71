"""Files, bases, imports, interpolation: what comes out, and what each mistake says."""

import os
import pickle
import subprocess
import sys

import pytest

from detkit.config import Config, ConfigError, load_config, to_yaml


def error_of(path, *overrides) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_mappings_merge_and_lists_and_scalars_replace(write):
    write("base.yaml", "a: {x: 1, y: [1, 2], deep: {p: 1, q: 2}}\nkeep: base")
    leaf = write("leaf.yaml", "_base_: base.yaml\na: {y: [3], deep: {q: 5}}\nmore: true")
    tree = load_config(leaf).tree
    assert tree == {"a": {"x": 1, "y": [3], "deep": {"p": 1, "q": 5}}, "keep": "base", "more": True}


def test_a_node_that_changes_name_replaces_the_bases_node_whole(write):
    write("base.yaml", "part: {name: PlainPart, width: 3}\nsame: {name: PlainPart, width: 3}")
    leaf = write("leaf.yaml", "_base_: base.yaml\npart: {name: FancyPart}\nsame: {name: PlainPart, kind: thick}")
    tree = load_config(leaf).tree
    assert tree["part"] == {"name": "FancyPart"}
    assert tree["same"] == {"name": "PlainPart", "width": 3, "kind": "thick"}


def test_null_removes_a_part(write):
    write("base.yaml", "part: {name: PlainPart}")
    assert load_config(write("leaf.yaml", "_base_: base.yaml\npart: null")).tree == {"part": None}


def test_later_bases_lie_over_earlier_ones_and_paths_are_relative_to_their_file(write):
    write("sub/one.yaml", "a: 1\nb: 1\nc: 1")
    write("sub/two.yaml", "_base_: one.yaml\nb: 2\nc: 2")
    write("three.yaml", "c: 3")
    leaf = write("leaf.yaml", "_base_: [sub/two.yaml, three.yaml]\nd: 4")
    assert load_config(leaf).tree == {"a": 1, "b": 2, "c": 3, "d": 4}


def test_sources_name_file_line_and_override(write):
    base = write("base.yaml", "a:\n  x: 1\n  y: 2\nlist: [{k: 1}]")
    leaf = write("leaf.yaml", "_base_: base.yaml\na: {x: 3}")
    sources = load_config(leaf, ["list[0].k=5"]).sources
    assert sources["a.x"].endswith("leaf.yaml:2")
    assert sources["a.y"].endswith(f"{base.name}:3")
    assert sources["list[0].k"] == "override 'list[0].k=5'"


def test_numbers_and_texts_are_what_they_look_like(write):
    path = write("c.yaml", "a: 1e-4\nb: 1E3\nc: 2024-01-01\nd: '1e-4'\ne: .5\nf: 10\ng: -1.\nh: .inf\ni: 1.2.3")
    tree = load_config(path).tree
    assert tree == {
        "a": 1e-4, "b": 1000.0, "c": "2024-01-01", "d": "1e-4", "e": 0.5, "f": 10, "g": -1.0, "h": float("inf"),
        "i": "1.2.3",
    }  # fmt: skip
    assert isinstance(tree["b"], float)
    assert isinstance(tree["f"], int)


def test_an_anchor_gives_independent_copies(write):
    tree = load_config(write("c.yaml", "a: &x {p: [1]}\nb: *x"), ["b.p=[2]"]).tree
    assert tree == {"a": {"p": [1]}, "b": {"p": [2]}}


def test_interpolation_reads_other_keys_and_the_environment(write, monkeypatch):
    monkeypatch.setenv("CONFIG_TEST_ROOT", "/data")
    path = write(
        "c.yaml",
        "size: 4\nhalf: ${size}\nroot: ${oc.env:CONFIG_TEST_ROOT,x}/images\n"
        "other: ${oc.env:CONFIG_TEST_NO,here}\nplain: {a: 1}",
    )
    tree = load_config(path, ["size=8"]).tree
    assert tree == {"size": 8, "half": 8, "root": "/data/images", "other": "here", "plain": {"a": 1}}
    assert type(tree["plain"]) is dict


@pytest.mark.parametrize(
    "value", ["${nothing.here}", "${oc.env:CONFIG_TEST_NO}", "${unclosed", "${no_such_resolver:1}"]
)
def test_an_interpolation_that_fails_names_its_path_and_line(write, value):
    message = error_of(write("c.yaml", f"a:\n  b: '{value}'"))
    assert message.startswith("a.b: ")
    assert "c.yaml:2" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1\n- 2", ["expected a mapping", "[1, 2]"]),
        ("just text", ["expected a mapping"]),
        ("a: [1, 2", ["not YAML"]),
        ("a: 1\nb: 2\na: 3", ["c.yaml:3", "'a' stands here twice", "c.yaml:1"]),
        ("a: {x: 1, x: 2}", ["'x' stands here twice"]),
        ("a: !!python/object/apply:os.system ['echo no']", ["c.yaml:1", "not supported"]),
        ("a: !!python/name:os.system", ["c.yaml:1", "not supported"]),
        ("a: &x {p: 1}\nb: {<<: *x}", ["c.yaml:2", "_base_"]),
        ("a: &x [*x]", ["alias"]),
        ("true: 1", ["a key must be a word", "quotes"]),
        ("[1]: 2", ["a key must be a word"]),
        ("a: 1\n---\nb: 2", ["not YAML"]),
        ("_base_: 3", ["_base_: expected a path", "3"]),
        ("_base_: nowhere.yaml", ["c.yaml:1", "_base_ 'nowhere.yaml' does not exist"]),
        ("_base_: [d.yml]", ["Did you mean 'd.yaml'?"]),
        ("imports: 3", ["imports: expected a list", "3"]),
        ("imports: [nothing.py]", ["c.yaml:1", "no file", "nothing.py"]),
        ("imports: [no_such_module_here]", ["no module 'no_such_module_here'", "PYTHONPATH"]),
        ("a: \xff\x00", ["c.yaml"]),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(write, text, words):
    write("d.yaml", "")
    message = error_of(write("c.yaml", text))
    assert "c.yaml" in message
    for word in words:
        assert word in message


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "there is no such file" in error_of(tmp_path / "no.yaml")
    assert "without a run's config.yaml; a folder of data is given by --data" in error_of(tmp_path)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("configs/quick_strat/mask_rcnn_shapes.yaml", "configs/quick_start/mask_rcnn_shapes.yaml"),
        ("confgs/quick_start/mask_rcnn_shapes.yaml", "configs/quick_start/mask_rcnn_shapes.yaml"),
        ("configs/quick_start/mask_rcnn_shapes.yml", "configs/quick_start/mask_rcnn_shapes.yaml"),
        ("configs/mask_rcnn_shapes.yaml", "configs/quick_start/mask_rcnn_shapes.yaml"),  # its folder forgotten
        ("retinanet.yaml", "configs/retinanet.yml"),
        ("configs/of_another_kind.yaml", None),
    ],
)
def test_a_path_at_which_there_is_none_names_the_nearest_file(write, tmp_path, monkeypatch, asked, meant):
    for name in ("quick_start/mask_rcnn_shapes.yaml", "balloon/mask_rcnn_balloon.yaml", "retinanet.yml", "a.txt"):
        write(f"configs/{name}", "")
    monkeypatch.chdir(tmp_path)
    fix = f". Did you mean '{meant}'?" if meant else "; detkit show --configs lists those of detkit"
    assert error_of(asked) == f"{asked}: there is no such file{fix}"
    message = error_of(write("runs/c.yaml", f"_base_: ../{asked}"))
    assert "does not exist" in message
    assert ("Did you mean" in message) == (meant is not None)
    if meant is not None:
        assert message.endswith(f"Did you mean '../{meant}'?")


def test_a_file_is_not_suggested_as_its_own_base(write):
    assert "Did you mean" not in error_of(write("c.yaml", "_base_: cc.yaml"))


def test_the_nearest_file_is_not_looked_for_in_the_whole_of_a_large_tree(write, tmp_path, monkeypatch):
    for number in range(400):
        (tmp_path / f"images_{number:03d}").mkdir()
    write("images_399/mask_rcnn.yaml", "")
    looked_into = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: looked_into.append(folder) or scan(folder))
    assert "there is no such file" in error_of(tmp_path / "mask_rcnn.yaml")
    assert 0 < len(looked_into) <= 300


def test_an_empty_file_is_an_empty_config(write):
    assert load_config(write("c.yaml", "# nothing\n")).tree == {}


def test_a_circle_of_bases_is_shown(write):
    write("b.yaml", "_base_: sub/c.yaml")
    write("sub/c.yaml", "_base_: ../a.yaml")
    message = error_of(write("a.yaml", "_base_: b.yaml"))
    chain = message.partition("goes round in a circle: ")[2].split(" -> ")
    assert [file.rpartition("/")[2] for file in chain] == ["a.yaml", "b.yaml", "c.yaml", "a.yaml"]


def test_a_diamond_of_bases_is_no_circle(write):
    write("root.yaml", "x: 1")
    write("l.yaml", "_base_: root.yaml\nl: 1")
    write("r.yaml", "_base_: root.yaml\nr: 1")
    assert load_config(write("c.yaml", "_base_: [l.yaml, r.yaml]")).tree == {"x": 1, "l": 1, "r": 1}


def test_imports_are_concatenated_absolute_and_loaded_once(write, tmp_path):
    for folder in ("a", "b"):
        write(f"{folder}/same_stem.py", f"WHO = '{folder}'\nimport builtins\nbuiltins.loaded_by_test.append(WHO)")
    import builtins

    builtins.loaded_by_test = []
    write("a/base.yaml", "imports: [same_stem.py]")
    leaf = write("b/leaf.yaml", "_base_: ../a/base.yaml\nimports: [same_stem.py, ../a/same_stem.py, textwrap]")
    config = load_config(leaf)
    load_config(leaf)
    assert builtins.loaded_by_test == ["a", "b"]
    del builtins.loaded_by_test
    assert config.imports == [str(tmp_path / "a/same_stem.py"), str(tmp_path / "b/same_stem.py"), "textwrap"]
    assert config.tree == {}


def test_imports_by_override_are_added(write, tmp_path, monkeypatch):
    write("one.py", "")
    write("two.py", "")
    path = write("c.yaml", "imports: [one.py]")
    monkeypatch.chdir(tmp_path)
    assert load_config(path, ["imports=[two.py]"]).imports == [str(tmp_path / "one.py"), str(tmp_path / "two.py")]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = 1\ny = x +", ["SyntaxError", "broken.py:2"]),
        ("\n\nraise RuntimeError('the reason')", ["RuntimeError: the reason", "broken.py:3"]),
        ("import sys\nsys.exit(0)", ["SystemExit", "broken.py:2"]),
        ("import no_such_module_of_the_user", ["ModuleNotFoundError", "no_such_module_of_the_user", "broken.py:1"]),
    ],
)
def test_a_mistake_in_user_code_names_file_and_line(write, code, words):
    write("broken.py", code)
    message = error_of(write("c.yaml", "imports: [broken.py]"))
    for word in words:
        assert word in message


def test_a_file_can_be_loaded_again_after_its_mistake_is_mended(house, write, monkeypatch):
    monkeypatch.setitem(sys.modules, "stub_house", house)
    good = "from stub_house import *\nimport stub_house as h\n@h.parts.register()\nclass Late(h.Part): pass\n"
    write("late.py", good.replace("from stub_house import *\n", "") + "1 / 0\n")
    path = write("c.yaml", "imports: [late.py]")
    assert "ZeroDivisionError" in error_of(path)
    assert "Late" not in house.parts
    write("late.py", good.replace("from stub_house import *\n", ""))
    load_config(path)
    assert "Late" in house.parts


def test_a_file_that_the_script_imported_itself_is_not_run_again(write, tmp_path, monkeypatch):
    write("mine_own.py", "import builtins\nbuiltins.runs = getattr(builtins, 'runs', 0) + 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    import builtins

    __import__("mine_own")
    load_config(write("c.yaml", "imports: [mine_own.py]"))
    assert builtins.runs == 1
    del builtins.runs
    del sys.modules["mine_own"]


def test_objects_of_an_imported_file_unpickle_in_a_fresh_process(write, tmp_path):
    write("my.parts.py", "class Thing:\n    def __init__(self, x): self.x = x\n")
    load_config(write("c.yaml", "imports: [my.parts.py]"))
    module = next(m for name, m in sys.modules.items() if name.endswith("my%2Eparts"))
    (tmp_path / "thing.pickle").write_bytes(pickle.dumps(module.Thing(7)))
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).x)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "thing.pickle")], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "7", done.stderr


def test_a_tree_from_elsewhere_is_loaded_like_a_file(write):
    tree = {"a": {"x": 1}, "b": "${a.x}"}
    config = load_config(tree, ["a.x=2"])
    assert isinstance(config, Config)
    assert config.tree == {"a": {"x": 2}, "b": 2}
    assert tree["a"]["x"] == 1


@pytest.mark.parametrize(
    "text", ["${a}", "\\${a}", "a\\\\${b}", "yes", "1e-4", "1_0", "null", "~", "2024-01-01", "a: b", "", " x ", "é\n#"]
)
def test_what_to_yaml_writes_loads_unchanged(write, text):
    tree = {
        "text": text,
        "list": [1, 2.5, text],
        "deep": {"f": [1e-5, 1e22, float("inf"), 3.0]},
        "none": None,
        "e": {},
        "l": [],
    }
    path = write("c.yaml", "")
    path.write_text(to_yaml(tree), encoding="utf-8")
    assert load_config(path).tree == tree


def test_loading_imports_no_torch():
    code = "import detkit.config, sys; print([m for m in ('torch', 'torchvision', 'cv2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
