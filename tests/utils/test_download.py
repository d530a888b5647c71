"""Downloads against a server on this machine: by whole address, whole or not there, once for several processes."""

import errno
import hashlib
import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from file_server import CONTENT, Server

from detkit.utils import transfer
from detkit.utils.download import DownloadError, cached, fetch, fetch_named
from detkit.utils.mirror import pack


@pytest.fixture(autouse=True)
def no_pauses_and_no_settings(monkeypatch):
    monkeypatch.setattr(transfer, "_PAUSE", 0)
    for name in ("DETKIT_WEIGHTS_MIRROR", "DETKIT_OFFLINE", "HF_TOKEN", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve():
    servers = []

    def make(*arguments, **options):
        servers.append(Server(*arguments, **options))
        return servers[-1]

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def test_two_addresses_are_two_files(serve, tmp_path):
    one, two = serve(b"one"), serve(b"two")
    assert fetch(one.address(), tmp_path).read_bytes() == b"one"
    assert fetch(two.address(), tmp_path).read_bytes() == b"two"
    paths = {fetch(one.address(path), tmp_path) for path in ("/w.pth?v=1", "/w.pth?v=2", "/a/w.pth", "/w.pth")}
    assert len(paths) == 4


@pytest.mark.parametrize(
    ("path", "asked"),
    [("/a b.pth", "/a%20b.pth"), ("/é/w.pth?v=ü", "/%C3%A9/w.pth?v=%C3%BC"), ("/a%20b.pth?x=1&y=a+b", None)],
)
def test_an_address_is_taken_as_a_browser_takes_it(path, asked, serve, tmp_path):
    server = serve()
    assert fetch(server.address(path), tmp_path).read_bytes() == CONTENT
    assert [name for name, _ in server.asked] == [asked or path]


def test_what_is_there_is_not_fetched_again_and_its_age_is_said(serve, tmp_path, caplog):
    server = serve()
    path = fetch(server.address(), tmp_path)
    server.content = b"new"
    with caplog.at_level(logging.INFO, "detkit"):
        assert fetch(server.address(), tmp_path).read_bytes() == CONTENT
    assert f"is taken from {path}, as it was on" in caplog.text
    assert len(server.asked) == 1
    assert fetch(server.address(), tmp_path, force=True).read_bytes() == b"new"


@pytest.mark.parametrize("etag", ['"1"', None])
def test_a_cut_transfer_goes_on_where_it_ended(serve, tmp_path, etag):
    server = serve(cuts=[1000, 20_000], etag=etag)
    assert fetch(server.address(), tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=1000-", "bytes=21000-"]


def test_a_transfer_that_fails_is_no_file_and_goes_on_in_the_next_call(serve, tmp_path):
    server = serve(cuts=[1000, 0, 0, 0])
    with pytest.raises(DownloadError, match=r"1,000 bytes are kept"):
        fetch(server.address(), tmp_path)
    server.cuts = []
    assert not list(tmp_path.rglob("*.pth"))
    asked = len(server.asked)
    assert fetch(server.address(), tmp_path).read_bytes() == CONTENT
    assert server.asked[asked:] == [("/weights.pth", "bytes=1000-")]
    assert not list(tmp_path.rglob("*.part*"))


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize(("etag", "length"), [('"2"', len(CONTENT)), ('"2"', 500), (None, 60_000), (None, 500)])
def test_two_versions_of_a_file_are_never_mixed(serve, tmp_path, ranges, etag, length):
    server = serve(cuts=[1000, 0, 0, 0], ranges=ranges, etag=etag and '"1"')
    with pytest.raises(DownloadError):
        fetch(server.address(), tmp_path)
    server.cuts, server.etag, server.content = [], etag, b"\7" * length
    assert fetch(server.address(), tmp_path).read_bytes() == b"\7" * length


def test_the_hash_in_a_name_is_compared(serve, tmp_path):
    server = serve()
    right = hashlib.sha256(CONTENT).hexdigest()[:8]
    assert fetch(server.address(f"/resnet-{right}.pth"), tmp_path).read_bytes() == CONTENT
    for number in ("20240131", "00012000"):
        assert fetch(server.address(f"/resnet-{number}.pth"), tmp_path).is_file()
    with pytest.raises(DownloadError, match=r"SHA-256 begins with 0123abcd"):
        fetch(server.address("/resnet-0123abcd.pth"), tmp_path)
    assert len(list(tmp_path.rglob("*.pth"))) == 3


def test_several_that_want_the_same_file_fetch_it_once(serve, tmp_path):
    server = serve(cuts=[5000])
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(server.address(), tmp_path), range(4)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert [asked for _, asked in server.asked] == [None, "bytes=5000-"]


@pytest.mark.parametrize("content", [b""])
def test_nothing_is_no_file(serve, tmp_path, content):
    with pytest.raises(DownloadError):
        fetch(serve(content).address(), tmp_path)


def test_a_server_that_is_not_there_is_named(serve, tmp_path):
    server = serve()
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match=rf"127\.0\.0\.1:{server.server_port}"):
        fetch(server.address(), tmp_path)


def test_what_no_longer_is_what_was_fetched_is_fetched_again(serve, tmp_path, caplog):
    server = serve()
    path = fetch(server.address(), tmp_path)
    os.utime(path)  # touched, but the same
    assert fetch(server.address(), tmp_path) == path
    assert len(server.asked) == 1
    path.write_bytes(CONTENT[::-1])
    assert fetch(server.address(), tmp_path).read_bytes() == CONTENT
    assert "is no longer what was fetched" in caplog.text


@pytest.mark.parametrize("status", [503, 429])
def test_a_busy_server_is_asked_again(serve, tmp_path, status):
    assert fetch(serve(codes=[status, status]).address(), tmp_path).read_bytes() == CONTENT
    with pytest.raises(DownloadError, match=str(status)):
        fetch(serve(codes=[status] * 3).address(), tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"codes": [404]}, r"no such file \(404\)\. Look whether"),
        ({"codes": [403]}, "wants a login"),
        ({"headers": {"Content-Type": "text/html; charset=utf-8"}}, "a web page came instead of a file"),
    ],
)
def test_what_is_no_file_is_refused_with_what_to_do(serve, tmp_path, options, words):
    with pytest.raises(DownloadError, match=words):
        fetch(serve(**options).address(), tmp_path)
    assert not list(tmp_path.rglob("*.pth"))


