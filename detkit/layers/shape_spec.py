"""ShapeSpec: what the builder of the next part needs to know of a feature map."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ShapeSpec:
    """A feature map's (or an RoI feature's) shape.

    Args:
        channels: number of channels.
        stride: input pixels per feature pixel; 1 for the image itself.
        height, width: where they are fixed (RoI features), else None.
    """

    channels: int
    stride: int = 1
    height: int | None = None
    width: int | None = None
