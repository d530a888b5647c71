"""A server on this machine whose answers can be cut, moved, refused and changed, for tests of downloads."""

import http.server
import threading

CONTENT = bytes(range(256)) * 200


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content`` under every path, or ``files``: path -> content. ``moved`` is path -> where it redirects to.

    Each answer ends after ``cuts.pop(0)`` bytes, and is ``codes.pop(0)``, while there are some.
    """

    def __init__(
        self, content=CONTENT, cuts=(), ranges=True, etag='"1"', files=None, moved=None, codes=(), headers=None
    ):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.moved, self.codes, self.headers, self.logins = (
            files,
            moved or {},
            list(codes),
            headers or {},
            [],
        )
        self.content, self.cuts, self.ranges, self.etag, self.asked = content, list(cuts), ranges, etag, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def address(self, path="/weights.pth"):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, first = self.server, 0
        asked = self.headers.get("Range")
        server.asked.append((self.path, asked))
        server.logins.append(self.headers.get("Authorization"))
        version = self.headers.get("If-Range")
        content = server.content if server.files is None else server.files.get(self.path)
        if self.path in server.moved:
            self.send_response(302)
            self.send_header("Location", server.moved[self.path])
            for name, value in server.headers.items():
                self.send_header(name, value)
            self.end_headers()
            return
        if server.codes or content is None:
            self.send_error(server.codes.pop(0) if server.codes else 404)
            return
        if asked and server.ranges and version in (None, server.etag):
            first = int(asked.removeprefix("bytes=").rstrip("-"))
        if first >= len(content):
            self.send_error(416)
            return
        body = content[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body)))
        for name, value in server.headers.items():
            self.send_header(name, value)
        if server.etag:
            self.send_header("ETag", server.etag)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

    def log_message(self, *_):
        """Silent."""
