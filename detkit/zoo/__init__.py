"""Weights by name: what ``detectron2://``, ``catalog://``, ``torchvision://``, ``timm://`` and ``hf://`` stand for."""

import dataclasses
import difflib
import fnmatch
import functools
import hashlib
import json
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

HUB_FILES = ("model.safetensors", "pytorch_model.bin", "model.pth", "model.pt")
"""What a repository of huggingface.co is asked for, in this order, where no file is named."""

ADDRESSES = ("http", "https", "ftp")


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights that have a name or an address.

    Args:
        name: what they are called, such as ``torchvision://ResNet50_Weights.IMAGENET1K_V2``.
        addresses: where they are; the next is for where the one before does not exist.
        size: of the file in bytes, roughly; None where nobody says.
        hash: ``sha256:`` or ``md5:`` and the first digits of the file's; empty where nobody says.
        config: the config of detkit whose model they fill, with what is to change in it; None for a backbone, or where
            detkit has none.
        licence: as their publisher calls it; empty where only their page says.
    """

    name: str
    addresses: tuple[str, ...]
    size: int | None = None
    hash: str = ""
    config: str | None = None
    licence: str = ""


def find(name: str) -> Weights | None:
    """What a name or an address stands for; None for paths, and for addresses that are no business of detkit's.

    Raises:
        ValueError: there are no such weights, with the nearest name, or this can be no address.
    """
    scheme, separator, rest = name.partition("://")
    scheme = scheme.lower()
    if not separator:
        return None
    if scheme in ADDRESSES:
        return _at_address(f"{scheme}://{rest}")
    if scheme in NAMES:
        return NAMES[scheme](scheme, rest.partition("#")[0])
    near = difflib.get_close_matches(scheme, SCHEMES, n=1, cutoff=0.7)
    if near and near[0] != scheme:
        raise ValueError(f"there is no '{scheme}://'. Did you mean '{near[0]}://'?")
    return None


def known(pattern: str = "") -> list[Weights]:
    """The weights that detkit lists, in whose name or config ``pattern`` stands, of any case; ``*`` is anything."""
    rows = [find(name) or row for name, row in _table().items()]  # HF_ENDPOINT may have moved some
    rows += map(_torchvision_row, _torchvision().values())
    return [row for row in rows if fnmatch.fnmatchcase(f"{row.name} {row.config}".lower(), f"*{pattern.lower()}*")]


def shown(text: str) -> str:
    """An address without what may be secret in it, for messages: no user, password or query. Other texts stay."""
    if text.partition("://")[0].lower() not in ADDRESSES:
        return text
    address, _, fragment = without_login(text).partition("#")
    return address.partition("?")[0] + (f"#{fragment}" if re.fullmatch(r"[\w.]+", fragment) else "")


def without_login(text: str) -> str:
    """An address of any kind without user and password; ``scheme://...`` where nobody can tell where these end."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return text
    place, path = re.fullmatch(r"([^/?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    host = place.rpartition("@")[2]
    if not re.fullmatch(r"(\[.*\]|[^:@]*)(:\d*)?", host):  # a password with a slash in it is cut here
        return f"{scheme}://..."
    return f"{scheme}://{host}{path}"


def mirror_path(address: str) -> str:
    """Where a mirror has the file of an address: ``host/path``, and for what cannot be written so a hash with it."""
    parts = urllib.parse.urlsplit(address)
    written = f"{parts.netloc.rpartition('@')[2].replace(':', '_')}{parts.path}"
    safe = "/".join(re.sub(r"[^\w.+=,@-]|^\.*$", "_", part)[-200:] for part in written.split("/"))
    if safe == written and not parts.query:
        return safe
    folder, _, name = safe.rpartition("/")
    return f"{folder}/{hashlib.sha256(address.encode()).hexdigest()[:16]}_{name}"


@functools.cache
def _data() -> Any:
    return json.loads((Path(__file__).parent / "weights.json").read_text(encoding="utf-8"))


@functools.cache
def _table() -> dict[str, Weights]:
    return {row["name"]: Weights(addresses=(row.pop("address"),), **row) for row in map(dict, _data()["weights"])}


def _in_table(scheme: str, rest: str) -> Weights:
    """A row by its name, by the end of its address, or an address that Detectron2's own short form stands for."""
    root = "https://dl.fbaipublicfiles.com/detectron2/"
    plain = re.sub(r"\.(yaml|py|pkl)$", "", rest)
    for row in _table().values():
        if row.name == f"{scheme}://{plain}" or (scheme == "detectron2" and row.addresses[0] == root + rest):
            return row
    folders = {name.split("/")[2] for name in _table()} - {"PointRend"}  # a project: the table has some of its weights
    if scheme == "detectron2" and rest.endswith((".pkl", ".pth")) and rest.partition("/")[0] not in folders:
        return Weights(f"{scheme}://{rest}", (root + rest,))  # of one of Detectron2's projects
    names = [name.partition("://")[2] for name in _table() if name.startswith(scheme)]
    raise ValueError(_unknown(scheme, rest, names, re.sub(r"/\d+/model_\w+$", "", plain)))


@functools.cache
def _torchvision() -> dict[str, Any]:
    """``ResNet50_Weights.IMAGENET1K_V2`` -> torchvision's own entry, which has the address."""
    from torchvision import models  # takes a second, and most runs have no such name

    names = [name for module in (models, models.detection) for name in models.list_models(module)]
    entries = [entry for name in names for entry in models.get_model_weights(name)]
    return {f"{type(entry).__name__}.{entry.name}": entry for entry in entries}


def _of_torchvision(scheme: str, rest: str) -> Weights:
    entries = _torchvision()
    kind, _, member = rest.partition(".")
    if member == "DEFAULT":
        same = [entry for name, entry in entries.items() if name.partition(".")[0] == kind]
        entry = type(same[0]).DEFAULT if same else None  # type: ignore[attr-defined]
    else:
        entry = entries.get(rest)
    if entry is None:
        raise ValueError(_unknown(scheme, rest, entries))
    return _torchvision_row(entry)


def _torchvision_row(entry: Any) -> Weights:
    name, megabytes = f"{type(entry).__name__}.{entry.name}", entry.meta.get("_file_size")
    return Weights(
        f"torchvision://{name}",
        (entry.url,),
        size=None if megabytes is None else int(megabytes * 2**20),
        hash=hash_in_name(entry.url),
        config=_data()["configs_of_torchvision"].get(name),
        licence=entry.meta.get("license", "BSD-3-Clause"),
    )


def _of_hub(scheme: str, rest: str) -> Weights:
    """``hf://org/repo@revision/file``; timm's are repositories of its own name there."""
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/+(.*))?", rest if scheme == "hf" else f"timm/{rest}")
    if match is None or (scheme == "timm" and match[3]):
        form = "hf://ORG/REPO, hf://ORG/REPO@REVISION/FILE" if scheme == "hf" else "timm://resnet50.a1_in1k"
        raise ValueError(f"'{scheme}://{rest}' names no weights; expected such as {form}")
    revision, files = urllib.parse.unquote(match[2] or "main"), (match[3],) if match[3] else HUB_FILES
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    root = f"{endpoint}/{match[1]}/resolve/{urllib.parse.quote(revision, safe='')}/"
    addresses = tuple(root + urllib.parse.quote(urllib.parse.unquote(file)) for file in files)
    listed = _table().get(f"{scheme}://{rest}")
    return Weights(f"{scheme}://{rest}", addresses, licence=listed.licence if listed else "")


