"""How tools end and what they write to a console, whatever its encoding."""

import logging
import os
import signal
import subprocess
import sys

import pytest

from detkit import command_line
from detkit.utils.progress import watched

WORDS = ["気球", "مرحبا", "ящик", "🎈", "plain", "broken \udcff name"]


@pytest.mark.parametrize(
    "console",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "utf-8"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=str,
)
def test_what_a_console_cannot_show_is_escaped(console):
    code = "\n".join(
        [
            "import logging, sys",
            "from detkit import command_line",
            "from detkit.registry import DataError",
            f"words = {WORDS!a}",
            "def main():",
            "    [print(word) for word in words]",
            "    [logging.getLogger('detkit.x').warning(word) for word in words]",
            "    raise DataError(' '.join(words))",
            "sys.exit(command_line.run(main))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env={**os.environ, **console})
    assert done.returncode == 2
    assert b"UnicodeEncodeError" not in done.stderr
    assert b"Traceback" not in done.stderr
    assert (len(done.stdout.splitlines()), len(done.stderr.splitlines())) == (len(WORDS), len(WORDS) + 1)
    for word in WORDS:
        escaped = word.encode(console.get("PYTHONIOENCODING", "ascii"), "backslashreplace")
        assert escaped in done.stdout.replace(b"\r", b"")


def test_tools_show_warnings_and_progress_once_each(capsys):
    def main():
        logging.getLogger("detkit.some").warning("careful")
        logging.getLogger("detkit.some").info("a detail")
        return len(list(watched([1, 2, 3], "counting", period=-1.0)))

    for _ in range(2):
        assert command_line.run(main) == 3
        shown = capsys.readouterr().err
        assert (shown.count("careful"), shown.count("counting 1/3"), shown.count("detail")) == (1, 1, 0)
        assert "\r" not in shown


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="a reader that leaves is no error on Windows")
def test_nothing_is_said_where_nobody_reads_on():
    code = "import sys; from detkit import command_line; sys.exit(command_line.run(lambda: print('line\\n' * 10**6)))"
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout.readline() == b"line\n"
    program.stdout.close()
    assert program.stderr.read() == b""
    assert program.wait() == 128 + signal.SIGPIPE
