#!/usr/bin/env python3
"""Run the batch of a step that failed again, and find out where what is not finite comes from.

A training that meets a loss or a gradient that is not finite (NaN, infinite) stops and leaves a folder
failure_step_<n> in its output_dir: the batch, the weights, the optimizer, the random state, the config and the words
of the error. This tool builds the model from that config, takes that state and runs the batch forward and backward,
to the same numbers (on the machine that it failed on; others may differ in the last bit). It says

  - the loss terms, and whether they are what they were when the step failed;
  - the first module whose output is not finite, and whether its inputs were: if they were, the mistake is in that
    module or in its weights; if all outputs are finite, it is in the computation of the loss or in its target;
  - the first gradient that is not finite, and the parameters that it reached;
  - each image alone, term by term; and which annotation it takes for the batch to fail;
  - mistakes in the targets themselves: boxes that are not finite or without area, masks without pixels.

It draws the batch with its targets and the ids of the annotations into FAILURE_DIR/pictures.

examples:
  look at a failure
    python tools/replay_batch.py output/run/failure_step_1234

  does it go away without the mask head's odd option, or in full precision?
    python tools/replay_batch.py output/run/failure_step_1234 train.precision=fp32

  a failure on a GPU is noticed some steps later, when the weights are spoilt: take those of the last checkpoint
    python tools/replay_batch.py output/run/failure_step_1234 --weights output/run/checkpoint_0001199.pth

  the batch of another process
    python tools/replay_batch.py output/run/failure_step_1234 --rank 1

The exit code is 0 where everything is finite now, 1 where the batch fails again, 2 after a mistake.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from detkit.paths import local_path, path_or_address


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=local_path, metavar="FAILURE_DIR", help="what a failed training left")
    parser.add_argument(
        "--rank", type=int, default=0, metavar="R", help="whose batch, of several processes (default: 0)"
    )
    parser.add_argument(
        "--weights", type=path_or_address, metavar="FILE", help="other weights than those of the failure"
    )
    parser.add_argument("--no-pictures", action="store_true", help="draw nothing")
    parser.add_argument("--trust-imports", action="store_true", help="run the code that the config imports")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="changes to the config")
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    parse_arguments(None)  # so --help and mistakes are answered at once: what is imported from here on takes seconds

import torch
from tabulate import tabulate

from detkit import command_line
from detkit.checkpoint import load_all_weights, read_checkpoint
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
    failure, exp = (
        state["failure"],
        load_experiment(args.folder / CONFIG, args.overrides, trust_imports=args.trust_imports),
    )
    print(f"step {failure['step']}, failed on rank {', '.join(map(str, failure['ranks']))}; torch {failure['torch']}")
    if failure["torch"] != str(torch.__version__):
        print(f"this is torch {torch.__version__}: numbers may differ in the last bit")
    if failure["late"] and args.weights is None:
        print(
            "the weights are those of some steps later, as losses on a GPU are checked later; if they are not finite, "
            "give those of the last checkpoint: --weights FILE"
        )
    device = torch_device(exp.train.device)
    model = exp.build_model(class_names=state["class_names"] or exp.data.train_set.class_names, pretrained=False).to(
        device
    )
    load_all_weights(model, read_checkpoint(args.weights or args.folder / STATE))
    prepare(model, failure)
    precision = exp.train.precision
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
    """Runs the tool; 0 where everything is finite, 1 where it is not, 2 after a user's mistake."""
    args = parse_arguments(argv)
    return command_line.run(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
