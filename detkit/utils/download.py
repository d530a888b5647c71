"""Downloads that are kept: by their whole address, complete or not there, from a mirror first."""

import contextlib
import errno
import hashlib
import http.client
import json
import logging
import os
import re
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import portalocker
from iopath.common.file_io import HTTPURLHandler, get_cache_dir

from detkit.utils.mirror import MIRROR, OFFLINE, from_mirror, offline
from detkit.utils.transfer import (
    DownloadError,
    MissingError,
    check_digests,
    complete,
    digests,
    forget,
    read_note,
    size,
    without_secrets,
)
from detkit.zoo import ADDRESSES, NAMES, Weights, find, hash_in_name, known, mirror_path, shown

logger = logging.getLogger(__name__)


class WeightsHandler(HTTPURLHandler):
    """iopath's handler of addresses, also of names of weights, with a cache of its own below iopath's folder.

    iopath's has a file's path as its key, without the server, takes what has come when a transfer is cut, and begins
    each from its start.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [f"{scheme}://" for scheme in (*ADDRESSES, *NAMES)]

    def _get_local_path(self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any) -> str:
        """The local file; raises DownloadError."""
        self._check_kwargs(kwargs)
        if force or not os.path.isfile(self.cache_map.get(path, "")):
            self.cache_map[path] = str(fetch_named(path, Path(get_cache_dir(cache_dir)), force=force))
        return self.cache_map[path]


def fetch_named(name: str, cache: Path | None = None, *, force: bool = False) -> Path:
    """The file of weights with a name, or at an address; see ``detkit.zoo.find`` and ``fetch``.

    Raises:
        DownloadError: there are none of that name, or they could not be fetched; the message says what to do.
    """
    cache = cache or cache_folder()
    try:
        weights = find(name)
    except ValueError as error:
        raise DownloadError(str(error)) from error
    if weights is None:
        raise DownloadError(f"'{shown(name)}' is neither a name of weights nor an address that is read")
    kept = [address for address in weights.addresses if cache_path(address, cache).is_file()]
    missing = []
    for address in (*kept, *weights.addresses):
        try:
            return fetch(address, cache, force=force, weights=weights)
        except MissingError as error:
            missing.append(error)
    others = ", ".join(address.rpartition("/")[2] for address in weights.addresses[1:])
    raise MissingError(f"{missing[0]}. Nor is there {others}") if others and not offline() else missing[0]


def fetch(address: str, cache: Path, *, force: bool = False, weights: Weights | None = None) -> Path:
    """The file at ``address``: the one in ``cache`` if it was fetched before, whose age is logged.

    ``DETKIT_WEIGHTS_MIRROR`` (a folder as ``detkit weights pack`` writes it, or an address of one) is asked first.
    ``DETKIT_OFFLINE=1`` leaves the network alone. A cut transfer goes on where it ended, now or in a later call. A file
    is there when it has the size that the server says and the hash that is known of it. Processes that want the same
    file wait for the one that fetches it.

    Args:
        address: http, https or ftp.
        cache: the folder of downloads.
        force: fetch it again.
        weights: what is known of it, without a name where it is something else; None: what its name says.

    Raises:
        MissingError: there is no such file.
        DownloadError: it could not be fetched whole.
    """
    address = urllib.parse.urldefrag(address).url
    weights = weights or Weights(shown(address), (address,), hash=hash_in_name(address))
    path = cache_path(address, cache)
    if not force and _intact(path, address, weights):
        return path
    with _only_one(path, shown(address)):
        if not force and _intact(path, address, weights):  # by the process that was waited for
            return path
        part, mirrored = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.mirror.part")
        found, said = from_mirror(address, mirrored, weights)
        there = mirrored if found else part
        found = found or _from_origin(address, part, weights, said)
        os.replace(there, path)
        forget(mirrored)
        forget(part)
        _write_record(path, address, weights, found)
    logger.info("fetched %s to %s (%s bytes)", shown(address), path, f"{path.stat().st_size:,}")
    return path


def cache_folder() -> Path:
    """Where downloads are kept: iopath's folder, ``$FVCORE_CACHE`` or ``~/.torch/iopath_cache``."""
    return Path(get_cache_dir())


def cached(cache: Path) -> dict[Path, dict[str, Any]]:
    """The files in the cache, each with what is known of it; see ``record_of``."""
    files = {path.with_suffix(""): record_of(path.with_suffix("")) for path in sorted(cache.glob("*/*.json"))}
    return {path: record for path, record in files.items() if "sha256" in record}


def cache_path(address: str, cache: Path) -> Path:
    """Where the file of an address is kept; two addresses never share a file."""
    parts = urllib.parse.urlsplit(address)
    name = re.sub(r"[^\w.-]", "_", parts.path.rpartition("/")[2])[-100:] or "download"
    folder = re.sub(r"[^\w.-]", "_", parts.netloc.rpartition("@")[2])[:100]
    return cache / folder / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}_{name}"