def _at_address(address: str) -> Weights:
    try:
        parts = urllib.parse.urlsplit(address)
        if not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"'{shown(address)}' is no address; expected such as https://HOST/FILE. In a password / is written %2F,"
            " # %23, ? %3F and @ %40"
        ) from None
    return Weights(shown(address), (address.partition("#")[0],), hash=hash_in_name(address))


def hash_in_name(address: str) -> str:
    """``sha256:`` and the digits with which a file's name ends, as torch's hub has it: ``resnet50-0676ba61.pth``."""
    digits = re.search(r"-([0-9a-f]{8,64})\.[\w.]+$", urllib.parse.urlsplit(address).path)
    number = digits and re.fullmatch(r"(19|20)\d{6}|0\d+", digits[1])  # a date, or steps
    return f"sha256:{digits[1]}" if digits and not number else ""


def _unknown(scheme: str, rest: str, names: Iterable[str], plain: str = "") -> str:
    lower, typed = {name.lower(): name for name in names}, (plain or rest).lower()
    near = [key for key in lower if typed and key.endswith(f"/{typed}")]
    near = near or difflib.get_close_matches(typed, lower, n=1, cutoff=0.75)
    near = near or sorted((k for k in lower if typed and typed in k), key=lambda k: (k.find(typed), len(k)))[:2]
    meant = " or ".join(f"'{scheme}://{lower[key]}'" for key in near)
    return (
        f"there are no weights '{scheme}://{rest}'." + (f" Did you mean {meant}?" if meant else "") + " 'detkit weights"
        f" list {scheme}' has all; others go by their https address"
    )


NAMES: dict[str, Callable[[str, str], Weights]] = {
    "detectron2": _in_table,
    "catalog": _in_table,
    "torchvision": _of_torchvision,
    "timm": _of_hub,
    "hf": _of_hub,
}
"""What stands before ``://`` in a name -> what finds the rest, from both."""
SCHEMES = (*NAMES, *ADDRESSES, "file")
