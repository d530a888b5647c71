"""How batches come out of loader processes: each as one pickle, the bytes of its tensors in one piece."""

import errno
import io
import os
import pickle
import shutil
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor

_ALIGNED = 64


class PackedBatch:
    """A batch as a loader process sends it.

    The piece lies in shared memory, so a batch takes one open file, and where there is no space for it, it goes
    through the process's pipe. torch would share every tensor by itself, in a thread whose errors lose the batch:
    whoever waits for it then waits for ever.

    Attributes:
        shortage: why the batch goes through the pipe; "" where it does not.
    """

    def __init__(self, batch: list[Any]):
        self._batch: list[Any] | None = None
        file = io.BytesIO()
        pickler = _Pickler(file)
        pickler.dump(batch)
        self._pickled, self.shortage = file.getvalue(), ""
        piece = torch.empty(pickler.size, dtype=torch.uint8)
        for start, tensor in pickler.tensors:
            content = tensor.contiguous().reshape(-1).view(torch.uint8)
            piece[start : start + len(content)] = content
        try:
            self._piece: bytes | bytearray = bytes(ForkingPickler.dumps(piece.share_memory_()))
        except (RuntimeError, OSError) as error:
            self._piece, self.shortage = bytearray(piece.numpy()), str(error)

    def pin_memory(self) -> "PackedBatch":
        """With samples in page-locked memory (called by torch's DataLoader)."""
        self._batch = [item.pin_memory() if hasattr(item, "pin_memory") else item for item in self.batch()]
        return self

    def batch(self) -> list[Any]:
        """The batch that it was made of. Raises RuntimeError or OSError where shared memory cannot be mapped."""
        if self._batch is None:
            shared = isinstance(self._piece, bytes)
            piece = pickle.loads(self._piece) if shared else torch.frombuffer(self._piece, dtype=torch.uint8)
            batch: list[Any] = _Unpickler(io.BytesIO(self._pickled), piece).load()
            return batch
        return self._batch


class _Pickler(pickle.Pickler):
    """Pickles all but the content of tensors, for which it lays out one piece of memory."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.size = _ALIGNED  # no piece is empty
        self.tensors: list[tuple[int, Tensor]] = []

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.requires_grad or value.is_meta:
            return None
        start, plain = self.size, value.as_subclass(Tensor)
        self.tensors.append((start, plain))
        self.size += -(-plain.numel() * plain.element_size() // _ALIGNED) * _ALIGNED
        return start, tuple(plain.shape), plain.dtype, type(value)


class _Unpickler(pickle.Unpickler):
    """Reads what ``_Pickler`` wrote; the tensors are views of the piece."""

    def __init__(self, file: io.BytesIO, piece: Tensor):
        super().__init__(file)
        self._piece = piece

    def persistent_load(self, place: tuple[int, tuple[int, ...], torch.dtype, type[Tensor]]) -> Tensor:
        start, shape, dtype, kind = place
        size = torch.Size(shape).numel() * dtype.itemsize
        return self._piece[start : start + size].view(dtype).view(shape).as_subclass(kind)


def remedy(error: BaseException | str) -> str:
    """Which limit of the machine an error of loader processes is about, and how to widen it; "" for other errors."""
    words, number = str(error).lower(), getattr(error, "errno", None)
    if number == errno.EMFILE or "too many open files" in words or "ancdata" in words:
        return f"the limit of open files is {_limit('RLIMIT_NOFILE')}: raise it (ulimit -n 4096)"
    if number in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOSYS) or any(
        w in words for w in ("no space left", "bus error", "out of shared memory")
    ):
        return f"{_shm()}: make it larger and writable (docker run --shm-size=8g, or --ipc=host)"
    if number == errno.EAGAIN or "new thread" in words:
        return f"the limit of processes and threads is {_limit('RLIMIT_NPROC')}: raise it (ulimit -u, or --pids-limit)"
    if number == errno.ENOMEM or isinstance(error, MemoryError) or "allocate" in words or "mmap" in words:
        return f"memory is short (ulimit -v is {_limit('RLIMIT_AS')}): raise the limit, or make batches smaller"
    return ""


def _shm() -> str:
    try:
        space = shutil.disk_usage("/dev/shm")
    except OSError:
        return "there is no /dev/shm"
    return f"/dev/shm has {space.free / 2**20:.0f} of {space.total / 2**20:.0f} MiB free"


def _limit(name: str) -> str:
    if os.name != "posix":
        return "unknown"
    import resource

    soft, _ = resource.getrlimit(getattr(resource, name))
    return "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
