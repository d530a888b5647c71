"""Downloads against a server on this machine: by whole address, whole or not there, once for several processes."""

import hashlib
import http.server
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from detkit.utils.download import DownloadError, fetch

CONTENT = bytes(range(256)) * 200


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content`` under every path. Each answer ends after ``cuts.pop(0)`` bytes while there are some."""

    def __init__(self, content=CONTENT, cuts=(), ranges=True, etag='"1"'):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.cuts, self.ranges, self.etag, self.asked = content, list(cuts), ranges, etag, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def address(self, path="/weights.pth"):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, first = self.server, 0
        asked = self.headers.get("Range")
        server.asked.append((self.path, asked))
        version = self.headers.get("If-Range")
        if asked and server.ranges and version in (None, server.etag):
            first = int(asked.removeprefix("bytes=").rstrip("-"))
        if first >= len(server.content):
            self.send_error(416)
            return
        body = server.content[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

    def log_message(self, *_):
        """Silent."""


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
    assert fetch(server.address("/resnet-20240131.pth"), tmp_path).is_file()
    with pytest.raises(DownloadError, match=r"SHA-256 begins with 0123abcd"):
        fetch(server.address("/resnet-0123abcd.pth"), tmp_path)
    assert len(list(tmp_path.rglob("*.pth"))) == 2


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
