"""The command ``detkit``: one module a command, whose command line is the module of the same name in ``parsers``."""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from detkit import __version__
from detkit.commands.parsers import COMMANDS
from detkit.signals import leave_on_signals, on_signals

USAGE = """usage: detkit COMMAND ...

Object detection and instance segmentation from interchangeable parts.

{commands}

examples:
  train on a folder that a labelling tool wrote
    detkit train --data FOLDER

  train a small Mask R-CNN on drawn shapes, in minutes, on any machine
    detkit train quick_start/mask_rcnn_shapes

  what a command does, with examples
    detkit {first} --help
"""


def run(words: str, argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        words: a key of ``COMMANDS``.
        argv: its command line (default: the process's).

    Returns:
        The exit code; see ``detkit.command_line.run`` for what a mistake gives.
    """
    name = words.replace(" ", "_")
    argv = sys.argv[1:] if argv is None else argv
    if COMMANDS[words].resumes:
        leave_on_signals()
    importlib.import_module(f"detkit.commands.parsers.{name}").parse_arguments(argv)
    # So --help and mistakes are answered at once: what is imported from here on takes seconds.
    module, command_line = (importlib.import_module(f"detkit.{m}") for m in (f"commands.{name}", "command_line"))
    code: int = command_line.run(lambda: module.main(argv))
    if COMMANDS[words].resumes:
        on_signals(lambda number, frame: os._exit(code))  # for what waits as the interpreter ends
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``detkit``, whose first words name the command; 2 where they name none."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for count in (2, 1):
        words = " ".join(argv[:count])
        if words in COMMANDS:
            return run(words, argv[count:])
    first = argv[0] if argv else ""
    if first == "help" and argv[1:]:
        return main([*argv[1:], "--help"])
    of_group = {words: c for words, c in COMMANDS.items() if words.startswith(f"{first} ")} if first else {}
    if first == "--version":
        print(f"detkit {__version__}")
        return 0
    if not argv or first in ("-h", "--help", "help") or (of_group and argv[1:2] in ([], ["-h"], ["--help"])):
        print(_usage(of_group or COMMANDS), end="")
        return 0 if argv[-1:] in (["-h"], ["--help"], ["help"]) else 2
    wrong = " ".join(argv[:2]) if of_group else first
    near = difflib.get_close_matches(wrong, [*COMMANDS, *{words.split()[0] for words in COMMANDS}], n=1)
    meant = f" Did you mean '{near[0]}'?" if near else ""
    print(f"detkit: there is no command '{wrong}'.{meant} detkit --help lists all", file=sys.stderr)
    return 2


def _usage(commands: dict) -> str:
    width = max(map(len, commands))
    lines = [f"  {words:<{width}}  {command.summary}" for words, command in commands.items()]
    return USAGE.format(commands="\n".join(lines), first=next(iter(commands)))
