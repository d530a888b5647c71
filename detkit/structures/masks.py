"""Masks: the shapes of N objects, as bitmaps, as polygons or as bitmaps inside their boxes."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from detkit.structures.bit_masks import BitMasks
from detkit.structures.boxes import Boxes
from detkit.structures.mask_crops import CropMethod
from detkit.structures.transforms import Transform


@runtime_checkable
class Masks(Protocol):
    """N masks of one image of ``image_size`` (height, width)."""

    @property
    def image_size(self) -> tuple[int, int]:
        """``(height, width)``."""

    def __len__(self) -> int: ...

    def __getitem__(self, item: Any) -> Any:
        """Rows by slice, index tensor/array or bool mask, as the same type; one object's shape by an int."""

    def to(self, *args: Any, **kwargs: Any) -> "Masks":
        """On another device; polygons stay on the CPU."""

    def bitmaps(self) -> BitMasks:
        """As bitmaps, rasterised by COCO's rule (pycocotools)."""

    def boxes(self) -> Boxes:
        """Tight boxes; an empty mask gives (0, 0, 0, 0)."""

    def areas(self) -> Tensor:
        """``(N,)`` areas in square pixels."""

    def rle(self) -> list[dict[str, Any]]:
        """COCO compressed RLE, counts as str."""

    def transform(self, transform: Transform) -> "Masks":
        """The masks where the transform takes them; beyond the image there is no object."""

    def covered(self, hidden: Tensor) -> "Masks":
        """What is visible of the masks behind something that hides ``(H, W)`` pixels."""

    def nonempty(self) -> Tensor:
        """``(N,)`` bool: something of the mask is there."""

    def crop_and_resize(self, boxes: Boxes, size: int, method: CropMethod = "roi_align", binary: bool = True) -> Tensor:
        """``(N, size, size)`` on the boxes' device: mask i inside box i, resampled by ``method`` (mask targets).

        Bool where ``binary``, from one half on; else float32, 0..1.
        """
