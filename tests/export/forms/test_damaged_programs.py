"""Programs that are damaged, or none of detkit's: refused with a message, in every form."""

import re
import shutil
from pathlib import Path

import msgspec
import pytest
from processes import run_file

from detkit.export import Program, form_of
from detkit.export.description import FORMAT
from detkit.registry import DataError


def copied(program: Path, folder: Path) -> Path:
    for one in program.parent.glob(f"{program.stem}.*"):
        shutil.copy(one, folder)
    return folder / program.name


@pytest.mark.parametrize(
    ("name", "suffix"), [("model.pt2", ".pt2"), ("model.onnx", ".onnx"), ("model.xml", ".xml"), ("model.xml", ".bin")]
)
def test_damage_is_refused_or_does_not_matter(programs, name, suffix, tmp_path):
    if not (programs / name).is_file():
        pytest.skip(f"no {name}: pip install 'detkit[openvino]'")
    code, said = run_file(Path(__file__).with_name("damaged.py"), str(programs / name), suffix, "60", folder=tmp_path)
    assert code == 0, said
    counts = re.search(r"60 copies, (\d+) refused", said)
    assert counts, said
    assert int(counts[1]) >= 50


def test_another_version_is_refused(program, tmp_path, monkeypatch):
    monkeypatch.setattr("detkit.export.description.FORMAT", FORMAT + 1)
    with pytest.raises(DataError, match=rf"is of version {FORMAT}, and this detkit .* reads {FORMAT + 1}; export"):
        Program(program)


def test_weights_that_are_missing_or_of_another_program_are_refused(programs, tmp_path):
    pytest.importorskip("openvino")
    path = copied(programs / "model.xml", tmp_path)
    path.with_suffix(".bin").write_bytes(path.with_suffix(".bin").read_bytes()[::-1])
    with pytest.raises(DataError, match=r"model\.bin: is damaged, or of another program than model\.xml; copy both"):
        Program(path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(DataError, match=r"model\.bin, which has its weights, is not beside it; copy both files"):
        Program(path)


def test_files_of_others_are_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    info = onnx.helper.make_tensor_value_info("x", 1, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [info], [info])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "a.onnx")
    (tmp_path / "b.onnx").write_text("no program")
    (tmp_path / "a.xml").write_text("<net name='a'/>")
    (tmp_path / "b.xml").write_text("")
    (tmp_path / "a.pt2").write_bytes(b"PK")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(DataError, match=f"{path.name}: .*export (the model|it) again"):
            Program(path)


def test_entities_do_not_grow(tmp_path):
    names = "abcdefghij"
    lines = ['<!ENTITY a "aaaaaaaaaa">']
    lines += [f'<!ENTITY {name} "{before * 10}">' for before, name in zip((f"&{name};" for name in names), names[1:])]
    path = tmp_path / "a.xml"
    path.write_text(f"<!DOCTYPE net [{''.join(lines)}]><net>&j;</net>")
    with pytest.raises(DataError, match="export it again"):
        form_of(path).describe(path)


def test_the_order_of_reading_is_description_first(program, tmp_path, monkeypatch):
    """What a file says of itself needs no engine."""
    form = form_of(program)
    monkeypatch.setattr(form, "load", lambda *_: pytest.fail("an engine was asked"))
    assert form.describe(program).format == FORMAT
    assert msgspec.json.decode(form.describe(program).json())["format"] == FORMAT