def test_the_page_of_a_file_on_a_hub_says_what_the_files_address_is(serve, tmp_path):
    server = serve(headers={"Content-Type": "text/html"})
    with pytest.raises(DownloadError, match=r"a web page came .*/resolve/ \(on github\.com /raw/\) where"):
        fetch(server.address("/org/repo/blob/main/w.pth"), tmp_path)


def test_a_file_that_does_not_fit_on_the_disk_is_not_begun(serve, tmp_path, monkeypatch):
    server = serve()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 90_000, 90_000))
    with pytest.raises(DownloadError, match=r"51,200 bytes more .* only 90,000.*FVCORE_CACHE"):
        fetch(server.address(), tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(transfer, "_CHUNK", 1000)
    left = iter([10**9] * 10 + [0] * 99)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, next(left)))
    with pytest.raises(DownloadError, match="some of which must stay free"):  # the server may say nothing, or lie
        fetch(server.address("/b.pth"), tmp_path)


def test_a_redirect_is_followed_and_takes_no_login_to_another_host(serve, tmp_path):
    last = serve()
    first = serve(moved={"/a.pth": "/b.pth", "/b.pth": last.address("/c.pth?signature=1")})
    address = first.address("/a.pth").replace("://", "://me:se%2Fcret@")
    assert fetch(address, tmp_path).read_bytes() == CONTENT
    assert first.logins == ["Basic bWU6c2UvY3JldA=="] * 2
    assert last.logins == [None]


