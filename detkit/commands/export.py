"""Exports a model as programs, and verifies them: the work of ``detkit export``."""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from detkit.commands.parsers.export import parse_arguments
from detkit.evaluation import evaluate
from detkit.experiment import Experiment, load_experiment
from detkit.export import InputShape, Program, ProgramModel, description_of, export, form_of, form_to_write
from detkit.export.verify import AP_LIMITS, Differences, compared, metric_drops
from detkit.modeling.meta_archs.features import FeatureModel
from detkit.predictor.loading import files_of_run, load_model
from detkit.registry import ConfigError
from detkit.structures import Sample
from detkit.utils.paths import atomic_write
from detkit.utils.progress import watched

NOTHING = "nothing to compare: the model finds no object in these images"
NOT_JUDGED = "not judged: how much a program of lower precision may differ, AP says; leave out --verify-images"


def load(args: argparse.Namespace) -> tuple[FeatureModel, Experiment]:
    """The model with its weights, and the experiment that it is of."""
    if Path(args.config).is_dir():
        weights, config = files_of_run(args.config, args.weights or "model_final.pth")
        model, experiment = load_model(weights, args.overrides, config, args.trust_imports)
    elif args.weights is not None:
        model, experiment = load_model(args.weights, args.overrides, args.config, args.trust_imports)
    else:
        load_experiment(args.config, args.overrides, trust_imports=args.trust_imports)
        raise ConfigError(f"{args.config}: is a config without weights; give them: --weights FILE")
    if not isinstance(model, FeatureModel):
        raise ConfigError(f"model: {type(model).__name__} is no detector of backbone, neck and heads")
    return model.eval(), experiment


def verify(model: FeatureModel, program: Program, experiment: Experiment, num: int | None) -> dict[str, Any]:
    """Compares both on the test images. Returns differences, metrics, seconds and ``problems``, which may be none.

    Args:
        model: in evaluation mode.
        program: made of it.
        experiment: says which images are tested on.
        num: images at most, and no metrics; None: all of them.
    """
    replaced, data, precision = ProgramModel(model, program), experiment.data, program.description.precision
    total = len(data.test_set) if num is None else min(num, len(data.test_set))
    shown = watched(data.test(), "comparing", total=-(-total // data.test_batch_size), unit="batch")
    differences = compared(model, replaced, _first(shown, total))
    problems, metrics = differences.problems(precision), dict[str, tuple[float, float]]()
    if num is None:
        results = [
            evaluate(data.as_tested(candidate), data.test(whole=True), experiment.build_evaluators())
            for candidate in (model, replaced)
        ]
        metrics = metric_drops(*results)
        limit = AP_LIMITS[precision]
        problems += [
            f"{name} is {found:.4f} and the model's {expected:.4f}: {expected - found:.4f} less, more than {limit:g}"
            for name, (expected, found) in metrics.items()
            if not expected - found <= limit + 1e-9
        ]
    return {
        "program": program.path.name,
        "engine": program.engine_name,
        "precision": precision,
        "images": differences.images,
        "detections": differences.detections,
        "unmatched": differences.unmatched,
        "largest_difference": differences.largest,
        "metrics": {name: {"model": a, "program": b} for name, (a, b) in metrics.items()},
        "seconds_an_image": differences.seconds,
        "problems": problems,
        "verdict": _verdict(differences, precision, bool(metrics), bool(problems)),
    }


def _verdict(differences: Differences, precision: str, has_metrics: bool, differs: bool) -> str:
    if differs:
        return "differs"
    if not differences.detections and not differences.largest:
        return NOTHING
    return "is the model" if has_metrics or precision == "fp32" else NOT_JUDGED


def _first(batches: Iterable[list[Sample]], num: int) -> Iterator[list[Sample]]:
    """So many images, in their batches."""
    for batch in batches:
        yield batch[:num]
        num -= len(batch)
        if num <= 0:
            break


def described(result: Mapping[str, Any]) -> str:
    """A verification for people."""
    lines = [
        f"{result['program']} ({result['precision']}, {result['engine']}), {result['images']} images, "
        f"{result['detections']} detections, {result['unmatched']} of the model or the program alone"
    ]
    lines += [f"  largest difference of {name}: {value:.3g}" for name, value in result["largest_difference"].items()]
    lines += [
        f"  {name}: model {values['model']:.4f}, program {values['program']:.4f}"
        for name, values in result["metrics"].items()
    ]
    seconds = result["seconds_an_image"]
    if len(seconds) == 2:
        share = seconds["program"] / seconds["model"]
        lines.append(
            f"  seconds an image: model {seconds['model']:.3f}, program {seconds['program']:.3f} ({share:.2f})"
        )
    return "\n".join([*lines, *(f"  {problem}" for problem in result["problems"]), f"  verdict: {result['verdict']}"])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when it went well, 1 when a program differs from the model."""
    args = parse_arguments(argv)
    if args.describe is not None:
        print(msgspec.json.format(description_of(args.describe).json(), indent=2))
        return 0
    model, experiment = load(args)
    for file in args.files:  # once the config has imported forms of the user's own
        form_to_write(file, args.precision)
    shape = InputShape(args.batch, None if args.size is None else tuple(args.size))
    steps = experiment.tree["data"]["test_augmentations"]
    differs = False
    for file in args.files:
        calibration = list(experiment.data.calibration(args.calibration)) if args.precision == "int8" else []
        start = time.perf_counter()
        options: dict[str, Any] = {"precision": args.precision, "shape": shape, "calibration": calibration}
        export(model, file, config=experiment.tree, steps=steps, **options)
        print(f"{file}: {_size(file)} in {time.perf_counter() - start:.0f} s", flush=True)
        if args.verify:
            result = verify(model, Program(file), experiment, args.verify_images)
            with atomic_write(file.with_name(f"{file.name}.verify.json")) as out:
                out.write(msgspec.json.format(msgspec.json.encode(result), indent=2))
            print(described(result))
            differs |= bool(result["problems"])
    if differs:
        print("a program differs from the model by more than its precision explains: see above", file=sys.stderr)
    return int(differs)


def _size(file: Path) -> str:
    return f"{sum(part.stat().st_size for part in form_of(file).files(file)) / 2**20:.1f} MiB"
