"""Which annotation makes a batch fail: problems that show in the targets, and trying parts of the batch."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detkit.structures import Instances, Losses, PolygonMasks, Sample
from detkit.utils import set_rng_state
from detkit.utils.sharding import local_shard

Forward = Callable[[list[Sample], nn.Module], Losses]
"""The losses of a batch (on the CPU) by a model in training mode, as a training step computes them."""

MAX_TRIES = 120
"""Forward passes that a search may take: enough for a thousand annotations in an image."""
MAX_SUSPECTS = 5
"""A search ends when it has named this many in an image."""
MIN_SIDE = 1e-5
"""Pixels; the logarithm of a thinner box's side is lost in float32."""
_FEW = 20


def image_name(sample: Sample) -> str:
    """The sample's file, or its id where it has none."""
    return sample.file_name or str(sample.image_id)


def annotation_name(sample: Sample, row: int) -> str:
    """``annotation 12 of a.png``; by its place in the target where the data give no ids."""
    target = sample.target
    if target is None or "annotation_ids" not in target:
        return f"object {row} (counted from 0) of {image_name(sample)}"
    return f"annotation {int(target.annotation_ids[row])} of {image_name(sample)}"


def batch_names(samples: Sequence[Sample], most: int = _FEW) -> str:
    """The files of a batch with the ids of their annotations, at most ``most`` an image."""
    names = []
    for sample in samples:
        names.append(image_name(sample))
        if sample.target is not None and "annotation_ids" in sample.target:
            ids = sample.target.annotation_ids.tolist()
            more = f", ... {len(ids)} in all" if len(ids) > most else ""
            names[-1] += f" (annotations {', '.join(map(str, ids[:most]))}{more})" if ids else " (no annotations)"
    return ", ".join(names) or "unnamed samples"


def not_finite(named: Iterable[tuple[str, Tensor | None]]) -> list[str]:
    """The names of tensors (of this process's shards of them) that hold something that is not finite."""
    return [name for name, tensor in named if tensor is not None and not torch.isfinite(local_shard(tensor)).all()]


@torch.no_grad()
def set_buffers(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copies values into the model's buffers of these names."""
    for name, buffer in model.named_buffers():
        if name in values:
            buffer.copy_(values[name])


def target_problems(samples: Sequence[Sample], num_classes: int | None = None) -> list[str]:
    """What is wrong with targets by themselves, a sentence an annotation: boxes that are not finite, without area or
    outside the image, unknown classes, masks without pixels or with points that are not finite.

    Args:
        samples: the batch.
        num_classes: K; None: classes are only looked at for negative numbers.
    """
    return [
        f"{annotation_name(sample, row)}: {words}"
        for sample in samples
        if sample.target is not None
        for row, words in _problems(sample.target, num_classes)
    ]


def _problems(target: Instances, num_classes: int | None) -> Iterator[tuple[int, str]]:
    for row, box in enumerate(target.boxes.tolist() if "boxes" in target else []):
        words = _box_problem(box, target.image_size)
        if words:
            yield row, f"its box ({', '.join(f'{side:g}' for side in box)}) {words}"
    for row, label in enumerate(target.classes.tolist() if "classes" in target else []):
        if label < 0 or (num_classes is not None and label >= num_classes):
            known = "0 or more" if num_classes is None else f"0 to {num_classes - 1}"
            yield row, f"its class is {label}; expected {known}"
    if "masks" in target:
        for row, area in enumerate(target.masks.areas().tolist()):
            if isinstance(target.masks, PolygonMasks) and not all(np.isfinite(p).all() for p in target.masks[row]):
                yield row, "its polygons have points that are not finite"
            elif not area > 0:
                yield row, "its mask has no pixel"


def _box_problem(box: Sequence[float], image_size: tuple[int, int]) -> str:
    """What is wrong with a box; "" for nothing."""
    (x1, y1, x2, y2), (height, width) = box, image_size
    if not np.isfinite(box).all():
        return "is not finite"
    if x2 - x1 <= MIN_SIDE or y2 - y1 <= MIN_SIDE:
        return "has no area"
    outside = x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height
    return f"lies outside the image of {width} x {height} pixels" if outside else ""


@dataclasses.dataclass
class _Search:
    """Tries samples of a batch; answers no when it has tried often enough."""

    fails: Callable[[list[Sample]], bool]
    left: int = MAX_TRIES

    def __call__(self, samples: list[Sample]) -> bool:
        self.left -= 1
        return self.left >= 0 and self.fails(samples)


def is_not_finite(
    samples: list[Sample], *, forward: Forward, model: nn.Module, rng: Mapping[str, Any], in_loss: bool
) -> bool:
    """Whether the loss of these samples (``in_loss``), or else a gradient of it, is not finite, from a random state."""
    set_rng_state(rng)
    with torch.set_grad_enabled(not in_loss):
        total = forward(samples, model).total()
    if in_loss or not total.requires_grad:
        return not math.isfinite(total.item())
    model.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    bad = not_finite((name, p.grad) for name, p in model.named_parameters())
    model.zero_grad(set_to_none=True)
    return bool(bad)


def find_suspects(fails: Callable[[list[Sample]], bool], samples: Sequence[Sample]) -> list[str]:
    """Looks for the images, and in them for the annotations, without which a batch does not fail, by halving.

    Args:
        fails: whether these samples fail; it must draw the same random numbers each time.
        samples: a batch that fails.

    Returns:
        What it leads to, a sentence each. A search that is too long (``MAX_TRIES``) says less.
    """
    search = _Search(fails)
    if not search(list(samples)):
        return ["run again from the same state, the batch does not fail: what fails is not a function of it alone"]
    failing = [sample for sample in samples if search([sample])]
    if not failing:
        return ["each image alone does not fail, only the batch together"] if len(samples) > 1 else []
    return [sentence for sample in failing for sentence in _in_image(search, sample)]


def _in_image(search: _Search, sample: Sample) -> list[str]:
    name = image_name(sample)
    rows = torch.arange(0 if sample.target is None else len(sample.target))
    if search([_only(sample, rows[:0])]):
        return [f"{name} fails even without its objects: look at its pixels, the weights and the learning rate"]
    sentences: list[str] = []
    while len(rows) and search.left > 0 and len(sentences) < MAX_SUSPECTS and search([_only(sample, rows)]):
        suspect = _narrowed(search, sample, rows)
        words = " together with ".join(annotation_name(sample, int(row)) for row in suspect[:_FEW])
        sentences.append(f"{words}: fails with no other object in the image")
        rows = rows[~torch.isin(rows, suspect)]
    if sentences and search.left > 0 and not (len(rows) and search([_only(sample, rows)])):
        sentences.append(f"{name} does not fail without what was named")
    return sentences


def _narrowed(search: _Search, sample: Sample, rows: Tensor) -> Tensor:
    """The smallest part of the rows that halving leads to and that still fails."""
    while len(rows) > 1:
        half = len(rows) // 2
        for part in (rows[:half], rows[half:]):
            if search([_only(sample, part)]):
                rows = part
                break
        else:
            break
    return rows


def _only(sample: Sample, rows: Tensor) -> Sample:
    return sample if sample.target is None else dataclasses.replace(sample, target=sample.target[rows])