def test_the_environments_proxy_is_asked(serve, tmp_path, monkeypatch):
    proxy = serve()
    monkeypatch.setenv("http_proxy", proxy.address(""))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert fetch("http://elsewhere.invalid/w.pth", tmp_path).read_bytes() == CONTENT
    assert fetch(serve().address(), tmp_path).read_bytes() == CONTENT
    assert proxy.asked == [("http://elsewhere.invalid/w.pth", None)]


def test_a_redirect_in_a_circle_ends(serve, tmp_path):
    server = serve(moved={"/weights.pth": "/weights.pth?key=hidden", "/weights.pth?key=hidden": "/weights.pth"})
    with pytest.raises(DownloadError, match="infinite loop") as error:
        fetch(server.address(), tmp_path)
    assert "hidden" not in str(error.value)


def test_a_redirect_from_https_to_http_is_refused():
    request = transfer._request("https://host/a.pth", {}, "")
    with pytest.raises(DownloadError, match="redirected from https to http://host/b"):
        transfer._Redirects().redirect_request(request, None, 302, "", {}, "http://host/b?key=1")
    redirects = transfer._Redirects()
    assert redirects.redirect_request(request, None, 308, "", {}, "https://host/b").full_url == "https://host/b"


@pytest.mark.parametrize("ending", ["", "#weights"])
def test_messages_and_the_log_have_no_secrets(serve, tmp_path, caplog, ending):
    server = serve(codes=[403])
    address = server.address("/w.pth?X-Signature=hidden").replace("://", "://user:hidden@") + ending
    with caplog.at_level(logging.DEBUG), pytest.raises(DownloadError) as error:
        fetch(address, tmp_path)
    fetch(address, tmp_path)
    fetch(address, tmp_path)
    said = f"{error.value}{caplog.text}{[p.read_text() for p in tmp_path.rglob('*.json')]}"
    assert f"127.0.0.1:{server.server_port}/w.pth" in said
    assert "hidden" not in said
    for wrong in ("http://user:hid/den@host/w.pth", "http://user:hidden#@host/w.pth"):
        with pytest.raises(DownloadError, match="In a password / is written %2F") as error:
            fetch_named(wrong, tmp_path)
        assert "hid" not in str(error.value)


def hub(serve, monkeypatch, **options):
    server = serve(**options)
    monkeypatch.setenv("HF_ENDPOINT", server.address(""))
    return server


def test_a_repository_of_the_hub_gives_safetensors_first(serve, tmp_path, monkeypatch):
    root = "/org/repo/resolve/main/"
    server = hub(serve, monkeypatch, files={f"{root}model.safetensors": b"safe", f"{root}pytorch_model.bin": b"torch"})
    assert fetch_named("hf://org/repo", tmp_path).read_bytes() == b"safe"
    del server.files[f"{root}model.safetensors"]
    assert fetch_named("hf://org/repo", tmp_path).read_bytes() == b"safe"
    assert fetch_named("hf://org/repo", tmp_path, force=True).read_bytes() == b"torch"
    server.files["/org/repo/resolve/refs%2Fpr%2F1/a/b%20c.pth"] = b"other"
    assert fetch_named("HF://org/repo@refs%2Fpr%2F1/a/b c.pth#ema", tmp_path).read_bytes() == b"other"
    with pytest.raises(DownloadError, match=r"no such file.*Nor is there pytorch_model\.bin"):
        fetch_named("timm://resnet50.a1_in1k", tmp_path)


