"""TiledModel: a model that looks at large images tile by tile."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from detkit.data import Augmentation, bare_record, to_sample
from detkit.structures import CroppedMasks, ImageInfo, Prediction, Sample, Tile, Tiling
from detkit.utils.distributed import is_main
from detkit.utils.progress import watched
from detkit.views.merging import merge_tiles

AnyTiling = Tiling | int | tuple[int, int]


class TiledModel(nn.Module):
    """Predicts overlapping tiles of each image, and gives what they show as the prediction of the image.

    An object comes out once, wherever the tiles' borders run (see ``merge_tiles``); a pixel of a semantic map is that
    of the tile which shows most around it, and a panoptic map is made of both by the model's ``merge``. One batch of
    tiles is on the device at a time, and masks are kept inside their boxes.

    Args:
        model: a meta-architecture, in evaluation mode. What it knows of its classes is known here.
        tiling: the tiles; or their size in pixels, one or height and width.
        augmentations: those of test images, which are applied to each tile as to an image by itself: a resize to 800
            pixels enlarges tiles of 512.
        batch_size: tiles a forward pass.
    """

    def __init__(
        self, model: nn.Module, tiling: AnyTiling, *, augmentations: Sequence[Augmentation] = (), batch_size: int = 4
    ):
        super().__init__()
        self.model, self.tiling = model, tiling if isinstance(tiling, Tiling) else Tiling(size=tiling)
        self.augmentations, self.batch_size = tuple(augmentations), batch_size
        self.class_names = getattr(model, "class_names", None)
        self.category_ids = getattr(model, "category_ids", None)

    def forward(self, samples: list[Sample]) -> list[Prediction]:
        """One ``Prediction`` an image, on the CPU.

        Raises:
            ValueError: an image is not as it is in its file.
        """
        for sample in samples:
            check_unchanged(sample, "tiles are cut from", self)
        tiles_per_image = [self.tiling.tiles(sample.original_size) for sample in samples]
        jobs = [(number, tile) for number, own in enumerate(tiles_per_image) for tile in own]
        found: list[list[Prediction]] = [[] for _ in samples]
        batches = [jobs[i : i + self.batch_size] for i in range(0, len(jobs), self.batch_size)]
        for batch in watched(batches, "tiles", show=is_main(), unit="batch", delay=2.0):
            for (number, tile), prediction in zip(batch, self.model([self._view(samples[n], t) for n, t in batch])):
                found[number].append(_placed(prediction.to("cpu"), tile))
        return [self._whole(parts, tiles) for parts, tiles in zip(found, tiles_per_image)]

    def _view(self, sample: Sample, tile: Tile) -> Sample:
        x1, y1, x2, y2 = tile.region
        pixels = np.ascontiguousarray(sample.image[:, y1:y2, x1:x2].permute(1, 2, 0).cpu().numpy())
        return augmented(pixels, sample.file_name, self.augmentations)

    def _whole(self, parts: Sequence[Prediction], tiles: Sequence[Tile]) -> Prediction:
        found = [part.instances for part in parts if part.instances is not None]
        maps = [part.semantic for part in parts if part.semantic is not None]
        instances = merge_tiles(found, [tile.region for tile in tiles]) if found else None
        semantic = _stitched(maps, tiles) if maps else None
        merge: Any = getattr(self.model, "merge", None)
        is_panoptic = instances is not None and semantic is not None and parts[0].panoptic is not None
        panoptic = merge(instances, semantic) if is_panoptic and merge is not None else None
        return Prediction(instances, semantic, panoptic, num_cut=sum(part.num_cut for part in parts))


def check_unchanged(sample: Sample, purpose: str, model: nn.Module) -> None:
    """Raises ValueError for an image that is not as it is in its file, which ``model`` needs for its ``purpose``."""
    size, given = tuple(sample.original_size), tuple(sample.image.shape[-2:])
    if size != given:
        raise ValueError(
            f"{sample.file_name or sample.image_id}: {purpose} images as they are in their files, and one of {size} has"
            f" come as {given}; give the augmentations to {type(model).__name__}"
        )


def augmented(pixels: np.ndarray, file_name: str, augmentations: Sequence[Augmentation]) -> Sample:
    """An image ``(H, W, C)`` as a model takes it at prediction: after its augmentations, without a target."""
    record, rng = bare_record(pixels, file_name), np.random.default_rng(0)
    for augmentation in augmentations:
        record = augmentation(record, rng)
    return dataclasses.replace(to_sample(record), target=None)


def _placed(prediction: Prediction, tile: Tile) -> Prediction:
    """A tile's prediction with its instances where they are in the image."""
    found = prediction.instances
    if found is None:
        return prediction
    if "masks" in found:
        found = found.with_fields(masks=CroppedMasks.around(found.masks))
    return dataclasses.replace(prediction, instances=found.transform(tile.crop.inverse()).with_info(ImageInfo()))


def _stitched(maps: Sequence[Tensor], tiles: Sequence[Tile]) -> Tensor:
    whole = maps[0].new_zeros(tiles[0].crop.input_size)
    for values, tile in zip(maps, tiles):
        (x1, y1, x2, y2), (left, top, _, _) = tile.core, tile.region
        whole[y1:y2, x1:x2] = values[y1 - top : y2 - top, x1 - left : x2 - left]
    return whole
