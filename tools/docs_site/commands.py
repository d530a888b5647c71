"""The page of all commands: what each says to ``--help``."""

import contextlib
import importlib
import io
import os
from collections.abc import Iterator

from detkit.commands.parsers import COMMANDS

PAGE = "reference/commands.md"


def targets() -> dict[str, str]:
    """Command -> its place."""
    return {f"detkit {words}": f"{PAGE}#detkit-{words.replace(' ', '-')}" for words in COMMANDS}


def pages() -> Iterator[tuple[str, str]]:
    """The page."""
    sections = [
        f"## detkit {words}\n\n{command.summary[0].upper()}{command.summary[1:]}.\n\n```text\n{help_of(words)}\n```"
        for words, command in COMMANDS.items()
    ]
    yield PAGE, "\n\n".join(["# Commands", "What `detkit COMMAND --help` says, for every command.", *sections])


def help_of(words: str) -> str:
    """What the command says to ``--help``, in lines of 110 characters."""
    said = io.StringIO()
    os.environ["COLUMNS"] = "110"
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        importlib.import_module(f"detkit.commands.parsers.{words.replace(' ', '_')}").parse_arguments(["--help"])
    return said.getvalue().rstrip()
