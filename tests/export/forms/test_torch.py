"""Parts of a .pt2 that would run code as torch reads them are refused before it does."""

import contextlib
import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch

from detkit.export import Program
from detkit.registry import DataError

GRAPH = "models/model.json"


@pytest.fixture
def marker(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "marker"


class Payload:
    def __reduce__(self):
        return open, ("marker", "w")


def parts_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def written(path: Path, parts: dict[str, bytes], folder: str = "archive/") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(folder + name, content)
    return path


def with_graph(parts, change) -> dict[str, bytes]:
    graph = json.loads(parts[GRAPH])
    change(graph)
    return parts | {GRAPH: json.dumps(graph).encode()}


CODE = "__import__('pathlib').Path('marker').touch()"


def formula(graph, text=CODE):
    sizes = next(iter(graph["graph_module"]["graph"]["tensor_values"].values()))["sizes"]
    sizes[0] = {"as_expr": {"expr_str": text, "hint": None}}


def guard(graph):
    graph["guards_code"] = [CODE]


def target(name):
    def change(graph):
        graph["graph_module"]["graph"]["nodes"][0]["target"] = name

    return change


def structure(text):
    def change(graph):
        graph["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = text

    return change


def argument_names(graph):
    graph["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = ["images", f"regions={CODE}"]


def keys_of_outputs(graph):
    signature = graph["graph_module"]["module_call_graph"][0]["signature"]
    signature["out_spec"] = signature["out_spec"].replace("boxes", f"x': {CODE}, '")


def node_name(graph):
    text = json.dumps(graph).replace('"regions"', json.dumps(f"regions={CODE}"))
    graph.clear()
    graph.update(json.loads(text))


def pickled_weights(graph):
    graph["config"]["a"] = {"path_name": "weight_0", "use_pickle": True, "is_param": True, "tensor_meta": None}


TREE = '[1, {"type": "%s", "context": %s, "children_spec": []}]'
MODULE = {"default_factory_module": "planted", "default_factory_name": "x", "dict_context": []}
GRAPHS = {
    "a formula that is evaluated": formula,
    "a number of many digits": lambda graph: formula(graph, "9**9**9"),
    "a tuple of any length": lambda graph: formula(graph, "(0,)*Integer(999999999)"),
    "a power of numbers": lambda graph: formula(graph, "Mul(Integer(2), Pow (Integer(9), Integer(999999999)))"),
    "checks as Python": guard,
    "torch.hub": target("torch.hub.load"),
    "a file read by an operator": target("torch.ops.aten.from_file.default"),
    "a file written by an operator": target("torch.ops.aten.save.default"),
    "an operator of a library": target("torch.ops.image.write_file.default"),
    "a function that calls others": target("_operator.call"),
    "attributes by name": target("_operator.attrgetter"),
    "an operator with functions": target("torch.ops.higher_order.cond"),
    "an extension": target("#custom:op"),
    "a module imported for a type": structure(TREE % ("collections.defaultdict", json.dumps(MODULE))),
    "a module imported for a key": structure(
        TREE % ("builtins.dict", json.dumps(json.dumps([{"__enum__": True, "fqn": "planted:x", "name": "y"}])))
    ),
    "names of arguments": argument_names,
    "names of outputs": keys_of_outputs,
    "names of nodes": node_name,
}


@pytest.mark.parametrize("change", GRAPHS.values(), ids=GRAPHS)
def test_a_graph_with_code_is_refused(programs, tmp_path, marker, change):
    (tmp_path / "planted.py").write_text(CODE)
    path = written(tmp_path / "model.pt2", with_graph(parts_of(programs / "model.pt2"), change))
    with pytest.raises(DataError, match=r"model\.pt2: has .*, which may run code and which detkit does not write"):
        Program(path)
    assert not marker.exists()


PARTS = {
    "sample inputs": ("data/sample_inputs/model.pt", pickle.dumps(Payload())),
    "old weights": ("data/weights/model.pt", pickle.dumps(Payload())),
    "old constants": ("data/constants/model.pt", pickle.dumps(Payload())),
    "an opaque object": ("data/constants/opaque_obj_0", pickle.dumps(Payload())),
    "a custom object": ("data/constants/custom_obj_0", pickle.dumps(Payload())),
    "a pickle named as JSON": ("data/constants/opaque_obj_0.json", pickle.dumps(Payload())),
    "a library": ("data/aotinductor/model/model.so", b"ELF"),
    "a second model": ("models/other", b"{}"),
    "a model in capitals": ("models/MODEL.json", b"{}"),
}


@pytest.mark.parametrize(("name", "content"), PARTS.values(), ids=PARTS)
def test_a_part_with_code_is_refused(programs, tmp_path, marker, name, content):
    path = written(tmp_path / "model.pt2", parts_of(programs / "model.pt2") | {name: content})
    with pytest.raises(DataError, match=r"model\.pt2: "):
        Program(path)
    assert not marker.exists()


def test_pickled_weights_are_refused(programs, tmp_path, marker):
    parts = parts_of(programs / "model.pt2")
    name = "data/weights/model_weights_config.json"
    config = json.loads(parts[name])
    pickled_weights(config)
    parts |= {name: json.dumps(config).encode(), "data/weights/weight_0": pickle.dumps(Payload())}
    with pytest.raises(DataError, match="pickled values"):
        Program(written(tmp_path / "model.pt2", parts))
    assert not marker.exists()


def deflated(lie: bool) -> bytes:
    """Zeros; with a lie, of which the archive's directory says that they take as much in the file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/extra/zeros", bytes(2**25))
    raw = bytearray(content.getvalue())
    if lie:
        struct.pack_into("<L", raw, raw.rfind(b"PK\x01\x02") + 20, 2**25)
    return bytes(raw)


def overlapping() -> bytes:
    """Many entries that are all the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/extra/a", bytes(2**18))
        first = archive.infolist()[0]
        for number in range(200):
            copy = zipfile.ZipInfo(f"archive/extra/b{number}")
            copy.file_size = copy.compress_size = first.file_size
            copy.CRC, copy.header_offset = first.CRC, first.header_offset
            archive.filelist.append(copy)
    return content.getvalue()


def pickled(parts) -> bytes:
    """Example inputs that are a call of bytearray."""
    code = b"\x80\x02c__builtin__\nbytearray\nJ" + struct.pack("<i", 2**25) + b"\x85R."
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, value in (("data.pkl", code), ("version", b"3"), ("byteorder", b"little")):
            archive.writestr(f"m/{name}", value)
    return as_bytes(parts | {"data/sample_inputs/model.pt": content.getvalue()})


def zeros(parts) -> bytes:
    """A weight of a size without content."""
    name = "data/weights/model_weights_config.json"
    config = json.loads(parts[name])
    weight = next(iter(config["config"].values()))
    weight["tensor_meta"] |= {"sizes": [{"as_int": 2**25}], "strides": [{"as_int": 1}]}
    return as_bytes(parts | {name: json.dumps(config).encode(), f"data/weights/{weight['path_name']}": b""})


def as_bytes(parts) -> bytes:
    content = io.BytesIO()
    written(content, parts)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda _: deflated(lie=False), "has compressed parts"),
        (lambda _: deflated(lie=True), "has compressed parts"),
        (lambda _: overlapping(), "parts that overlap"),
        (pickled, "has a part that may run code, 'data/sample_inputs/model.pt'"),
        (zeros, r"has no content for '.*' of size \[33554432\]"),
    ],
    ids=("compressed", "compressed with a lie", "overlapping", "pickled", "zeros"),
)
def test_a_small_file_that_grows_as_it_is_read_is_refused(programs, tmp_path, content, message):
    path = tmp_path / "bomb.pt2"
    path.write_bytes(content(parts_of(programs / "model.pt2")))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message):
            Program(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_two_parts_of_one_name_are_refused(programs, tmp_path, marker):
    """torch might read the other one."""
    parts = parts_of(programs / "model.pt2")
    path = written(tmp_path / "model.pt2", with_graph(parts, guard))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/" + GRAPH, parts[GRAPH])
    with pytest.raises(DataError, match="parts of the same name"):
        Program(path)
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", [formula, node_name])
def test_torch_would_run_the_code(programs, tmp_path, marker, change):
    """What is refused above is no harmless file, nor a marker that nothing makes."""
    path = written(tmp_path / "model.pt2", with_graph(parts_of(programs / "model.pt2"), change))
    with contextlib.suppress(Exception):
        torch.export.load(path)
    assert marker.exists()


def test_nothing_of_the_machine_is_in_the_file(programs):
    parts = parts_of(programs / "model.pt2")
    assert not [name for name, content in parts.items() if str(Path(__file__).parents[3]).encode() in content]
