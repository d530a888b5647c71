"""A deformable convolution with its norm and activation."""

from torch import Tensor
from torchvision.ops import deform_conv2d

from detkit.layers.conv import ConvNorm


class DeformConvNorm(ConvNorm):
    """``ConvNorm`` whose taps are moved, each by its own offset at each place (Dai et al. 2017, arXiv:1703.06211).

    With a mask each tap is weighted too (Zhu et al. 2018, arXiv:1811.11168). Offsets of zero and a mask of one make it
    a ``ConvNorm``; options and weights are the same. K is the number of taps, G of groups of channels that share their
    offsets (as many as the offsets' channels say).
    """

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """A map and its offsets -> ``(N, out_channels, H', W')``.

        Args:
            x: ``(N, C, H, W)``.
            offset: ``(N, 2GK, H', W')`` pixels of ``x``, for each group and tap down and to the right.
            mask: ``(N, GK, H', W')``.
        """
        return self.finish(
            x,
            lambda weight, bias: deform_conv2d(
                x,
                offset,
                weight,
                bias,
                self.stride,
                self.padding,
                self.dilation,
                mask,  # type: ignore[arg-type]
            ),
        )
