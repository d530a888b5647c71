"""Numbers on their way from a GPU to the host."""

from collections.abc import Sequence

import torch
from torch import Tensor


class HostCopy:
    """Copies of tensors, asked for now and taken later.

    On CUDA the device goes on meanwhile with what is queued after this, and ``wait`` waits for the copies alone and not
    for that; elsewhere they are there at once, and on the CPU they are the tensors themselves.

    Args:
        tensors: of one device.
    """

    def __init__(self, tensors: Sequence[Tensor]):
        self._copies = [t.detach() for t in tensors]
        self._arrived: torch.cuda.Event | None = None
        if self._copies and self._copies[0].device.type == "cuda":
            sources = self._copies
            self._copies = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in sources]
            for copy, source in zip(self._copies, sources):
                copy.copy_(source, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(sources[0].device))

    def wait(self) -> list[Tensor]:
        """The tensors on the host."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [t.cpu() for t in self._copies]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on ``device``. On CUDA the host does not wait until it is there."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
