"""``detkit weights list | fetch | verify | pack``: from an address to a machine without a network."""

import os

import pytest
from file_server import CONTENT, Server

from detkit.commands import weights_fetch, weights_list, weights_pack, weights_verify
from detkit.registry import DataError
from detkit.utils.download import fetch_named
from detkit.utils.transfer import DownloadError


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    for name in ("DETKIT_WEIGHTS_MIRROR", "DETKIT_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def test_what_is_listed_names_the_config(capsys):
    assert weights_list.main(["coco/mask_rcnn_R_50_fpn_3x"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "InstanceSegmentation" in line)
    assert line.split()[:2] == [
        "detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x",
        "coco/mask_rcnn_R_50_FPN_3x",
    ]
    with pytest.raises(DataError, match="no listed weights have 'yolo'"):
        weights_list.main(["yolo"])


def test_packed_weights_are_there_without_a_network(server, cache, tmp_path, monkeypatch, capsys):
    one, two = server.address("/one.pth"), server.address("/two.pth?key=hidden")
    assert weights_fetch.main([one, two]) == 0
    assert weights_pack.main([str(tmp_path / "mirror"), two]) == 0
    assert weights_pack.main([str(tmp_path / "mirror")]) == 0  # the other one too
    assert weights_verify.main(["--mirror", str(tmp_path / "mirror")]) == 0
    assert "hidden" not in capsys.readouterr().out + (tmp_path / "mirror/manifest.json").read_text()
    asked = len(server.asked)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("DETKIT_WEIGHTS_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("DETKIT_OFFLINE", "1")
    assert fetch_named(one).read_bytes() == fetch_named(two).read_bytes() == CONTENT
    assert len(server.asked) == asked


def test_what_could_not_be_fetched_is_said_and_the_rest_is_there(server, capsys):
    assert weights_fetch.main(["http://127.0.0.1:1/w.pth", server.address()]) == 1
    said = capsys.readouterr()
    assert "error: http://127.0.0.1:1/w.pth could not be fetched" in said.err
    assert str(fetch_named(server.address())) in said.out


def test_a_damaged_file_is_found_and_not_packed(server, cache, tmp_path, capsys):
    weights_fetch.main([server.address()])
    assert weights_verify.main([server.address()]) == 0
    path = fetch_named(server.address())
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=times)  # as if the disk had done it
    assert weights_verify.main([]) == 1
    again = f"detkit weights fetch --force '{server.address()}'"
    assert again in capsys.readouterr().out
    with pytest.raises(DownloadError, match="is no longer what was fetched"):
        weights_pack.main([str(tmp_path / "mirror")])
    weights_fetch.main(again.replace("'", "").split()[3:])
    assert weights_verify.main([]) == 0


def test_weights_without_a_hash_are_not_packed(server, cache, tmp_path, monkeypatch):
    monkeypatch.setattr("detkit.utils.download._write_record", lambda *_: None)  # as in a cache that is only to be read
    with pytest.raises(DataError, match="its hash could not be noted beside it"):
        weights_pack.main([str(tmp_path / "mirror"), server.address()])


def test_a_key_is_not_in_the_advice(server, capsys):
    address = server.address("/w.pth?key=hidden")
    weights_fetch.main([address])
    path = fetch_named(address)
    path.write_bytes(b"")
    capsys.readouterr()
    assert weights_verify.main([]) == 1
    said = capsys.readouterr().out
    assert "remove it, and it is fetched when it is asked for" in said
    assert "hidden" not in said


def test_where_nothing_is_the_message_says_so(server, cache, tmp_path):
    with pytest.raises(DataError, match="nothing was fetched"):
        weights_verify.main([])
    with pytest.raises(DataError, match="nothing was fetched"):
        weights_pack.main([str(tmp_path / "mirror")])
    weights_fetch.main([server.address()])
    with pytest.raises(DataError, match=r"is not in .*; detkit weights fetch"):
        weights_verify.main([server.address("/other.pth")])
    with pytest.raises(DataError, match="has no manifest"):
        weights_verify.main(["--mirror", str(tmp_path)])


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"a": 1}', '{"short_name": "of a web page"}', '{"a/b": {"name": "b"}}']
)
def test_a_manifest_that_is_none_is_said_and_not_written_over(server, tmp_path, content):
    weights_fetch.main([server.address()])
    (tmp_path / "manifest.json").write_text(content)
    for run in (weights_pack.main, lambda given: weights_verify.main(["--mirror", *given])):
        with pytest.raises(DownloadError, match="is none that detkit weights pack writes"):
            run([str(tmp_path)])
    assert (tmp_path / "manifest.json").read_text() == content
