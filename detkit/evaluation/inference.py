"""The evaluation loop: a model predicts a test set, and evaluators take the predictions."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detkit.evaluation.interfaces import Evaluator, check_result_names
from detkit.structures import Prediction, Sample
from detkit.utils.distributed import all_gather_object, is_main, rank, share_buffers
from detkit.utils.paths import atomic_write
from detkit.utils.progress import watched
from detkit.utils.sharding import gathered
from detkit.utils.words import amount

logger = logging.getLogger(__name__)

Pair = tuple[Sample, Prediction]
"""What a model was given, and what it predicted."""

OnBatch = Callable[[list[Sample], list[Prediction]], None]


class FirstPredictions:
    """Keeps the first predictions of an evaluation, for pictures. Pass it to ``evaluate`` as ``on_batch``.

    Every evaluation starts empty, so after several the predictions are those of the last. They are of the same images
    each time, because a test set is gone through in order.

    Args:
        num: how many images to keep.

    Attributes:
        pairs: the kept samples (with their targets) and predictions, on the CPU; of this process's share.
        evaluations: how many have begun.
    """

    def __init__(self, num: int):
        self.num = num
        self.pairs: list[Pair] = []
        self.evaluations = 0

    def reset(self) -> None:
        """Forgets what was kept: an evaluation begins."""
        self.pairs = []
        self.evaluations += 1

    def __call__(self, samples: list[Sample], predictions: list[Prediction]) -> None:
        """Keeps the first ``num`` of them."""
        for sample, prediction in list(zip(samples, predictions))[: self.num - len(self.pairs)]:
            self.pairs.append((sample.to("cpu"), prediction.to("cpu")))

    def gathered(self) -> list[Pair]:
        """The first ``num`` pairs of the whole test set, on all ranks; all must call it.

        The ranks' shares follow one another in the test set, so these are the same images for any number of ranks."""
        counts = all_gather_object(len(self.pairs))
        before = sum(counts[: rank()])
        shares = all_gather_object(self.pairs[: max(0, self.num - before)])
        return [pair for share in shares for pair in share]


def evaluate(
    model: nn.Module,
    batches: Iterable[list[Sample]],
    evaluators: Sequence[Evaluator],
    *,
    progress: bool = True,
    on_batch: OnBatch | None = None,
) -> dict[str, Any]:
    """Predicts every batch and returns what the evaluators make of it.

    The model predicts in evaluation mode, without gradients, and gets back the mode it had. With several processes
    each gives its own batches and all must call; the metrics are of all of them together, and of rank 0's buffers.

    Args:
        model: a meta-architecture, on any device.
        batches: the test set, once.
        evaluators: are reset first.
        progress: progress with the time left, on rank 0: a bar in a terminal, else log lines.
        on_batch: called with every batch's samples and predictions, e.g. a ``FirstPredictions``.

    Returns:
        On rank 0 the evaluators' results in one dict, and ``timing``: ``images``, ``seconds`` (of the loop, data
        loading included), ``model_seconds`` and ``images_per_second``. {} on other ranks.

    Raises:
        ValueError: two evaluators give results of the same name (a ConfigError, before any prediction, where their
            ``result_names`` say it), or the model gave another number of predictions.
    """
    check_result_names(evaluators)
    share_buffers(model)
    for evaluator in evaluators:
        evaluator.reset()
    if isinstance(on_batch, FirstPredictions):
        on_batch.reset()
    images, model_seconds, start = 0, 0.0, time.perf_counter()
    with _evaluating(model), gathered(model), torch.inference_mode():
        for samples in watched(batches, "evaluation", show=progress and is_main(), unit="batch"):
            before = time.perf_counter()
            predictions = model(samples)
            _synchronise(model)
            model_seconds += time.perf_counter() - before
            if len(predictions) != len(samples):
                raise ValueError(f"the model gave {len(predictions)} predictions for {len(samples)} images")
            images += len(samples)
            for evaluator in evaluators:
                evaluator.update(samples, predictions)
            if on_batch is not None:
                on_batch(samples, predictions)
    seconds = time.perf_counter() - start
    results = _merge([evaluator.compute() for evaluator in evaluators], evaluators)
    timing = _timing(all_gather_object((images, seconds, model_seconds)))
    if is_main() and not timing["images"]:
        logger.warning("evaluation saw no image: the test set's loader gave nothing")
    return {**results, "timing": timing} if is_main() else {}


def write_evaluation(
    results: Mapping[str, Any],
    evaluators: Sequence[Evaluator],
    path: str | Path,
    sets: Sequence[str] = (),
    detections: str | Path | None = None,
) -> str:
    """Writes what ``evaluate`` gave as JSON and returns it as tables for a person, the speed in the last line.

    On other ranks than 0 it writes nothing and returns "".

    Args:
        results: of ``evaluate``.
        evaluators: the ones that gave them.
        path: the JSON file; its folder is made.
        sets: names under which there may be results of other weights of the same model in ``results``.
        detections: where evaluators with a method ``write_results`` write the detections, the first of those that write
            this file; one that writes another file beside it gives its path. None: nowhere.
    """
    if not is_main():
        return ""
    with atomic_write(path, "w") as file:
        json.dump(_plain(results), file, indent=2)
    parts = [evaluator.report(dict(results)) for evaluator in evaluators]
    for name in (name for name in sets if name in results):
        parts += [f"{name} weights\n{evaluator.report(dict(results[name]))}" for evaluator in evaluators]
    if "timing" in results:
        timing = results["timing"]
        parts.append(
            f"{amount(timing['images'], 'image')} in {timing['seconds']:.1f} s"
            f" ({timing['images_per_second']:.1f} images/s; the model alone took {timing['model_seconds']:.1f} s)"
        )
    writers = [evaluator for evaluator in evaluators if hasattr(evaluator, "write_results")]
    if detections is not None and writers:
        files = [str(writer.write_results(detections) or detections) for writer in writers[::-1]]
        parts.append(f"COCO results, with the ids of the test set: {', '.join(dict.fromkeys(files[::-1]))}")
    return "\n\n".join(parts)


def _plain(value: Any) -> Any:
    """Results as JSON has them: what is not finite becomes null, numbers and arrays of numpy and torch become plain."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _timing(per_process: Sequence[tuple[int, float, float]]) -> dict[str, float]:
    """The timing of all processes together, from the images, seconds and model's seconds of each."""
    counts, times, model_times = zip(*per_process)
    return {
        "images": sum(counts),
        "seconds": round(max(times), 4),
        "model_seconds": round(max(model_times), 4),
        "images_per_second": round(sum(counts) / max(*times, 1e-9), 4),
    }


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module has the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _synchronise(model: nn.Module) -> None:
    """Waits until the model's GPU, if it is on one, has finished, so that the time measured is the time taken."""
    for device in {parameter.device for parameter in model.parameters()}:
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def _merge(parts: Sequence[dict[str, Any]], evaluators: Sequence[Evaluator]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part, evaluator in zip(parts, evaluators):
        if not isinstance(part, Mapping):
            raise ValueError(f"{type(evaluator).__name__}.compute: expected a dict of results, got {part!r:.80}")
        twice = sorted(part.keys() & (merged.keys() | {"timing"}))
        if twice:
            raise ValueError(
                f"{type(evaluator).__name__} gives results named {', '.join(twice)}, and so does another evaluator;"
                " a name is used once"
            )
        merged |= part
    return merged
