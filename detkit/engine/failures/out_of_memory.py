"""Out of memory in a training step: which batch it was, and what to lower, with its present values."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from detkit.engine.failures.files import CONFIG
from detkit.engine.failures.suspects import image_name
from detkit.structures import Sample
from detkit.utils import distributed
from detkit.utils.logging import first_line
from detkit.utils.memory import is_out_of_memory, peak_memory
from detkit.utils.run_folder import run_file


class OutOfMemory(MemoryError):
    """A training step needed more memory than there is. The message names the batch and what to lower."""


def out_of_memory(
    error: BaseException, step: int, samples: Sequence[Sample], model: nn.Module, output_dir: Path | None
) -> OutOfMemory | None:
    """What to raise in place of ``error``, from it; None where that says nothing of memory.

    Args:
        error: what a step raised: torch's OutOfMemoryError on a GPU, its RuntimeError on the CPU, or MemoryError.
        step: the step's number.
        samples: the batch under way.
        model: the training's; the options that cost memory are read off it.
        output_dir: the run's folder; the present values are those of its config, where that is there.
    """
    if not is_out_of_memory(error):
        return None
    config = _config(output_dir)
    peak = ", ".join(f"{name} {mb}" for name, mb in peak_memory(_device(model)).items())
    lines = [
        f"step {step}: out of memory ({first_line(error)}).",
        *_batch(samples),
        f"Peak memory of this process: {peak or 'not known'}.",
        "What to lower, by what it costs in the result, the least first (overrides of the config):",
        *(f"  - {line}" for line in _what_to_lower(samples, model, config)),
    ]
    return OutOfMemory("\n".join(lines))


def _batch(samples: Sequence[Sample]) -> Iterator[str]:
    sizes = [sample.image.shape[-2:] for sample in samples]
    padded = (max(s[0] for s in sizes), max(s[1] for s in sizes)) if sizes else (0, 0)
    yield (
        f"The batch: {len(samples)} images, padded to {padded[0]} x {padded[1]} (height x width) or a little more,"
        f" {sum(map(_count, samples))} instances."
    )
    for sample, (height, width) in zip(samples, sizes):
        yield f"  {image_name(sample)}: {height} x {width}, {_count(sample)} instances"


def _count(sample: Sample) -> int:
    return 0 if sample.target is None else len(sample.target)


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _what_to_lower(samples: Sequence[Sample], model: nn.Module, config: Mapping[str, Any]) -> Iterator[str]:
    data, solver = config.get("data", {}), config.get("solver", {})
    processes, accumulate = distributed.world_size(), solver.get("accumulate", 1)
    batch_size = data.get("batch_size", len(samples) * processes)
    if len(samples) > 1:
        half = max(batch_size // processes // 2, 1) * processes
        yield (
            f"data.batch_size (now {batch_size}) with as much more of solver.accumulate (now {accumulate}): the same"
            f" step from smaller batches, e.g. data.batch_size={half} solver.accumulate={accumulate * 2}"
        )
    train = config.get("train", {})
    if "precision" in train:
        now = train["precision"]
        yield f"train.precision (now {now}): bf16 takes about half of the memory of activations in fp32"
    for index, node in enumerate(data.get("train_augmentations", [])):
        given = {name: value for name, value in node.items() if "size" in name or "edge" in name}
        if "esize" in str(node.get("name")) and given:
            values = ", ".join(f"{name} {value}" for name, value in given.items())
            yield f"data.train_augmentations.{index} ({node['name']}, now {values}): smaller images, smaller objects"
    for name, module in distributed.unwrap(model).named_modules():
        number = getattr(getattr(module, "sampling", None), "batch_size_per_image", None)
        if number is not None:
            yield f"model.{name}.sampling.batch_size_per_image (now {number}): samples an image"
    if max(map(_count, samples), default=0) > 100 and data.get("mask_format") == "bitmap":
        yield "data.mask_format (now bitmap): polygon, or mini, keep no image-sized bitmap an instance"
    workers = data.get("num_workers")
    if workers != 0 and _device(model).type == "cpu":
        yield f"data.num_workers{'' if workers is None else f' (now {workers})'}: each holds batches in memory"


def _config(output_dir: Path | None) -> Mapping[str, Any]:
    """The run's config as plain data; empty where there is none that can be read."""
    try:
        content = yaml.safe_load(run_file(output_dir, CONFIG).read_text(encoding="utf-8")) if output_dir else None
    except (OSError, ValueError, yaml.YAMLError, MemoryError):
        return {}
    return content if isinstance(content, Mapping) else {}
