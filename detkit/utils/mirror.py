"""A mirror: a folder of weights, or an address of one, that is asked before their own addresses are."""

import http.client
import json
import logging
import os
import re
import shutil
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from detkit.utils.transfer import (
    DownloadError,
    MissingError,
    check_digests,
    check_space,
    complete,
    digests,
    forget,
    without_secrets,
)
from detkit.zoo import Weights, mirror_path, shown

logger = logging.getLogger(__name__)

MIRROR, OFFLINE = "DETKIT_WEIGHTS_MIRROR", "DETKIT_OFFLINE"
MANIFEST = "manifest.json"


def offline() -> bool:
    """Whether ``DETKIT_OFFLINE`` forbids the network."""
    return os.environ.get(OFFLINE, "").strip().lower() not in ("", "0", "false", "no", "off")


def from_mirror(address: str, part: Path, weights: Weights) -> tuple[dict[str, str], str]:
    """Fills ``part`` from the mirror, if one is set and has the file: its digests, or why not as words for messages."""
    mirror = os.environ.get(MIRROR, "").strip()
    if not mirror:
        return {}, ""
    root, where = re.sub(r"^file://", "", mirror).rstrip("/"), mirror_path(address)
    if "://" in root and offline():
        return {}, f", the mirror {shown(mirror)} is on a network"
    try:
        forget(part)  # of a process that was killed
        entry = read_manifest(root).get(where, {})
        if entry and entry["address"] != shown(address):
            raise DownloadError(f"it is of {entry['address']} there")
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
        logger.warning("the mirror %s gives no %s (%s)", shown(mirror), where, without_secrets(error))
        return {}, f", the mirror {shown(mirror)} gives none ({without_secrets(error)})"


def read_manifest(root: str) -> dict[str, dict[str, Any]]:
    """What the files of a mirror are: path -> ``name, address, size, sha256``; empty where it has no manifest.

    Raises DownloadError where its manifest is none.
    """
    if "://" not in root:
        path = Path(root).expanduser() / MANIFEST
        return _rows(path, str(path)) if path.is_file() else {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"_{MANIFEST}"
        try:
            complete(f"{root}/{MANIFEST}", path)
        except MissingError:
            return {}
        return _rows(path, f"{shown(root)}/{MANIFEST}")


def _rows(path: Path, what: str) -> dict[str, dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {
            where: {**row, **{key: str(row[key]) for key in ("name", "address", "sha256")}}
            for where, row in rows.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DownloadError(
            f"{what}: is none that detkit weights pack writes; move it away, and pack the files again"
        ) from None


def pack(files: Mapping[Path, Mapping[str, Any]], folder: Path) -> Iterator[Path]:
    """Copies fetched files into a mirror, whose manifest has them when all are there; gives each as it is done.

    Args:
        files: file -> what is known of it, as ``detkit.utils.download.cached`` has it.
        folder: the mirror; what is in it stays.

    Raises:
        DownloadError: a file is no longer what was fetched, or does not fit on the disk.
    """
    manifest = read_manifest(str(folder))
    for path, record in files.items():
        target = folder / record["mirror_path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        check_space(target, record["size"])
        part = target.with_name(f"{target.name}.part")
        shutil.copyfile(path, part)
        if digests(part)["sha256"] != record["sha256"]:
            forget(part)
            raise DownloadError(
                f"{path}: is no longer what was fetched; detkit weights fetch --force '{record['name']}'"
            )
        os.replace(part, target)
        manifest[record["mirror_path"]] = {key: record[key] for key in ("name", "address", "size", "sha256")}
        yield target
    part = folder / f"{MANIFEST}.part"
    part.write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    os.replace(part, folder / MANIFEST)
