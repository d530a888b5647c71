"""Where the host waits for its device, and so where code without such waits is worth more memory or work."""

import torch


def waits_for(device: torch.device) -> bool:
    """Whether the host waits when it asks ``device`` for a number: true everywhere but on the CPU.

    A GPU computes while the host goes ahead, until the host asks for a number (``tolist``, ``item``), for rows whose
    count only the data tell (``nonzero``, an index by a mask), or makes a tensor from numbers of its own. There, code
    that never asks is faster though it does more; on the CPU nobody is ahead, and the least work is the fastest.
    """
    return device.type != "cpu"
