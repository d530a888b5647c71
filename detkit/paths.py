"""Texts that name files: ``~`` is the home folder, and what no file can be called is refused."""

import argparse
import dataclasses
import os
import re
from pathlib import Path
from typing import Annotated, Any

from detkit.zoo import find, shown


def user_path(text: str) -> Path:
    """``text`` as a path, ``~`` expanded. Raises ValueError where no file can be called so."""
    if not text.strip():  # such as a variable of the shell that is not set: "" would be the current folder
        raise ValueError("it is empty")
    if text.startswith("~") and os.path.expanduser(text) == text:
        raise ValueError(f"there is no user '{text[1:].partition('/')[0]}', whose home '{text}' would be in")
    expanded = Path(os.path.expanduser(text))
    try:
        name = os.fsencode(expanded)
    except UnicodeEncodeError:  # half of a surrogate pair
        name = b"\0"
    if b"\0" in name or len(name) > 4000 or any(len(part) > 255 for part in name.split(os.sep.encode())):
        raise ValueError(f"no file can be called {text[:80]!r}")
    return expanded


def local_path(text: str) -> Path:
    """``user_path`` as the type of an argument of a command line."""
    try:
        return user_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def output_file(text: str) -> Path:
    """As ``local_path``, for a file that is written when the work is done: no folder may lie there."""
    path = local_path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' is a folder; give the name of a file")
    return path


def output_folder(text: str) -> Path:
    """As ``local_path``, for a folder that is written into: no file may lie there."""
    path = local_path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' is a file; give the name of a folder")
    return path


def path_or_address(text: str) -> str:
    """As ``local_path``, for files that may lie behind an address or a name of weights, which stays as it is."""
    try:
        find(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text if "://" in text else str(local_path(text))


@dataclasses.dataclass(frozen=True)
class PathText:
    """A text that names a file or folder, an address or weights by name: ``~`` is the home folder."""

    def __str__(self) -> str:
        return "path"

    def check(self, value: Any) -> Any:
        """As ``Interval.check``; the home folder is written out."""
        if "://" in value:
            if shown(value) == value:  # else a message would have what may be secret; it is looked at when it is read
                find(value)
            return value
        if control := re.search(r"[\0-\x1f]", value):
            raise ValueError(f"{control[0]!r} is in no file's name; in YAML a backslash needs single quotes")
        if variable := re.search(r"\$(\w+)", value):
            raise ValueError(f"a variable of the shell is not known here; write ${{oc.env:{variable[1]}}}")
        expanded = user_path(value)
        return str(expanded) if value.startswith("~") else value


FilePath = Annotated[str, PathText()]
