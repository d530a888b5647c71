"""Fetching what a file lacks: cut transfers go on, redirects stay safe, and a disk is not filled."""

import base64
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from detkit import __version__
from detkit.utils.progress import watched
from detkit.zoo import shown

_CHUNK, _TIMEOUT, _TRIES, _PAUSE = 1 << 20, 60, 3, 0.5
_BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which the same question may get another one."""


class DownloadError(OSError):
    """A file could not be fetched whole; the message names the address and what to do."""


class MissingError(DownloadError):
    """The server has no such file."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but from https to https alone, and takes a login to no other host.

    ``linked`` is the SHA-256 of the file, where the first host says it, as that of huggingface.co does.
    """

    linked = ""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The next request. Raises DownloadError where it would be less safe than this one."""
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if old.scheme == "https" and new.scheme != "https":
            raise DownloadError(
                f"it is redirected from https to {shown(newurl)}, which anybody on the way could change"
            )
        code = 307 if code == 308 else code  # which Python 3.10 does not know
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        login = req.unredirected_hdrs.get("Authorization")
        if request is not None and login and (old.scheme, old.netloc) == (new.scheme, new.netloc):
            request.add_unredirected_header("Authorization", login)
        self.linked = self.linked or linked_hash(headers)
        return request

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302


def linked_hash(headers: http.client.HTTPMessage) -> str:
    """``sha256:`` and the hash that huggingface.co has in its answer's headers; empty where it has none."""
    digits = re.fullmatch(r'"?([0-9a-f]{64})"?', headers.get("X-Linked-ETag") or "")
    return f"sha256:{digits[1]}" if digits else ""


def complete(address: str, part: Path, token: str = "") -> str:
    """Fetches what ``part`` lacks of the file at an address, and tries again what may go well the next time.

    Where a server says neither version nor time of a file, it is trusted not to change it between these tries.

    Args:
        address: http, https or ftp, with user and password if it needs them.
        part: what has come so far; it is whole when this returns.
        token: is sent to that host, and to no other.

    Returns:
        The hash of the file where the server says it, as ``sha256:...``; else an empty text.

    Raises:
        MissingError: the server has no such file.
        DownloadError, OSError, http.client.HTTPException: it could not be fetched; what has come stays.
    """
    tries = 0
    while True:
        before = size(part)
        try:
            return _transfer(address, part, token)
        except DownloadError:
            raise
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:
                forget(part)  # it is longer than the file is now
                continue
            if error.code in (404, 410):
                raise MissingError(f"the server has no such file ({error.code})") from error
            tries += 1
            if error.code not in _BUSY or tries >= _TRIES:
                raise
        except (OSError, http.client.HTTPException):
            tries = 0 if size(part) > before else tries + 1
            if tries >= _TRIES:
                raise
        time.sleep(_PAUSE * tries)


def _transfer(address: str, part: Path, token: str) -> str:
    """One request, for what ``part`` has not yet. Raises OSError where less has come than the server said."""
    done, note = size(part), read_note(part)
    if done and done == note.get("size"):  # of a process that was killed before it could take it: whole, or outdated
        done -= 1  # which the answer for the last byte says
        os.truncate(part, done)
    headers = {"Range": f"bytes={done}-"} if done else {}
    if done and note.get("version"):
        headers["If-Range"] = note["version"]
    redirects = _Redirects()
    with urllib.request.build_opener(redirects).open(_request(address, headers, token), timeout=_TIMEOUT) as answer:
        if answer.headers.get_content_type() == "text/html":
            fix = "look at the address in a browser"
            if "/blob/" in address:  # the page about a file of a repository
                fix = "the file itself has /resolve/ (on github.com /raw/) where the address has /blob/"
            raise DownloadError(f"a web page came instead of a file; {fix}")
        version = _version(answer.headers)
        total = int(answer.headers.get("Content-Length") or -1)  # -1: the server does not say
        if done and answer.getcode() == 206:
            where = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range") or "")
            same = version == note.get("version", version) and where and note.get("size", -1) in (-1, int(where[2]))
            if where is None or int(where[1]) != done or not same:
                forget(part)  # of a file that has changed on the server
                return _transfer(address, part, token)
            total = int(where[2])
        else:
            done = 0
            _note_of(part).write_text(json.dumps({"version": version, "size": total}))
        _write(answer, part, done, total)
        learnt = redirects.linked or linked_hash(answer.headers)
    if not size(part) or (total >= 0 and size(part) != total):
        raise OSError(f"the transfer ended after {size(part):,} of {max(total, 0):,} bytes")
    return learnt


