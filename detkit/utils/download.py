"""Downloads that are kept: by their whole address, complete or not there, from a mirror first."""

import contextlib
import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import portalocker
from iopath.common.file_io import HTTPURLHandler, get_cache_dir

from detkit.utils.transfer import DownloadError, MissingError, check_space, chunks, complete, forget, note_of, size
from detkit.zoo import ADDRESSES, NAMES, Weights, find, hash_in_name, known, mirror_path, shown

logger = logging.getLogger(__name__)

MIRROR, OFFLINE = "DETKIT_WEIGHTS_MIRROR", "DETKIT_OFFLINE"
MANIFEST = "manifest.json"


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
    cache = cache or Path(get_cache_dir())
    try:
        weights = find(name)
    except ValueError as error:
        raise DownloadError(str(error)) from error
    if weights is None:
        raise DownloadError(f"'{shown(name)}' is neither a name of weights nor an address that is read")
    kept = [address for address in weights.addresses if cache_path(address, cache).is_file()]
    for address in (*kept, *weights.addresses):
        try:
            return fetch(address, cache, force=force, weights=weights)
        except MissingError as error:
            missing = error
    raise missing


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
        weights: what is known of it; None: what its name says.

    Raises:
        MissingError: there is no such file.
        DownloadError: it could not be fetched whole.
    """
    address = urllib.parse.urldefrag(address).url
    weights = weights or Weights(shown(address), (address,), hash=hash_in_name(address))
    path = cache_path(address, cache)
    if not force and _intact(path, address, weights):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(path, shown(address)):
        if not force and _intact(path, address, weights):  # by the process that was waited for
            return path
        part, mirrored = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.mirror.part")
        found, said = _from_mirror(address, mirrored, weights)
        if not found:
            found = _from_origin(address, part, weights, said)
        os.replace(mirrored if mirrored.is_file() else part, path)
        forget(mirrored)
        forget(part)
        _write_record(path, address, weights, found)
    logger.info("fetched %s to %s (%s bytes)", shown(address), path, f"{path.stat().st_size:,}")
    return path


def offline() -> bool:
    """Whether ``DETKIT_OFFLINE`` forbids the network."""
    return os.environ.get(OFFLINE, "").strip().lower() not in ("", "0", "false", "no", "off")


def cache_path(address: str, cache: Path) -> Path:
    """Where the file of an address is kept; two addresses never share a file."""
    parts = urllib.parse.urlsplit(address)
    name = re.sub(r"[^\w.-]", "_", parts.path.rpartition("/")[2])[-100:] or "download"
    folder = re.sub(r"[^\w.-]", "_", parts.netloc.rpartition("@")[2])[:100]
    return cache / folder / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}_{name}"


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
        wrong = check_digests(found, f"sha256:{record['sha256']}" if record else weights.hash)
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
    with open(path.with_name(f"{path.name}.lock"), "a") as file:
        try:
            portalocker.lock(file, portalocker.LOCK_EX | portalocker.LOCK_NB)
        except portalocker.exceptions.AlreadyLocked:
            logger.info("%s is being fetched by another process, which is waited for", what)
            portalocker.lock(file, portalocker.LOCK_EX)
        yield


def _from_mirror(address: str, part: Path, weights: Weights) -> tuple[dict[str, str], str]:
    """Fills ``part`` from the mirror, if one is set and has the file: its digests, or why not as words for messages."""
    mirror = os.environ.get(MIRROR, "").strip()
    if not mirror:
        return {}, ""
    root, where = re.sub(r"^file://", "", mirror).rstrip("/"), mirror_path(address)
    if "://" in root and offline():
        return {}, f", the mirror {shown(mirror)} is on a network"
    try:
        entry = read_manifest(root).get(where, {})
        if "://" in root:
            complete(f"{root}/{urllib.parse.quote(where)}", part)
        else:
            source = Path(root).expanduser() / where
            if not source.is_file():
                return {}, f" nor in the mirror (as {source})"
            check_space(part, source.stat().st_size)
            shutil.copyfile(source, part)
        found = digests(part)
        for known_hash in (weights.hash, f"sha256:{entry['sha256']}" if entry else ""):
            if wrong := check_digests(found, known_hash):
                raise DownloadError(f"{where}: {wrong}")
        return found, ""
    except MissingError:
        return {}, f" nor in the mirror (as {where})"
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        forget(part)
        logger.warning("the mirror %s gives no %s (%s)", shown(mirror), where, _without_secrets(error))
        return {}, f", the mirror {shown(mirror)} gives none ({_without_secrets(error)})"


def read_manifest(root: str) -> dict[str, dict[str, Any]]:
    """What the files of a mirror are: path -> ``name, address, size, sha256``; empty where it has no manifest."""
    if "://" not in root:
        path = Path(root).expanduser() / MANIFEST
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            complete(f"{root}/{MANIFEST}", Path(folder) / f"_{MANIFEST}")
        except MissingError:
            return {}
        return dict(json.loads((Path(folder) / f"_{MANIFEST}").read_text(encoding="utf-8")))


def _without_secrets(error: BaseException) -> str:
    return re.sub(r"\?[^\s'\"]+", "?...", str(error) or type(error).__name__)


def _from_origin(address: str, part: Path, weights: Weights, said: str) -> dict[str, str]:
    """Fetches ``part`` from the address itself; gives its digests. Raises DownloadError."""
    where, name = shown(address), weights.name
    if offline():
        raise DownloadError(
            f"{name} is not in the cache ({part.parent.parent}){said}, and {OFFLINE} forbids the network."
            f" Where there is one: detkit weights pack FOLDER '{name}'; copy FOLDER to here and set {MIRROR}=FOLDER. Or"
            f" download {where} by hand and give the file"
        )
    if size(part) and not (
        weights.hash or (note_of(part).is_file() and json.loads(note_of(part).read_text())["version"])
    ):
        forget(part)  # nothing could tell that the rest is of the same version
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    token = os.environ.get("HF_TOKEN", "").strip() if address.startswith(f"{hub.rstrip('/')}/") else ""
    try:
        learnt = complete(address, part, token)
    except MissingError as error:
        near = [row.name for row in known(name.partition(".")[0])][:3] if name.startswith("timm://") else []
        listed = f"; some that there are: {', '.join(near)}" if near else ""
        raise MissingError(f"{where}: {error}. Look whether '{name}' is written right{listed}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        kept = f"; {size(part):,} bytes are kept, and the same command goes on there" if size(part) else ""
        raise DownloadError(
            f"{where} could not be fetched ({_without_secrets(error)}){kept}. {_advice(error, name)}"
        ) from error
    found = digests(part)
    for known_hash in (weights.hash, learnt):
        if wrong := check_digests(found, known_hash):
            forget(part)
            raise DownloadError(
                f"{where}: {wrong}; it was damaged on the way, or is another file, and is not taken. Try again, or"
                " download it by hand and give the file"
            )
    return found


def _advice(error: Exception, name: str) -> str:
    code = getattr(error, "code", None)
    if code in (401, 403) and name.startswith(("hf://", "timm://")):
        return "There is no such repository, or it is not open to all: accept its terms on its page and set HF_TOKEN"
    if code in (401, 403, 407):
        return "It wants a login: https://USER:PASSWORD@HOST/..., or download it by hand and give the file"
    if isinstance(error, DownloadError):
        return "Or download it by hand and give the file"
    return (
        f"Look at the network and at http_proxy/https_proxy; or on another machine: detkit weights pack FOLDER '{name}',"
        f" and here {MIRROR}=FOLDER; or give the file"
    )
