"""3 x 3 convolutions of large maps in half the multiplications."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SPAN, OUTPUTS = 6, 4
"""F(4, 3): four neighbouring outputs of a filter of three taps, from six inputs by six products instead of twelve."""
FILTER = (
    (1 / 4, 0.0, 0.0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0.0, 0.0, 1.0),
)
"""G of the paper: filter taps to the six factors."""
COLUMNS_AT_ONCE = 400
"""Groups of outputs worked on together: what is made of them stays in the cache, and fills a matrix product."""
MIN_CHANNELS, MIN_PIXELS = 128, 4096
"""From so many channels, in and out, and pixels of a map on it saves more than the transforms cost (oneDNN, two cores
with AVX-512: a quarter of the time of a large map of 256 channels, nothing of one of 50 x 50)."""


class RowWinograd:
    """A 3 x 3 convolution, stride 1 and padding 1, by Winograd's algorithm along the rows.

    Lavin and Gray 2016, "Fast algorithms for convolutional neural networks", in one dimension: F(4, 3) along a row, and
    a plain sum over the filter's three rows. That halves the multiplications. The two-dimensional forms save more of
    them, but write a map several times over for it, and round more; here rounding is of the size of a direct
    convolution's, a few millionths.

    Args:
        conv: one that ``takes`` accepts.
    """

    def __init__(self, conv: nn.Conv2d):
        self._weight: Tensor | None = conv.weight.detach()
        self._factors: Tensor | None = None
        self.bias = None if conv.bias is None else conv.bias.detach()

    @staticmethod
    def takes(conv: nn.Conv2d) -> bool:
        """Whether it is such a convolution, and wide enough to be faster this way."""
        shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
        wide = min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS
        return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and wide

    @staticmethod
    def pays_for(x: Tensor) -> bool:
        """Whether a map is large enough to be faster this way."""
        return x.shape[-2] * x.shape[-1] >= MIN_PIXELS

    @property
    def factors(self) -> Tensor:
        """``(3, 6, C, K)``; made, in double precision, when a map is large enough for the first time."""
        weight, factors = self._weight, self._factors  # in this order: another thread may be making them, and sets
        if factors is None:  # them before it drops the weight
            assert weight is not None, "the weight is there until the factors are"
            filters = weight.new_tensor(FILTER, dtype=torch.float64)
            factors = torch.einsum("ft,kcyt->yfck", filters, weight.double()).float().contiguous()
            self._factors, self._weight = factors, None
        return factors

    @torch.no_grad()
    def __call__(self, x: Tensor, relu: bool) -> Tensor:
        """``(N, C, H, W)`` float32 -> ``(N, K, H, W)`` in channels-last layout, with ReLU if asked for."""
        images, channels, height, width = x.shape
        groups, out_channels = -(-width // OUTPUTS), self.factors.shape[-1]
        rows = min(height, max(4, COLUMNS_AT_ONCE // groups))
        result = x.new_empty((images, height, groups * OUTPUTS, out_channels))
        padded = x.new_zeros((rows + 2, groups * OUTPUTS + 2, channels))
        terms = x.new_empty((SPAN, rows + 2, groups, channels))
        scratch = x.new_empty((2, rows + 2, groups, channels))
        products = x.new_empty((SPAN, rows, groups, out_channels))
        sums = x.new_empty((4, rows, groups, out_channels))
        for image, target in zip(x.permute(0, 2, 3, 1), result):
            for top in range(0, height, rows):
                n = min(rows, height - top)
                band, band_terms, band_products = padded[: n + 2], terms[:, : n + 2], products[:, :n]
                _rows_around(image, top, band[:, 1 : width + 1])
                inputs = [band[:, i : i + OUTPUTS * (groups - 1) + 1 : OUTPUTS] for i in range(SPAN)]
                _input_terms(inputs, band_terms, *scratch[:, : n + 2])
                into = band_products.reshape(SPAN, n * groups, out_channels)
                for row, factors in enumerate(self.factors):
                    rows_seen = band_terms[:, row : row + n].reshape(SPAN, n * groups, channels)
                    torch.baddbmm(into, rows_seen, factors, beta=min(row, 1), out=into)
                if self.bias is not None:
                    band_products[1] += self.bias  # which reaches all four outputs
                band = target[top : top + n]
                _outputs(band_products, band.view(n, groups, OUTPUTS, out_channels).unbind(2), *sums[:, :n])
                if relu:
                    band.relu_()
        return result[:, :, :width].permute(0, 3, 1, 2)


def _rows_around(image: Tensor, top: int, band: Tensor) -> None:
    """Rows ``top - 1`` and on of an image (H, W, C) into a band; zeros where there are none."""
    first, last = max(top - 1, 0), min(top - 1 + len(band), len(image))
    band[first - top + 1 : last - top + 1] = image[first:last]
    band[: first - top + 1] = 0.0
    band[last - top + 1 :] = 0.0


def _input_terms(x: Sequence[Tensor], out: Tensor, a: Tensor, b: Tensor) -> None:
    """The paper's B^T: six inputs to six terms."""
    torch.add(x[4], x[2], alpha=-5, out=out[0]).add_(x[0], alpha=4)
    torch.add(x[4], x[2], alpha=-4, out=a)
    torch.add(x[3], x[1], alpha=-4, out=b)
    torch.add(a, b, out=out[1])
    torch.sub(a, b, out=out[2])
    torch.sub(x[4], x[2], out=a)
    torch.sub(x[3], x[1], out=b)
    torch.add(a, b, alpha=2, out=out[3])
    torch.add(a, b, alpha=-2, out=out[4])
    torch.add(x[5], x[3], alpha=-5, out=out[5]).add_(x[1], alpha=4)


def _outputs(m: Tensor, out: Sequence[Tensor], a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> None:
    """The paper's A^T: six products to four outputs."""
    torch.add(m[1], m[2], out=a)
    torch.sub(m[1], m[2], out=b)
    torch.add(m[3], m[4], out=c)
    torch.sub(m[3], m[4], out=d)
    torch.add(a, c, out=out[0]).add_(m[0])
    torch.add(b, d, alpha=2, out=out[1])
    torch.add(a, c, alpha=4, out=out[2])
    torch.add(b, d, alpha=8, out=out[3]).add_(m[5])
