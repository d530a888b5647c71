"""Runs the batch of a failed step again: the work of ``detkit replay``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from tabulate import tabulate

from detkit.checkpoint import read_checkpoint
from detkit.commands.parsers.replay import parse_arguments
from detkit.engine.failures.files import CONFIG, STATE, read_batches, read_state
from detkit.engine.failures.replay import BatchReplay, prepare, replay, same_values
from detkit.engine.failures.suspects import annotation_name
from detkit.engine.step import batch_losses
from detkit.experiment import load_experiment, torch_device
from detkit.registry import DataError
from detkit.structures import Instances, Prediction, Sample
from detkit.utils.file_names import file_stem
from detkit.visualization import draw_prediction, side_by_side, write_picture


def run(args: argparse.Namespace) -> int:
    """Does what the command line asks for; 1 where the batch fails again."""
    state, step = read_state(args.folder), read_batches(args.folder, args.rank)
    if not (args.folder / CONFIG).is_file():
        raise DataError(f"{args.folder / CONFIG}: is missing; copy the run's config there")
    failure = state["failure"]
    exp = load_experiment(args.folder / CONFIG, args.overrides, trust_imports=args.trust_imports)
    print(f"step {failure['step']}, failed on rank {', '.join(map(str, failure['ranks']))}; torch {failure['torch']}")
    if failure["torch"] != str(torch.__version__):
        print(f"this is torch {torch.__version__}: numbers may differ in the last bit")
    if failure["late"] and args.weights is None:
        print(
            "the weights are those of some steps later, as losses on a GPU are checked later; if they are not finite, "
            "give those of the last checkpoint: --weights FILE"
        )
    checkpoint = read_checkpoint(args.weights or args.folder / STATE)
    names = state["class_names"] or exp.data.train_set.class_names
    device, precision = torch_device(exp.train.device), exp.train.precision
    model = exp.filled_model(checkpoint, names).to(device)
    prepare(model, failure)
    results = replay(lambda batch, model: batch_losses(model, batch, device, precision), model, step.batches)
    for number, result in enumerate(results):
        print(f"\nbatch {number + 1} of {len(results)}: {result.names}\n{describe(result)}")
        if number == step.batch:
            same = same_values(result.values, step.values or {})
            print(f"the numbers are {'' if same else 'NOT '}those of the failure, to the last bit")
    if not args.no_pictures:
        draw(step.batches, state["class_names"] or (), args.folder / "pictures")
    return int(any(result.failed for result in results))


def describe(result: BatchReplay) -> str:
    """A batch's loss terms and metrics, and what is known of the cause."""
    lines = [tabulate(sorted(result.values.items()), headers=["metric", "value"], floatfmt=".9g")]
    modules = {
        "first output that is not finite": result.first_output,
        "first gradient that is not finite": result.first_gradient,
    }
    lines += [f"{what}: {name or 'none'}" for what, name in modules.items()]
    if result.bad_parameters:
        lines.append(f"parameters with such a gradient: {len(result.bad_parameters)}, {result.bad_parameters[0]} first")
    if result.images:
        terms = sorted({name for _, row in result.images if isinstance(row, dict) for name in row})
        rows = [
            [name, *(row.get(term, "") for term in terms)] if isinstance(row, dict) else [name, row]
            for name, row in result.images
        ]
        lines.append(tabulate(rows, headers=["image alone", *terms], floatfmt=".6g"))
    return "\n".join([*lines, *(f"suspect: {sentence}" for sentence in result.suspects)])


def draw(batches: Sequence[tuple[Sequence[Sample], object]], class_names: Sequence[str], folder: Path) -> None:
    """A picture an image: its target, and the ids of the annotations."""
    samples = [sample for batch, _ in batches for sample in batch]
    for number, sample in enumerate(samples):
        target = sample.target or Instances((sample.image.shape[-2], sample.image.shape[-1]))
        valid = target[torch.isfinite(target.boxes.tensor).all(1)] if "boxes" in target else target
        ids = ", ".join(annotation_name(sample, row).split(" of ")[0] for row in range(min(len(target), 40)))
        title = f"{sample.file_name or sample.image_id}: {len(target)} objects. {ids}"
        name = file_stem(sample.image_id)
        picture = side_by_side([draw_prediction(sample.image, Prediction(valid), class_names)], [title])
        write_picture(picture, folder / f"{number:03d}_{name}.png")
    print(f"\n{len(samples)} pictures: {folder}/")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 where everything is finite, 1 where it is not, 2 after a user's mistake."""
    return run(parse_arguments(argv))
