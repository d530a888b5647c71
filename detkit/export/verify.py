"""Is a program the model that it was made of? Outputs, AP and time of both on the same images."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from detkit.export.program import ProgramModel
from detkit.modeling.meta_archs.features import FeatureModel, Outputs
from detkit.structures import ImageList, Instances, Keypoints, Sample

SAME_OBJECT = 0.9
"""IoU from which a detection of the program is that of the model, of the same class."""
LIMITS = {"boxes": 0.01, "scores": 1e-4, "mask_probs": 1e-3, "keypoints": 0.01}
"""By how much an fp32 program may differ: pixels of the input, and probabilities."""
OTHER_LIMIT = 1e-3
"""The same of other outputs, such as logits of semantic maps: share of the largest value, or of 1."""
SHARES = {"keypoints": 0.002}
"""Of values that may differ by more: a keypoint is the best cell of a map, of which two may be equal to rounding."""
AP_LIMITS = {"fp32": 0.001, "fp16": 0.002, "bf16": 0.002, "int8": 0.01}
"""By how much a program's AP may be below the model's."""
UNMATCHED_SHARE = 0.002
"""Of fp32 detections that only one of both has: where two scores or overlaps are equal to rounding."""


@dataclasses.dataclass
class Differences:
    """What two models say of the same images.

    Attributes:
        images: how many.
        detections: of the model.
        unmatched: that only one of both has.
        largest: of each output, among detections that both have; inf where a value of either is no finite number.
        beyond: of each output: values that differ by more than its limit, and values.
        seconds: an image, of the model and of the program: median.
    """

    images: int = 0
    detections: int = 0
    unmatched: int = 0
    largest: dict[str, float] = dataclasses.field(default_factory=dict)
    beyond: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def add(self, expected: Instances, found: Instances) -> None:
        """An image's detections, as the heads give them."""
        rows, columns = matched(expected, found)
        self.detections += len(expected)
        self.unmatched += len(expected) + len(found) - 2 * len(rows)
        for name, values in expected.fields.items():
            mine, others = (_plain(v) for v in (values[rows], found.fields[name][columns]))
            self.see(name, mine, others)

    def see(self, name: str, expected: Tensor, found: Tensor) -> None:
        """An output of both."""
        if not expected.numel():
            return
        mine, other = expected.float(), found.float()
        errors = (mine - other).abs().masked_fill(mine == other, 0.0).nan_to_num(nan=math.inf, posinf=math.inf)
        if name not in LIMITS:
            errors /= mine.nan_to_num(0.0, 0.0, 0.0).abs().max().clamp(min=1.0)
        self.largest[name] = max(self.largest.get(name, 0.0), errors.max().item())
        beyond, number = self.beyond.get(name, (0, 0))
        above = int((errors > LIMITS.get(name, OTHER_LIMIT)).sum())
        self.beyond[name] = beyond + above, number + errors.numel()

    def problems(self, precision: str) -> list[str]:
        """Why the program is not the model, in words; [] where it is, as far as its precision lets it."""
        found = [f"{name} have values that are no numbers" for name, value in self.largest.items() if value == math.inf]
        if precision != "fp32":
            return found
        found += [
            f"{name} differ by {self.largest[name]:.2g}, more than {LIMITS.get(name, OTHER_LIMIT):g}"
            for name, (beyond, number) in self.beyond.items()
            if beyond > math.ceil(SHARES.get(name, 0.0) * number) and self.largest[name] < math.inf
        ]
        none_matched = self.unmatched > 0 and "boxes" not in self.largest
        if self.unmatched > max(2.0, UNMATCHED_SHARE * self.detections) or (none_matched and self.detections):
            found.append(f"{self.unmatched} of {self.detections} detections are of one of both alone")
        return found


def matched(expected: Instances, found: Instances) -> tuple[Tensor, Tensor]:
    """Rows of both that are the same object: by class and overlap, each once, in the order of scores."""
    boxes, others = expected.boxes.tensor, found.boxes.tensor
    rows, columns, free = [], [], torch.ones(len(found), dtype=torch.bool)
    overlaps = box_iou(boxes, others)
    overlaps[expected.classes[:, None] != found.classes] = 0.0
    closest = -(expected.scores[:, None] - found.scores).abs()
    for row in range(len(expected)):
        candidates = torch.nonzero((overlaps[row] >= SAME_OBJECT) & free)[:, 0]
        if len(candidates):
            best = int(candidates[closest[row, candidates].argmax()])
            rows.append(row)
            columns.append(best)
            free[best] = False
    return torch.tensor(rows, dtype=torch.long), torch.tensor(columns, dtype=torch.long)


def compared(model: FeatureModel, program: ProgramModel, batches: Iterable[list[Sample]]) -> Differences:
    """What both say of the images, and how long each takes for it.

    Both get the batch as the program pads it, because padding alone changes what a network says near a border.
    """
    differences, seconds = Differences(), {"model": list[float](), "program": list[float]()}

    def timed(name: str, function: Callable[[ImageList], Outputs], images: ImageList) -> Outputs:
        start = time.perf_counter()
        outputs = function(images)
        seconds[name].append((time.perf_counter() - start) / len(images))
        return outputs

    with torch.no_grad():
        for batch in batches:
            images = program.padded(model.preprocess(batch))
            expected = timed("model", lambda given: model.outputs(given, model.features(given)), images)
            found = timed("program", program.outputs, images)
            differences.images += len(images)
            for pair in zip(expected.instances or [], found.instances or [], strict=True):
                differences.add(*pair)
            if expected.semantic is not None and found.semantic is not None:
                differences.see("semantic", expected.semantic, found.semantic)
    differences.seconds = {name: statistics.median(values) for name, values in seconds.items() if values}
    return differences


def metric_drops(expected: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """``task/AP`` and the like -> the model's and the program's value."""
    return {
        f"{task}/{name}": (float(values[name]), float(found[task][name]))
        for task, values in expected.items()
        if isinstance(values, Mapping) and task in found
        for name in ("AP", "PQ", "mIoU")
        if isinstance(values.get(name), int | float) and math.isfinite(values[name])
    }


def _plain(values: Any) -> Tensor:
    if isinstance(values, Keypoints):
        return values.tensor[..., :2]
    return torch.as_tensor(values).as_subclass(Tensor)
