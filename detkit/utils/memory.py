"""How much memory a process has taken."""

import sys

import torch


def peak_memory(device: torch.device) -> dict[str, int]:
    """The most that this process has taken so far, in MB (2^20 bytes).

    Returns:
        ``max_rss_mb``: resident memory of this process alone, since it began; loader workers, which are processes of
        their own, are not in it. Missing on Windows. On a CUDA device also ``max_memory_mb``: what torch's tensors
        took of it.
    """
    taken: dict[str, int] = {}
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        taken["max_rss_mb"] = round(peak / (2**20 if sys.platform == "darwin" else 2**10))
    if device.type == "cuda":
        taken["max_memory_mb"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return taken
