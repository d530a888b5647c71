"""Logging of a run: the console, and log.txt in the run's folder."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from detkit.utils import distributed

logger = logging.getLogger(__name__)
PROGRESS = "detkit.progress"
"""The logger of the progress of loops, whose lines tools show too that show no other information."""
_CONSOLE_FORMAT = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
_FILE_FORMAT = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")


class _RunHandler:
    """Marks the handlers that ``setup_logging`` made, so that a second call replaces them."""


class _ConsoleHandler(_RunHandler, logging.Handler):
    """Writes above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``."""
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:  # a log line must never end a training run
            self.handleError(record)


class _LogFileHandler(_RunHandler, logging.FileHandler):
    """Says once what keeps it from writing, such as a full disk."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``."""
        if not self._failed:
            self._failed = True
            words = first_line(sys.exc_info()[1] or OSError("unknown error"))
            print(f"{self.baseFilename}: lines are missing, as it cannot be written ({words})", file=sys.stderr)

    def close(self) -> None:
        """See ``logging.Handler``."""
        with contextlib.suppress(OSError):  # of what could not be written before
            super().close()


def setup_console() -> None:
    """Sends warnings and progress to stderr: for tools, which start no run. ``setup_logging`` takes its place."""
    _remove_handlers()
    logging.getLogger(PROGRESS).setLevel(logging.INFO)
    console = _ConsoleHandler()
    console.addFilter(lambda record: record.levelno >= logging.WARNING or record.name == PROGRESS)
    logging.getLogger().addHandler(console)


def _remove_handlers() -> None:
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _RunHandler)]:
        root.removeHandler(handler)
        handler.close()


@contextlib.contextmanager
def logging_restored() -> Iterator[None]:
    """Takes back what ``setup_logging`` sets up in its block: handlers, levels, and that warnings become records."""
    loggers = [logging.getLogger(name) for name in (None, "detkit", PROGRESS)]
    levels, captured = [logger.level for logger in loggers], warnings.showwarning.__module__ == logging.__name__
    try:
        yield
    finally:
        _remove_handlers()
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
        logging.captureWarnings(captured)


def setup_logging(output_dir: str | os.PathLike[str] | None = None) -> None:
    """Sends log records to the console and to ``log.txt``; for programs to call, never for library code.

    Rank 0 alone writes to the console (INFO and above) and to ``output_dir/log.txt`` (also detkit's DEBUG); every
    other rank writes ``log_rank<r>.txt``. Python warnings become records. A second call replaces the first one's
    handlers.

    Args:
        output_dir: the run's folder, made where it is missing; None writes no file.
    """
    root = logging.getLogger()
    _remove_handlers()
    root.setLevel(logging.INFO)
    logging.getLogger("detkit").setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    if distributed.is_main():
        console = _ConsoleHandler(logging.INFO)
        console.setFormatter(_CONSOLE_FORMAT)
        root.addHandler(console)
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        name = "log.txt" if distributed.is_main() else f"log_rank{distributed.rank()}.txt"
        log_file = _LogFileHandler(Path(output_dir) / name, encoding="utf-8", errors="backslashreplace")
        log_file.setFormatter(_FILE_FORMAT)
        root.addHandler(log_file)


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """Within, the loggers below ``name`` give errors alone: for what is read again and has said it before."""
    chosen = logging.getLogger(name)
    level = chosen.level
    chosen.setLevel(logging.ERROR)
    try:
        yield
    finally:
        chosen.setLevel(level)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def optional_output(what: str) -> Iterator[None]:
    """Within, an error is logged and goes no further: for pictures and curves, which must never end a run."""
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException:  # libraries raise others than Exception, too
        logger.warning("%s could not be made; the run goes on without", what, exc_info=True)
