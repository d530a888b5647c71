"""BoxMasks: bitmaps of which only a window around each object is kept."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from detkit.structures.bit_masks import BitMasks
from detkit.structures.boxes import Boxes
from detkit.structures.runs import Runs
from detkit.structures.transforms import Region


class BoxMasks(BitMasks):
    """``(N, H, W)`` bool masks of one image, each kept in a window of it alone; ``BitMasks`` in all they do.

    Rows, areas, tight boxes and RLE come from the windows, so they cost what the windows' area costs, whatever the
    image's is. What looks at whole bitmaps (``tensor``, any torch operator, ``numpy``) has them laid out, once; from
    then on they are what counts, also where they are edited. ``of`` makes them.

    Args:
        bits: bool, the bitmaps of all windows one after the other, each column by column.
        windows: ``(N, 4)`` int64 on the host: x1, y1, x2, y2 in whole pixels, within the image.
        image_size: ``(height, width)``.

    Raises:
        ValueError: the bits do not fill the windows.
    """

    bits: Tensor
    windows: Tensor

    def __new__(cls, bits: Tensor, windows: Tensor, image_size: tuple[int, int]) -> "BoxMasks":  # type: ignore[misc]
        sides = windows[:, 2:] - windows[:, :2]
        if len(bits) != int(sides.prod(1).sum()):
            raise ValueError(f"BoxMasks: {len(bits)} bits do not fill windows of {int(sides.prod(1).sum())} pixels")
        size = (len(windows), int(image_size[0]), int(image_size[1]))
        made = Tensor._make_wrapper_subclass(cls, size, dtype=torch.bool, device=bits.device)  # type: ignore[attr-defined]
        made.bits = bits if bits.dtype == torch.bool else bits != 0
        made.windows = windows
        return made

    @staticmethod
    def of(
        bitmaps: Sequence[Tensor], windows: Sequence[Region], image_size: tuple[int, int], device: torch.device
    ) -> "BoxMasks":
        """From N bitmaps ``(h, w)`` bool on ``device`` and the windows ``(x1, y1, x2, y2)`` that they fill."""
        bits = torch.empty(sum(bitmap.numel() for bitmap in bitmaps), dtype=torch.bool, device=device)
        for place, bitmap in zip(bits.split([bitmap.numel() for bitmap in bitmaps]), bitmaps):
            place.view(bitmap.shape[::-1]).copy_(bitmap.t())
        return BoxMasks(bits, torch.tensor(windows, dtype=torch.int64).reshape(-1, 4), image_size)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map(lambda x: x.tensor if isinstance(x, BoxMasks) else x, (args, kwargs or {}))
        return func(*args, **kwargs)

    @property
    def tensor(self) -> Tensor:
        """The whole bitmaps as a plain tensor."""
        return self._laid_out

    @cached_property
    def _laid_out(self) -> Tensor:
        out = torch.zeros(self.shape, dtype=torch.bool, device=self.device)
        for canvas, bitmap, (x1, y1, x2, y2) in zip(out, self.parts(), self.windows.tolist()):
            canvas[y1:y2, x1:x2] = bitmap
        return out

    @property
    def _whole(self) -> bool:
        """Whether the bitmaps have been laid out, so that somebody may have edited them."""
        return "_laid_out" in self.__dict__

    def parts(self) -> list[Tensor]:
        """The N bitmaps ``(h, w)`` of the windows."""
        sides = (self.windows[:, 2:] - self.windows[:, :2]).tolist()
        return [part.view(w, h).t() for part, (w, h) in zip(self.bits.split([w * h for w, h in sides]), sides)]

    def __getitem__(self, item: Any) -> Any:
        if self._whole or isinstance(item, int | tuple):
            return super().__getitem__(item)
        rows = torch.arange(len(self))[item.cpu() if isinstance(item, Tensor) else item]
        if rows.ndim != 1:
            return super().__getitem__(item)
        sizes = (self.windows[:, 2:] - self.windows[:, :2]).prod(1)
        pieces = self.bits.split(sizes.tolist())
        bits = torch.cat([self.bits[:0], *(pieces[row] for row in rows.tolist())])
        return BoxMasks(bits, self.windows[rows], self.image_size)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"BoxMasks(num={len(self)}, image_size={self.image_size})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "BitMasks":
        if self._whole:
            return BitMasks(self.tensor.clone())
        return BoxMasks(self.bits.clone(), self.windows.clone(), self.image_size)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._whole:
            return BitMasks, (self.tensor,)
        return BoxMasks, (self.bits, self.windows, self.image_size)

    def to(self, *args: Any, **kwargs: Any) -> "BitMasks":  # type: ignore[override]
        """As ``Tensor.to``; masks stay bool."""
        if self._whole:
            return super().to(*args, **kwargs)
        return BoxMasks(self.bits.to(*args, **kwargs), self.windows, self.image_size)

    def pin_memory(self, *args: Any, **kwargs: Any) -> "BitMasks":  # type: ignore[override]
        """The same in page-locked memory."""
        if self._whole:
            return BitMasks(self.tensor.pin_memory())
        return BoxMasks(self.bits.pin_memory(), self.windows, self.image_size)

    def as_subclass(self, cls: Any) -> Any:
        """The whole bitmaps as that kind of tensor."""
        return self.tensor.as_subclass(cls)

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The whole bitmaps as an array."""
        return self.tensor.numpy(force=force)

    def tolist(self) -> Any:
        """The whole bitmaps as lists."""
        return self.tensor.tolist()

    def bitmaps(self) -> "BitMasks":
        """The whole bitmaps."""
        return BitMasks(self.tensor)

    def boxes(self) -> Boxes:
        """Tight boxes on the masks' device; an empty mask gives (0, 0, 0, 0)."""
        return super().boxes() if self._whole else Boxes(torch.from_numpy(self._runs().boxes()).to(self.device))

    def areas(self) -> Tensor:
        """``(N,)`` float32 numbers of pixels."""
        return super().areas() if self._whole else torch.from_numpy(self._runs().areas()).to(self.device)

    def rle(self) -> list[dict[str, Any]]:
        """COCO compressed RLE, counts as str."""
        return super().rle() if self._whole else self._runs().rle()

    def _runs(self) -> Runs:
        return Runs.of(self.bits.cpu().numpy(), self.windows.numpy(), self.image_size)

    @staticmethod
    def cat(parts: "Sequence[BitMasks]") -> "BitMasks":
        """All masks of ``parts``, in order. Raises ValueError if they differ in size or there are none."""
        sizes = {part.image_size for part in parts}
        if len(sizes) != 1 or not all(isinstance(part, BoxMasks) and not part._whole for part in parts):
            return BitMasks.cat(parts)
        boxed = [part for part in parts if isinstance(part, BoxMasks)]
        bits, windows = torch.cat([part.bits for part in boxed]), torch.cat([part.windows for part in boxed])
        return BoxMasks(bits, windows, boxed[0].image_size)
