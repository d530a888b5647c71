"""Names that are written in another way than the files: case, backslash, %20, Unicode form."""

import functools
import os
import unicodedata
from collections import defaultdict
from urllib.parse import unquote


def written_otherwise(root: str, name: str) -> str | None:
    """The one file or folder below ``root`` that ``name`` means though it is written otherwise; None: there is none.

    Letters may differ in case and in their Unicode form (composed, as most systems write them, or decomposed, as macOS
    did), separators may be backslashes, and characters may be written as in web addresses. Nothing outside ``root``
    is ever found.
    """
    path = root
    if os.path.isabs(name):
        return None
    for part in unquote(name).replace("\\", "/").split("/"):
        if part not in ("", "."):
            names = _names(path).get(plain(part), [])
            if part not in names and len(names) != 1:
                return None
            path = os.path.join(path, part if part in names else names[0])
    return path if path != root and os.path.exists(path) else None


@functools.lru_cache(1000)
def _names(folder: str) -> dict[str, list[str]]:
    """The entries of a folder by their plain form; none where it is no folder."""
    found = defaultdict[str, list[str]](list)
    try:
        for name in os.listdir(folder):
            found[plain(name)].append(name)
    except OSError:
        pass
    return found


def plain(name: str) -> str:
    """What is the same for all ways of writing a name."""
    return unicodedata.normalize("NFC", unquote(name)).casefold()