def record_of(path: Path) -> dict[str, Any]:
    """What is known of a file in the cache: ``name, address, mirror_path, size, sha256, mtime``; empty: nothing."""
    try:
        return dict(json.loads(path.with_name(f"{path.name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _write_record(path: Path, address: str, weights: Weights, found: dict[str, str]) -> None:
    state = path.stat()
    known_of = {"name": weights.name, "address": shown(address), "mirror_path": mirror_path(address)}
    record = {**known_of, "size": state.st_size, "sha256": found["sha256"], "mtime": state.st_mtime_ns}
    with contextlib.suppress(OSError):  # a cache that is only to be read
        path.with_name(f"{path.name}.json").write_text(json.dumps(record), encoding="utf-8")


def _intact(path: Path, address: str, weights: Weights) -> bool:
    """Whether the cache has the file as it was fetched."""
    if not path.is_file():
        return False
    record, state = record_of(path), path.stat()
    if (record.get("size"), record.get("mtime")) != (state.st_size, state.st_mtime_ns):
        found = digests(path)
        wrong = check_digests(found, f"sha256:{record['sha256']}" if "sha256" in record else weights.hash)
        if wrong:
            logger.warning("%s is no longer what was fetched from %s (%s)", path, shown(address), wrong)
            return False
        _write_record(path, address, weights, found)
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(state.st_mtime))
    logger.info("%s is taken from %s, as it was on %s; remove that file to fetch it again", shown(address), path, day)
    return True


@contextlib.contextmanager
def _only_one(path: Path, what: str) -> Iterator[None]:
    """Within, no other process fetches the same file; one that does is waited for."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_name(f"{path.name}.lock"), "a")  # noqa: SIM115
    except OSError as error:
        words = f"{what}: the cache cannot be written ({error}); set FVCORE_CACHE to another folder"
        raise DownloadError(words) from error
    with lock as file:
        try:
            portalocker.lock(file, portalocker.LOCK_EX | portalocker.LOCK_NB)
        except portalocker.exceptions.LockException:
            logger.info("%s is being fetched by another process, which is waited for", what)
            try:
                portalocker.lock(file, portalocker.LOCK_EX)
            except portalocker.exceptions.LockException as error:
                words = f"{path.parent} is on a disk that has no locks ({error}); set FVCORE_CACHE to a local folder"
                raise DownloadError(words) from error
        yield


def _from_origin(address: str, part: Path, weights: Weights, said: str) -> dict[str, str]:
    """Fetches ``part`` from the address itself; gives its digests. Raises DownloadError."""
    where, name = shown(address), weights.name
    if offline():
        packed = f", or where there is one: {_PACK.format(name)}; copy FOLDER to here and set {MIRROR}=FOLDER"
        raise MissingError(
            f"{name or where} is not in the cache ({part.parent.parent}){said}, and {OFFLINE} forbids the network."
            f" Download {where} by hand and give the file{packed if name else ''}"
        )
    if not _continues(part, weights):
        forget(part)  # nothing could tell that the rest is of the same version
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    token = os.environ.get("HF_TOKEN", "").strip() if address.startswith(f"{hub.rstrip('/')}/") else ""
    try:
        learnt = complete(address, part, token)
    except MissingError as error:
        near = [row.name for row in known(name.partition(".")[0])][:3] if name.startswith("timm://") else []
        listed = f"; some that there are: {', '.join(near)}" if near else ""
        raise MissingError(f"{where}: {error}. Look whether '{name or where}' is written right{listed}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        words = f"{where} could not be fetched ({without_secrets(error)})"
        if _continues(part, weights):
            words += f"; {size(part):,} bytes are kept, and the same command goes on there"
        raise DownloadError(f"{words}. {_advice(error, name)}") from error
    found = digests(part)
    for known_hash in (weights.hash, learnt):
        if wrong := check_digests(found, known_hash):
            forget(part)
            raise DownloadError(
                f"{where}: {wrong}; it was damaged on the way, or is another file, and is not taken. Try again, or"
                " download it by hand and give the file"
            )
    return found


def _continues(part: Path, weights: Weights) -> bool:
    """Whether what has come can be gone on with: a change of the file in the meantime would be noticed."""
    return bool(size(part) and (weights.hash or read_note(part).get("version")))


def _advice(error: Exception, name: str) -> str:
    code = getattr(error, "code", None)
    if code in (401, 403) and name.startswith(("hf://", "timm://")):
        return "There is no such repository, or it is not open to all: accept its terms on its page and set HF_TOKEN"
    if code in (401, 403, 407):
        return "It wants a login: https://USER:PASSWORD@HOST/..., or download it by hand and give the file"
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "Free space on that disk, or set FVCORE_CACHE to a folder on another"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "Where a proxy signs in the server's name, set SSL_CERT_FILE to its certificates; or give the file"
    if isinstance(error, DownloadError):
        return "Or download it by hand and give the file"
    packed = f"; or on another machine: {_PACK.format(name)}, and here {MIRROR}=FOLDER" if name else ""
    return f"Look at the network and at http_proxy, https_proxy{packed}; or give a file instead"


_PACK = "detkit weights pack FOLDER '{}'"
