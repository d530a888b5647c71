"""How much memory a process has taken, whether there was too little, and when Python does not look for some to free."""

import gc
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def peak_memory(device: torch.device) -> dict[str, int]:
    """The most memory that this process has taken so far, in MB (2^20 bytes).

    Returns:
        ``max_rss_mb``: resident memory of this process alone, since it began; loader workers, which are processes of
        their own, are not in it. Missing on Windows. On a CUDA device also ``max_memory_mb``: what torch's tensors
        took of it.
    """
    taken: dict[str, int] = {}
    if resource is not None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        taken["max_rss_mb"] = round(peak / (2**20 if sys.platform == "darwin" else 2**10))
    if device.type == "cuda":
        taken["max_memory_mb"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return taken


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is of too little memory: torch's own, one of its RuntimeErrors that say so, or Python's."""
    says_so = isinstance(error, RuntimeError) and _WORDS.search(str(error)) is not None
    return says_so or isinstance(error, MemoryError | torch.OutOfMemoryError)


_WORDS = re.compile(
    r"DefaultCPUAllocator|can't allocate memory|not enough memory"
    r"|out of memory|CUBLAS_STATUS_ALLOC_FAILED",  # on Apple's GPUs (MPS), of CUDA itself and of its libraries
    re.IGNORECASE,
)


@contextmanager
def no_collection() -> Iterator[None]:
    """Within it Python looks for no reference cycles: a million new objects have none, and looking takes seconds."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