def _write(answer: BinaryIO, part: Path, done: int, total: int) -> None:
    """Appends the answer's body to ``part``; raises DownloadError before the disk is full."""
    check_space(part, max(total - done, 0))
    steps = None if total < 0 else -(-(total - done) // _CHUNK)
    name = f"fetching {part.name.partition('_')[2].removesuffix('.part')}"
    with open(part, "ab" if done else "wb") as file:
        for chunk in watched(chunks(answer), name, total=steps, unit="MiB"):
            check_space(part, len(chunk))
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _request(address: str, headers: dict[str, str], token: str) -> urllib.request.Request:
    """The request as a browser would write it; user and password of an address go into a header."""
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    if scheme != "ftp":
        login, _, host = host.rpartition("@")
        token = f"Basic {base64.b64encode(urllib.parse.unquote(login).encode()).decode()}" if login else token
    path = urllib.parse.quote(path, safe="%/:=&?~#+!$,;'@()*[]")  # spaces and letters with accents
    request = urllib.request.Request(f"{scheme}://{host}{slash}{path}", headers=headers)
    request.add_header("Accept-Encoding", "identity")
    request.add_header("User-Agent", f"detkit/{__version__}")
    if token:
        request.add_unredirected_header("Authorization", token if " " in token else f"Bearer {token}")
    return request


def _version(headers: Any) -> str:
    """What tells this version of a file from others: a strong ETag, or else the time of its last change."""
    etag = headers.get("ETag") or ""
    return (headers.get("Last-Modified") or "") if not etag or etag.startswith("W/") else etag


def check_space(part: Path, wanted: int) -> None:
    """Raises DownloadError unless ``wanted`` bytes fit on the disk of ``part`` with some to spare."""
    disk = shutil.disk_usage(part.parent)
    if wanted + min(1 << 29, disk.total // 20) > disk.free:
        raise DownloadError(
            f"it has {wanted:,} bytes more and the disk of {part.parent} only {disk.free:,}, some of which must stay"
            " free; free space there, or set FVCORE_CACHE to a folder on another disk"
        )


def without_secrets(error: BaseException) -> str:
    """What an error says, without the queries of addresses, which may be signatures."""
    text = str(getattr(error, "reason", "")) if type(error) is urllib.error.URLError else str(error)
    return re.sub(r"\?[^\s'\"]+", "?...", text or type(error).__name__)


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """The content of a file, a piece at a time."""
    while chunk := file.read(_CHUNK):
        yield chunk


def size(part: Path) -> int:
    """The bytes that have come; 0 where there is no file."""
    return part.stat().st_size if part.is_file() else 0


def read_note(part: Path) -> dict[str, Any]:
    """Which ``version`` ``part`` is of, as the server called it, and the ``size`` of the whole; empty: nobody knows."""
    try:
        return dict(json.loads(_note_of(part).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _note_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def forget(part: Path) -> None:
    """Removes what has come."""
    part.unlink(missing_ok=True)
    _note_of(part).unlink(missing_ok=True)


def digests(path: Path) -> dict[str, str]:
    """The SHA-256 and the MD5 of a file."""
    sums = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with open(path, "rb") as file:
        for chunk in chunks(file):
            for content in sums.values():
                content.update(chunk)
    return {kind: content.hexdigest() for kind, content in sums.items()}


def check_digests(found: dict[str, str], known_hash: str) -> str:
    """What is wrong with a file whose hash is known as ``kind:digits``; empty: nothing."""
    kind, _, digits = known_hash.partition(":")
    if not known_hash or found[kind].startswith(digits):
        return ""
    name = {"sha256": "SHA-256", "md5": "MD5"}[kind]
    return f"its {name} begins with {digits[:12]}, and what came has {found[kind][:12]}"
