"""What happens to a process while it writes files: it is killed, the disk is full, a signal comes as it forks."""

import builtins
import errno
import io
import os
import re
import signal
import time

from survive_helpers import Failure


class WhileWriting(Failure):
    """Something happens to the ``number``-th file that matches ``pattern``, at a moment of its writing.

    Whatever opens, writes and renames files through Python is seen, whichever function of the project it is.

    Args:
        pattern: of the path.
        number: the first, second ... such file that the process writes.
        moment: ``open`` (when it is empty), ``middle`` (when a share of it is written), ``before`` or ``after`` it is
            renamed to its place.
        share: of the content that is there in the middle.
    """

    def __init__(self, pattern: str, number: int = 1, moment: str = "middle", share: float = 0.5):
        self.pattern, self.number, self.moment, self.share = pattern, number, moment, share

    def __call__(self):
        self.opened = self.renamed = 0
        self.handles: set[int] = set()
        self.real = {name: getattr(os, name) for name in ("open", "write", "replace", "rename")}
        self.real_open = builtins.open
        builtins.open = io.open = self._open
        for name in self.real:
            setattr(os, name, getattr(self, f"_os_{name}"))

    def happen(self):
        """What happens."""
        raise NotImplementedError

    def writing(self, data):
        """Comes before each write to a file of the process."""

    def _is_due(self, path):
        if isinstance(path, int) or not re.search(self.pattern, os.fsdecode(path)):
            return False
        self.opened += 1
        return self.opened == self.number

    def _open(self, path, mode="r", *args, **options):
        if not set(mode) & set("wax") or isinstance(path, int):
            return self.real_open(path, mode, *args, **options)
        due = self._is_due(path)
        file = self.real_open(path, mode, *args, **options)
        if due and self.moment == "open":
            self.happen()
        return Watched(file, self, due and self.moment == "middle")

    def _os_open(self, path, flags, *args, **options):
        handle = self.real["open"](path, flags, *args, **options)
        self.handles.discard(handle)
        if flags & (os.O_WRONLY | os.O_RDWR) and self._is_due(path):
            self.handles.add(handle)
            if self.moment == "open":
                self.happen()
        return handle

    def _os_write(self, handle, data):
        if handle in self.handles:
            self.writing(data)
            self.real["write"](handle, data[: int(len(data) * self.share)])
            self.happen()
        return self.real["write"](handle, data)

    def _os_replace(self, source, target, **options):
        self._move("replace", source, target, options)

    def _os_rename(self, source, target, **options):
        self._move("rename", source, target, options)

    def _move(self, name, source, target, options):
        due = False
        if self.moment in ("before", "after") and re.search(self.pattern, os.fsdecode(target)):
            self.renamed += 1
            due = self.renamed == self.number
        if due and self.moment == "before":
            self.happen()
        self.real[name](source, target, **options)
        if due:
            self.happen()


class Watched:
    """A file of which only a share is left when it has been written."""

    def __init__(self, file, failure, due):
        self.__dict__.update(_file=file, _failure=failure, _due=due)

    def write(self, data):
        self._failure.writing(data)
        return self._file.write(data)

    def flush(self):
        self._file.flush()
        self._written()

    def close(self):
        if not self._file.closed:
            self._file.flush()
            self._written()
        self._file.close()

    def _written(self):
        if self._due:
            self.__dict__["_due"] = False
            os.ftruncate(self._file.fileno(), int(os.fstat(self._file.fileno()).st_size * self._failure.share))
            self._failure.happen()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __iter__(self):
        return iter(self._file)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __setattr__(self, name, value):
        setattr(self._file, name, value)


class Kill(WhileWriting):
    """SIGKILL."""

    def happen(self):
        os.kill(os.getpid(), signal.SIGKILL)


class FullDisk(WhileWriting):
    """From then on nothing can be written any more, to any file."""

    full = False

    def happen(self):
        self.full = True
        self.writing(b"")

    def writing(self, data):
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class SignalAtFork(Failure):
    """SIGTERM to the process and all of its children, ``delay`` seconds after it has begun to fork the n-th of them."""

    def __init__(self, number: int, delay: float):
        self.number, self.delay = number, delay

    def __call__(self):
        os.setsid()
        reader, writer = os.pipe()
        fork, count = os.fork, [0]
        if fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.close(writer)
            if os.read(reader, 1):
                time.sleep(self.delay)
                os.killpg(0, signal.SIGTERM)
            os._exit(0)
        os.close(reader)

        def forking():
            count[0] += 1
            if count[0] == self.number:
                os.write(writer, b"x")
            pid = fork()
            if pid == 0:
                os.close(writer)
            return pid

        os.fork = forking


class Ranked(Failure):
    """One of several processes of a run, as a launcher starts them; one of them has the failure."""

    def __init__(self, rank: int, size: int, port: int, launch: str, failure: Failure | None):
        self.variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        self.variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": launch}
        self.failure = failure

    def __call__(self):
        os.environ.update({name: str(value) for name, value in self.variables.items()})
        if self.failure is not None:
            self.failure()
