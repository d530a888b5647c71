"""Shapes of feature maps: what a part says of its maps, and padding by TensorFlow's rule "SAME"."""

import dataclasses
from collections import Counter
from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F


@dataclasses.dataclass(frozen=True)
class ShapeSpec:
    """A feature map's (or an RoI feature's) shape, as the builder of the next part needs it.

    Args:
        channels: number of channels.
        stride: input pixels per feature pixel; 1 for the image itself.
        height, width: where they are fixed (RoI features), else None.
    """

    channels: int
    stride: int = 1
    height: int | None = None
    width: int | None = None


def choose_features(
    input_shape: dict[str, ShapeSpec], names: tuple[str, ...] | None, option: str
) -> dict[str, ShapeSpec]:
    """The entries of ``input_shape`` that ``names`` lists (None: all). Raises ValueError for one that is not there."""
    missing = [n for n in names or () if n not in input_shape]
    if missing:
        raise ValueError(f"{option}: no feature named {', '.join(missing)}; there are {', '.join(input_shape)}")
    return {name: input_shape[name] for name in (input_shape if names is None else names)}


def numbered(names: Iterable[str]) -> list[str]:
    """The names, those that stand before already with a number: ``res5, res5`` gives ``res5, res5_2``."""
    counts: Counter[str] = Counter()
    unique = []
    for name in names:
        counts[name] += 1
        unique.append(name if counts[name] == 1 else f"{name}_{counts[name]}")
    return unique


def same_pad(x: Tensor, kernel_size: int, stride: int, value: float = 0.0) -> Tensor:
    """Pads a map so that a kernel without padding of its own gives ``ceil(size / stride)`` cells.

    As few pixels as that takes, half of them at each side; an odd one goes to the right and to the bottom. A kernel
    of 3 and stride 2 so pads a map of even sides there alone, where ``padding=1`` pads it all around.

    Args:
        x: ``(N, C, H, W)``.
        kernel_size: of the kernel that follows.
        stride: of the kernel that follows.
        value: what the padding holds.

    Raises:
        ValueError: a kernel or a stride below 1.
    """
    if kernel_size < 1 or stride < 1:
        raise ValueError(f"same_pad: expected a kernel and a stride of at least 1, got {kernel_size} and {stride}")
    padding: list[int] = []
    for side in (x.shape[-1], x.shape[-2]):
        total = max((side - 1) // stride * stride + kernel_size - side, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding, value=value) if any(padding) else x


class SamePad2d(nn.Module):
    """``same_pad`` as a module, to stand before a convolution or a pooling without padding.

    Args:
        kernel_size: of the kernel that follows.
        stride: of the kernel that follows.
    """

    def __init__(self, kernel_size: int, stride: int):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> the same with zeros around."""
        return same_pad(x, self.kernel_size, self.stride)

    def extra_repr(self) -> str:
        """Kernel and stride, for ``print(model)``."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}"
