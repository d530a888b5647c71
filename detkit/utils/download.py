"""Downloads that are kept: by their whole address, complete or not there."""

import hashlib
import http.client
import json
import logging
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from iopath.common.file_io import HTTPURLHandler, file_lock, get_cache_dir

from detkit.utils.progress import watched

logger = logging.getLogger(__name__)

_CHUNK, _TIMEOUT, _TRIES = 1 << 20, 60, 3
_ZOOS = {"detectron2://": "https://dl.fbaipublicfiles.com/detectron2/"}
"""Short forms of addresses that other programs' configs have."""


class DownloadError(OSError):
    """A file could not be fetched whole; the message names the address and what to do."""


class HTTPHandler(HTTPURLHandler):
    """iopath's handler of http(s) and ftp addresses, with a cache of its own below iopath's folder ($FVCORE_CACHE).

    iopath's has a file's path as its key, without the server, takes what has come when a transfer is cut, and begins
    each from its start.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [*super()._get_supported_prefixes(), *_ZOOS]

    def _get_local_path(self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any) -> str:
        """The local file; raises DownloadError."""
        self._check_kwargs(kwargs)
        if force or not os.path.isfile(self.cache_map.get(path, "")):
            address = path
            for short, full in _ZOOS.items():
                address = full + path.removeprefix(short) if path.startswith(short) else address
            self.cache_map[path] = str(fetch(address, Path(get_cache_dir(cache_dir)), force=force))
        return self.cache_map[path]


def fetch(address: str, cache: Path, *, force: bool = False) -> Path:
    """The file at ``address``: the one in ``cache`` if it was fetched before, whose age is logged.

    A cut transfer goes on where it ended, now or in a later call. A file is there when it has the size that the server
    says and the hash that its name says, as torch's hub has it (``resnet50-0676ba61.pth``). Processes that want the
    same file wait for the one that fetches it.

    Args:
        address: http, https or ftp.
        cache: the folder of downloads.
        force: fetch it again.

    Raises:
        DownloadError: it could not be fetched whole.
    """
    address = urllib.parse.urldefrag(address).url
    parts = urllib.parse.urlsplit(address)
    name = re.sub(r"[^\w.-]", "_", parts.path.rpartition("/")[2])[-100:] or "download"
    folder = re.sub(r"[^\w.-]", "_", parts.netloc.rpartition("@")[2])[:100]
    path = cache / folder / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}_{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # not what may be secret
    with file_lock(str(path)):
        if path.is_file() and not force:
            day = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
            logger.info("%s is taken from %s, as it was on %s; remove that file to fetch it again", shown, path, day)
            return path
        part = path.with_name(f"{path.name}.part")
        try:
            _complete(address, part)
        except (OSError, http.client.HTTPException, ValueError) as error:
            kept = f"; {_size(part):,} bytes are kept, and the same command goes on there" if _size(part) else ""
            raise DownloadError(f"{shown} could not be fetched ({error}){kept}") from error
        _compare_hash(shown, name, part)
        os.replace(part, path)
        _note(part).unlink(missing_ok=True)
    logger.info("fetched %s to %s (%s bytes)", shown, path, f"{path.stat().st_size:,}")
    return path


def _complete(address: str, part: Path) -> None:
    """Fetches what ``part`` lacks; tries again while some more has come."""
    tries, size = 0, -1
    while True:
        try:
            return _transfer(address, part)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not part.is_file():
                raise
            part.unlink()  # it is longer than the file is now
        except (OSError, http.client.HTTPException):
            now = _size(part)
            tries = 0 if now > size >= 0 else tries + 1
            size = max(size, now)
            if tries >= _TRIES or not now:
                raise


def _transfer(address: str, part: Path) -> None:
    """One request, for what ``part`` has not yet. Raises OSError where less has come than the server said."""
    done, note = _size(part), {}
    if done and _note(part).is_file():
        note = json.loads(_note(part).read_text())
    headers = {"Range": f"bytes={done}-", **({"If-Range": note["version"]} if note.get("version") else {})}
    host, slash, path = address.partition("://")[2].partition("/")
    path = urllib.parse.quote(path, safe="%/:=&?~#+!$,;'@()*[]")  # spaces and letters with accents
    written = f"{address.partition('://')[0]}://{host}{slash}{path}"
    request = urllib.request.Request(written, headers=headers if done else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        total = int(answer.headers.get("Content-Length") or -1)  # -1: the server does not say
        if done and answer.getcode() == 206:
            where = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range") or "")
            if where is None or int(where[1]) != done or note.get("size", -1) not in (-1, int(where[2])):
                part.unlink()  # of a file that has changed on the server
                return _transfer(address, part)
            total = int(where[2])
        else:
            done, version = 0, answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            _note(part).write_text(json.dumps({"version": "" if version.startswith("W/") else version, "size": total}))
        with open(part, "ab" if done else "wb") as file:
            steps = None if total < 0 else -(-(total - done) // _CHUNK)
            for chunk in watched(
                _chunks(answer), f"fetching {part.name.removesuffix('.part')}", total=steps, unit="MiB"
            ):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    size = part.stat().st_size
    if not size or (total >= 0 and size != total):
        raise OSError(f"the transfer ended after {size:,} of {max(total, 0):,} bytes")


def _chunks(answer: BinaryIO) -> Iterator[bytes]:
    while chunk := answer.read(_CHUNK):
        yield chunk


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _note(part: Path) -> Path:
    """Which version of the file ``part`` is of, as the server called it, and its size."""
    return part.with_name(f"{part.name}.json")


def _compare_hash(shown: str, name: str, part: Path) -> None:
    """Raises DownloadError where the name ends in the first digits of another SHA-256, and removes the file."""
    known = re.search(r"-([0-9a-f]{8,64})\.[\w.]+$", name)
    if known is None or re.fullmatch(r"(19|20)\d{6}", known[1]):  # a date
        return
    content = hashlib.sha256()
    with open(part, "rb") as file:
        for chunk in _chunks(file):
            content.update(chunk)
    digest = content.hexdigest()
    if not digest.startswith(known[1]):
        part.unlink()
        _note(part).unlink(missing_ok=True)
        raise DownloadError(
            f"{shown}: its name says that its SHA-256 begins with {known[1]}, and what came has {digest[:8]}; it was"
            " damaged on the way, or is another file. Try again, or download it by hand"
        )
