"""Reading pickles: numpy arrays and plain containers, nothing else, and nothing of it runs."""

import io
import os
import pickle
import re
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from detkit.checkpoint import load_weights, read_checkpoint
from detkit.checkpoint.pickles import _ALLOWED, read_pickle
from detkit.registry import DataError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
TABLE = np.arange(6, dtype="float32").reshape(2, 3)
ARRAYS = {
    "plain": TABLE,
    "fortran": np.asfortranarray(TABLE),
    "view": TABLE[:, ::2],
    "big_endian": TABLE.astype(">f8"),
    "half": TABLE.astype("f2"),
    "bytes": TABLE.astype("u1"),
    "long": TABLE.astype("i8"),
    "bool": TABLE > 2,
    "empty": np.zeros((0, 3)),
    "no_axes": np.array(5),
    "scalar": np.float64(3.5),
    "integer": np.int64(-1),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_become_tensors_of_their_type_and_shape(protocol):
    read = read_pickle(pickle.dumps(ARRAYS, protocol=protocol), "x")
    for name, array in ARRAYS.items():
        assert isinstance(read[name], torch.Tensor)
        assert read[name].dtype == torch.from_numpy(np.array(array).astype(array.dtype.newbyteorder("="))).dtype
        assert read[name].shape == array.shape
        assert read[name].tolist() == array.tolist()
    read["plain"].add_(1)  # it is the reader's own memory


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_stay_what_they_are(protocol):
    data = {"a": [1, 2.5, None, True, (3, ())], "b": {4, 5}, "c": frozenset([6]), "d": b"\xff\x00", "e": "ä", 7: b""}
    assert read_pickle(pickle.dumps(data, protocol=protocol), "x") == data
    ordered = OrderedDict([("z", 1), ("a", 2)])
    ordered.attribute = 3
    assert list(read_pickle(pickle.dumps(ordered, protocol=protocol), "x").items()) == [("z", 1), ("a", 2)]


def test_arrays_that_python_2_wrote():
    """Its strings are bytes, its numpy the old one."""
    raw = TABLE.tobytes()
    dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    state = b"(K\x01K\x02K\x03\x86" + dtype
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R" + state
    written = b"\x80\x02}U\x05blobs}U\x07conv1_w" + array + b"\x89U" + bytes([len(raw)]) + raw + b"tbss."
    assert read_pickle(written, "x")["blobs"]["conv1_w"].tolist() == TABLE.tolist()


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def harms(path):
    return {
        "posix.system": Call(os.system, f"touch {path}"),
        "builtins.eval": Call(eval, f"open({str(path)!r}, 'w')"),
        f"{open.__module__}.open": Call(open, str(path), "w"),  # Python 3.13 calls io _io
        "posix.mkdir": Call(os.mkdir, str(path)),
        "builtins.getattr": Call(getattr, "x", "upper"),
        "numpy.save": Call(np.save, str(path), 1),
        "__reduce__ of an array": np.array([Call(os.mkdir, str(path))], dtype=object),
    }


HARMS = list(harms("x"))
BAD_ARRAY = "__reduce__ of an array"
DTYPE, ARRAY = r"numpy\.dtype\('O8'\)", r"numpy\.(_core|core)\.multiarray\._reconstruct"


def named(harm, array):
    return re.escape(harm) if harm != BAD_ARRAY else array


@pytest.mark.skipif(os.name != "posix", reason="the names of the system's calls are posix's")
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("harm", HARMS)
def test_what_would_run_is_refused_by_name_and_does_not_run(tmp_path, harm, protocol):
    target, path = tmp_path / "harm", tmp_path / "weights.pkl"
    content = {"model": {"fine": TABLE, "w": harms(target)[harm]}}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    model = torch.nn.Linear(1, 1)
    before = model.weight.clone()
    with pytest.raises(DataError, match=rf"weights\.pkl: holds ({named(harm, DTYPE)}).*nothing of the file was run"):
        load_weights(model, path)
    assert not target.exists()
    assert torch.equal(model.weight, before)


@pytest.mark.skipif(os.name != "posix", reason="the names of the system's calls are posix's")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("harm", HARMS)
def test_files_of_torch_are_refused_by_name_too(tmp_path, harm, zipped):
    target, path = tmp_path / "harm", tmp_path / "weights.pth"
    content = {"model": {"fine": torch.ones(1), "w": harms(target)[harm]}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match=rf"weights\.pth: holds ({named(harm, ARRAY)}).*nothing of the file was run"):
        read_checkpoint(path)
    assert not target.exists()


def test_a_name_alone_is_refused_and_nothing_is_imported(tmp_path, monkeypatch):
    (tmp_path / "harmful_module.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    for program in (b"charmful_module\nthing\n.", b"\x80\x04\x8c\x0eharmful_module\x8c\x05thing\x93."):
        with pytest.raises(DataError, match=r"harmful_module\.thing"):
            read_pickle(program, "x")
    assert "harmful_module" not in sys.modules


TRICKS = {
    "an instance of the oldest kind": (b"(S'x'\nios\nsystem\n.", r"os\.system"),
    "its other form": (b"(cos\nsystem\nS'x'\no.", r"os\.system"),
    "a class made from an extension": (b"\x80\x02\x82\x01.", "extensions"),
    "attributes on a function": (b"\x80\x02c_codecs\nencode\n}U\x01aK\x01sb.", "attributes on a function"),
    "the array type itself": (b"\x80\x02cnumpy\nndarray\n.", "a class or function alone"),
    "a function itself": (b"\x80\x02c_codecs\nencode\n.", "a class or function alone"),
    "another encoding": (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aU\x03zip\x86R.", r"_codecs\.encode with 'zip'"),
    "an array of strings": (pickle.dumps(np.array(["a"])), r"numpy\.dtype\('U1'\)"),
    "a structured array": (pickle.dumps(np.zeros(1, [("a", "f4")])), r"numpy\.dtype\('V4'\)"),
    "torch's tensors": (pickle.dumps(torch.ones(1)), r"torch\._utils\._rebuild_tensor"),
    "a tuple as a key": (b"\x80\x02})\x85Ns.", "a key that is a tuple"),
    "a tuple in a set": (pickle.dumps({(1,)}), "a key that is a tuple"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_what_a_pickle_can_do_besides_arrays_is_refused(trick):
    program, words = TRICKS[trick]
    with pytest.raises(DataError, match=rf"x: holds .*{words}"):
        read_pickle(program, "x")


def test_nothing_can_be_set_on_what_the_allow_list_has():
    """A state that follows a name would else change the class or function for the rest of the process."""
    for name in _ALLOWED:
        module, _, attribute = name.rpartition(".")
        for state in (b"}U\x01aK\x01s", b"N}U\x01aK\x01s\x86"):  # by __dict__, and by setattr
            with pytest.raises(DataError):
                read_pickle(b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + state + b"b.", "x")
        assert not hasattr(_ALLOWED[name], "a")


def unfolding():
    """Few bytes that unfold to 2 to the 40 lists."""
    x = []
    for _ in range(40):
        x = [x, x]
    return x


def ring():
    x = []
    x.append(x)
    return x


WITHOUT_ARRAY = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R."
DAMAGED = {
    "deep lists": b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".",
    "deep tuples in a key": b"\x80\x02})" + b"\x85" * 300_000 + b"Ns.",
    "deep tuples in a set": b"\x80\x04\x8f()" + b"\x85" * 300_000 + b"\x90.",
    "a high number in the memo": b"\x80\x02Nr" + (2**31 - 1).to_bytes(4, "little") + b".",
    "a class made": b"\x80\x02cnumpy\ndtype\n)\x81.",
    "a persistent id": b"P1\n.",
    "a call of a string": b"\x80\x02U\x01x)R.",
    "a call of the array type": b"\x80\x02cnumpy\nndarray\n)R.",
    "attributes on a list": b"\x80\x02]}b.",
    "items in what has none": b"\x80\x02]K\x01K\x02s.",
    "deep tuples": b"\x80\x02)" + b"\x85" * 300_000 + b".",
    "a ring": pickle.dumps(ring()),
    "a size without content": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"abc.",
    "a long size without content": b"\x80\x04\x8e" + (2**60).to_bytes(8, "little") + b"abc.",
    "an array without content": WITHOUT_ARRAY,
    "text": b"hello world\n",
    "noise": bytes(range(255, 0, -1)),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_bombs_and_files_of_other_kinds_are_data_errors(tmp_path, kind):
    path = tmp_path / "weights.pkl"
    path.write_bytes(DAMAGED[kind])
    with pytest.raises(DataError, match=r"weights\.pkl: cannot be read.*again"):
        read_checkpoint(path)


def test_what_is_shared_is_read_once():
    read = read_pickle(pickle.dumps({"a": unfolding(), "b": [TABLE, TABLE]}), "x")
    assert read["b"][0] is read["b"][1]


@pytest.mark.parametrize(
    "change", [("shape", (2, 4)), ("shape", (-2, -3)), ("shape", [2, 3]), ("raw", b"abc"), ("raw", 5), ("dtype", "f4")]
)
def test_an_array_whose_parts_do_not_agree(change):
    parts = {"version": 1, "shape": (2, 3), "dtype": TABLE.dtype, "fortran": False, "raw": TABLE.tobytes()}
    parts = dict([*parts.items(), change])
    reconstruct, args, _ = TABLE.__reduce__()

    class Forged:
        def __reduce__(self):
            return reconstruct, args, tuple(parts.values())

    with pytest.raises(DataError, match=r"cannot be read|objects"):
        read_pickle(pickle.dumps(Forged(), protocol=2), "x")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("kind", ["pkl", "zip", "old"])
def test_a_truncated_file_of_each_kind_changes_nothing(tmp_path, share, kind):
    path, model, stream = tmp_path / f"weights.{kind}", torch.nn.Linear(20, 20), io.BytesIO()
    state = model.state_dict()
    if kind == "pkl":
        pickle.dump({"model": {k: v.numpy() for k, v in state.items()}}, stream, protocol=2)
    else:
        torch.save({"model": state}, stream, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(stream.getvalue())
    assert load_weights(torch.nn.Linear(20, 20), path, strict=True).complete
    path.write_bytes(stream.getvalue()[: int(len(stream.getvalue()) * share)])
    before = {k: v.clone() for k, v in state.items()}
    with pytest.raises(DataError, match=rf"weights\.{kind}: .*again"):
        load_weights(model, path)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl", "weights"])
def test_the_content_says_what_a_file_is_not_its_name(tmp_path, name):
    path = Path(tmp_path / name)
    for zipped in (True, False):
        torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=zipped)
        assert read_checkpoint(path).model["w"].tolist() == [1, 1]
    path.write_bytes(pickle.dumps({"w": np.ones(2)}))
    assert read_checkpoint(path).model["w"].dtype == torch.float64


def zipped(program: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A file of torch.save whose pickle is ``program``."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/version", "3\n")
    return out.getvalue()


TYPE, TUPLE = b"cnumpy\ndtype\n", pickle.TUPLE1
DOUBLE = pickle.DUP + pickle.TUPLE2
BOMBS = {
    "a type that is a doubling tuple.pkl": b"\x80\x02" + TYPE + b")" + DOUBLE * 40 + TUPLE + b"R.",
    "a doubling tuple as key.pkl": b"\x80\x02})" + DOUBLE * 40 + b"K\x01s.",
    "a doubling tuple as key.pth": zipped(b"\x80\x02})" + DOUBLE * 40 + b"K\x01s."),
    "a deep tuple as key.pth": zipped(b"\x80\x02})" + TUPLE * 500_000 + b"K\x01s."),
    "a deep tuple as key, old form.pth": b"\x80\x02})" + TUPLE * 500_000 + b"K\x01s.",
    "a deep tuple before a sound file.pth": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02})"
    + TUPLE * 500_000 + b"K\x01s." + zipped(b"\x80\x02}."),
    "many instructions.pth": zipped(b"\x80\x02}U\x05model](" + b"N" * 5_000_001 + b"es."),
    "a large pickle, compressed.pth": zipped(b"\x80\x02" + b"N0" * 20_000_000 + b"}.", zipfile.ZIP_DEFLATED),
    "a number for the memo.pth": zipped(b"\x80\x02}r\xff\xff\xff\x7f."),
    "a number of many digits.pth": zipped(b"\x80\x02}U\x05modelI" + b"9" * 300_000 + b"\ns."),
    "a shape of large numbers.pkl": b"\x80\x02cnumpy.core.numeric\n_frombuffer\n(U\x04abcd"
    + TYPE + b"U\x02f4\x85R(" + (b"\x8a\xfe" + b"\xff" * 253 + b"\x7f") * 2000 + b"tU\x01CtR.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_take_neither_the_interpreter_nor_forever(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(BOMBS[name])
    with pytest.raises(DataError, match=r"cannot be read|no type of numbers"):
        read_checkpoint(path)


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("size", [2**33, 2**62, 2**2000])
def test_a_tensor_larger_than_its_file_is_no_weight(tmp_path, size, old):
    torch.save({"weight": torch.ones(4)}, tmp_path / "x.pth", _use_new_zipfile_serialization=not old)
    content, four, large = (tmp_path / "x.pth").read_bytes(), b"K\x04", pickle.dumps(size, 2)[2:-1]
    if old:
        start = content.index(b"storage")  # where it says how many values follow
        content = content[:start] + content[start:].replace(four, large, 1)
    else:
        with zipfile.ZipFile(tmp_path / "x.pth") as file:
            parts = {name: file.read(name) for name in file.namelist()}
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as file:
            for name, part in parts.items():
                file.writestr(name, part.replace(four, large).replace(b"K\x01\x85", b"K\x00\x85"))
        content = out.getvalue()
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(DataError):
        read_checkpoint(tmp_path / "x.pth")


def test_a_shape_of_more_values_than_there_are_is_named(tmp_path):
    torch.save({"weight": torch.ones(1).expand(2**33)}, tmp_path / "x.pth")
    with pytest.raises(DataError, match=r"'weight' is of shape \(8589934592,\)"):
        read_checkpoint(tmp_path / "x.pth")