def test_the_hub_gets_its_token_and_its_hash_is_compared(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    store = serve()
    digest = hashlib.sha256(CONTENT).hexdigest()
    moved = {"/org/repo/resolve/main/w.pth": store.address("/signed?x=1")}
    server = hub(serve, monkeypatch, moved=moved, headers={"X-Linked-ETag": f'"{digest}"'})
    assert fetch_named("hf://org/repo/w.pth", tmp_path).read_bytes() == CONTENT
    assert (server.logins, store.logins) == (["Bearer hf_secret"], [None])
    store.content = CONTENT[::-1]
    with pytest.raises(DownloadError, match=f"SHA-256 begins with {digest[:12]}"):
        fetch_named("hf://org/repo/w.pth", tmp_path, force=True)
    server.codes, server.moved = [401], {}
    with pytest.raises(DownloadError, match="accept its terms on its page and set HF_TOKEN"):
        fetch_named("hf://org/repo/other.pth", tmp_path)
    assert fetch(serve().address(), tmp_path)
    assert "Bearer" not in str(store.logins)


@pytest.fixture
def mirror(serve, tmp_path):
    """A mirror of one file, and the address of that file, whose server is gone."""
    server = serve(etag=None)
    fetch(server.address(), tmp_path / "first")
    list(pack(cached(tmp_path / "first"), tmp_path / "mirror"))
    server.content = b"origin"
    return server, tmp_path / "mirror"


@pytest.mark.parametrize("kind", ["folder", "address", "file address"])
def test_the_mirror_is_asked_first(kind, mirror, serve, tmp_path, monkeypatch):
    origin, folder = mirror
    files = {f"/w/{p.relative_to(folder)}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    there = {"folder": str(folder), "address": serve(files=files).address("/w/"), "file address": folder.as_uri()}
    monkeypatch.setenv("DETKIT_WEIGHTS_MIRROR", there[kind])
    assert fetch(origin.address(), tmp_path / "cache").read_bytes() == CONTENT
    assert len(origin.asked) == 1  # for the mirror
    assert fetch(origin.address("/other.pth"), tmp_path / "cache").read_bytes() == b"origin"  # which the mirror lacks


def test_a_wrong_file_of_a_mirror_is_not_taken(mirror, tmp_path, monkeypatch, caplog):
    origin, folder = mirror
    monkeypatch.setenv("DETKIT_WEIGHTS_MIRROR", str(folder))
    next(folder.rglob("*.pth")).write_bytes(CONTENT[::-1])
    assert fetch(origin.address(), tmp_path / "cache").read_bytes() == b"origin"
    assert "SHA-256 begins with" in caplog.text
    monkeypatch.setenv("DETKIT_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"the mirror .* gives none .*SHA-256"):
        fetch(origin.address(), tmp_path / "cache", force=True)
    (folder / "manifest.json").unlink()  # made by hand
    digits = hashlib.sha256(CONTENT).hexdigest()[:8]
    there = folder / f"127.0.0.1_{origin.server_port}" / f"a-{digits}.pth"
    there.write_bytes(b"wrong")
    with pytest.raises(DownloadError, match=f"SHA-256 begins with {digits}"):
        fetch(origin.address(f"/{there.name}"), tmp_path / "cache")
    there.write_bytes(CONTENT)
    assert fetch(origin.address(f"/{there.name}"), tmp_path / "cache").read_bytes() == CONTENT


def test_a_mirror_says_what_its_files_are_of(mirror, tmp_path, monkeypatch, caplog):
    origin, folder = mirror
    manifest = (folder / "manifest.json").read_text().replace('"http://', '"https://')
    (folder / "manifest.json").write_text(manifest)
    monkeypatch.setenv("DETKIT_WEIGHTS_MIRROR", str(folder))
    assert fetch(origin.address(), tmp_path / "cache").read_bytes() == b"origin"
    assert f"it is of https://127.0.0.1:{origin.server_port}/weights.pth there" in caplog.text


def test_what_a_killed_process_left_of_a_mirrors_file_is_not_taken(serve, tmp_path, monkeypatch):
    server = serve()
    path = fetch(server.address(), tmp_path)
    path.with_name(f"{path.name}.mirror.part").write_bytes(b"half")
    path.unlink()
    assert fetch(server.address(), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("place", ["missing", "http://127.0.0.1:1/mirror"])
def test_a_mirror_that_is_not_there_is_no_obstacle(place, serve, tmp_path, monkeypatch):
    monkeypatch.setenv("DETKIT_WEIGHTS_MIRROR", place)
    assert fetch(serve().address(), tmp_path).read_bytes() == CONTENT


def test_offline_nothing_is_asked_and_the_message_says_how_to_go_on(mirror, serve, tmp_path, monkeypatch):
    origin, folder = mirror
    asked = len(origin.asked)
    monkeypatch.setenv("DETKIT_OFFLINE", "1")
    monkeypatch.setenv("DETKIT_WEIGHTS_MIRROR", serve().address())
    with pytest.raises(DownloadError) as error:
        fetch(origin.address(), tmp_path / "cache")
    words = f"detkit weights pack FOLDER '{origin.address()}'; copy FOLDER to here and set DETKIT_WEIGHTS_MIRROR=FOLDER"
    assert words in str(error.value)
    with pytest.raises(DownloadError, match=r"by hand and give the file"):
        fetch_named("timm://resnet18.a1_in1k", tmp_path / "cache")
    monkeypatch.setenv("DETKIT_WEIGHTS_MIRROR", str(folder))
    assert fetch(origin.address(), tmp_path / "cache").read_bytes() == CONTENT
    monkeypatch.delenv("DETKIT_WEIGHTS_MIRROR")
    assert fetch(origin.address(), tmp_path / "cache").read_bytes() == CONTENT
    assert len(origin.asked) == asked


@pytest.mark.parametrize("changed", [False, True])
def test_a_file_that_came_whole_to_a_killed_process_is_not_fetched_again(changed, serve, tmp_path, monkeypatch):
    server = serve()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(server.address(), tmp_path)
    if changed:
        server.content, server.etag = CONTENT[::-1], '"2"'
    assert fetch(server.address(), tmp_path).read_bytes() == server.content
    assert [asked for _, asked in server.asked] == [None, f"bytes={len(CONTENT) - 1}-"]


def test_what_a_killed_process_left_half_written_is_no_obstacle(serve, tmp_path):
    server = serve(cuts=[1000, 0, 0, 0])
    with pytest.raises(DownloadError):
        fetch(server.address(), tmp_path)
    next(tmp_path.rglob("*.part.json")).write_text("{")
    path = fetch(server.address(), tmp_path)
    path.with_name(f"{path.name}.json").write_text("{")
    assert fetch(server.address(), tmp_path).read_bytes() == CONTENT
    assert server.asked[-1][1] is None  # begun again, and not fetched twice


def test_a_cache_that_cannot_be_written_is_said(serve, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=r"the cache cannot be written .*FVCORE_CACHE"):
        fetch(serve().address(), tmp_path / "file" / "cache")


def test_a_full_disk_is_said(serve, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer, "_write", full)
    with pytest.raises(DownloadError, match=r"No space left on device\)\. Free space"):
        fetch(serve().address(), tmp_path)


def test_two_processes_share_what_one_of_them_fetches(serve, tmp_path):
    server = serve(cuts=[5000])
    code = "import sys; from pathlib import Path; from detkit.utils.download import fetch;"
    code += "print(fetch(sys.argv[1], Path(sys.argv[2])).stat().st_size)"
    command = [sys.executable, "-c", code, server.address(), str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [int(process.communicate()[0]) for process in processes] == [len(CONTENT)] * 2
    assert [asked for _, asked in server.asked] == [None, "bytes=5000-"]


def test_what_was_cut_is_begun_again_where_nothing_tells_two_versions_apart(serve, tmp_path):
    server = serve(cuts=[1000, 0, 0, 0], etag=None)
    with pytest.raises(DownloadError):
        fetch(server.address(), tmp_path)
    server.cuts, server.content = [], CONTENT[::-1]
    assert fetch(server.address(), tmp_path).read_bytes() == CONTENT[::-1]
