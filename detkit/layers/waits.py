"""Where the host waits for its device, and so where code without such waits is worth more memory or work."""

from collections.abc import Sequence

import torch
from torch import Tensor


def waits_for(device: torch.device) -> bool:
    """Whether the host waits when it asks ``device`` for a number: true everywhere but on the CPU.

    A GPU computes while the host goes ahead, until the host asks for a number (``tolist``, ``item``), for rows whose
    count only the data tell (``nonzero``, an index by a mask), or makes a tensor from numbers of its own. There, code
    that never asks is faster though it does more; on the CPU nobody is ahead, and the least work is the fastest.
    """
    return device.type != "cpu"


def filled(numbers: Sequence[float], like: Tensor) -> Tensor:
    """``(n,)`` numbers of the host on the device and of the type of ``like``, filled there one by one.

    ``torch.tensor`` and ``new_tensor`` copy them over, and the host waits until a GPU has them.
    """
    return torch.cat([like.new_full((1,), number) for number in numbers])
