"""The evaluation of weights and of results, from a config to its files: what commands and Python share."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from detkit.checkpoint import find_weights, read_checkpoint
from detkit.evaluation import CocoEvaluator, FirstPredictions, PanopticEvaluator, evaluate, maps_file, write_evaluation
from detkit.experiment import Experiment, OwnData, evaluation_data, load_experiment, torch_device
from detkit.experiment.run import start_run
from detkit.export import Program, description_of, is_program
from detkit.inference import Precision
from detkit.predictor.engines import in_engine, program_model
from detkit.predictor.loading import files_of_run
from detkit.registry import ConfigError
from detkit.report import RunReport
from detkit.utils import distributed
from detkit.utils.logging import optional_output
from detkit.utils.run_folder import begin_evaluation, run_file
from detkit.visualization import write_prediction_pictures


def evaluation_of(
    config: Any,
    overrides: Sequence[str] = (),
    *,
    data: str | os.PathLike[str] | None = None,
    format: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    trust_imports: bool | None = None,
) -> tuple[OwnData, str | os.PathLike[str]]:
    """What an evaluation is of: the experiment to load, and the weights; see ``evaluated`` and ``evaluation_data``.

    Raises DataError where there are no such weights, before anything is written.
    """
    trust: Any = {"trust_imports": trust_imports}
    weights = evaluated(config, weights)
    weights = weights or Path(load_experiment(config, overrides, **trust).train.output_dir, "model_final.pth")
    if data is None:
        (description_of if is_program(weights) else find_weights)(weights)
        return OwnData(config, list(overrides), **trust), weights
    names = description_of(weights).class_names if is_program(weights) else read_checkpoint(weights).class_names
    return evaluation_data(data, config, overrides, format=format, class_names=names, **trust), weights


def evaluated(config: Any, weights: str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
    """The weights to evaluate: where ``config`` is a run's folder, those in it; the final ones, or a checkpoint's."""
    if config is None or isinstance(config, Mapping) or not Path(config).is_dir():
        return weights
    return files_of_run(Path(config), os.fspath(weights or "model_final.pth"))[0]


def evaluate_weights(
    exp: Experiment,
    weights: str | os.PathLike[str] | None = None,
    precision: Precision | None = None,
    compile: bool = False,
    report_file: Path | None = None,
    engine: str | None = None,
) -> None:
    """Evaluates weights on the test dataset; metrics, detections and pictures go to the run's folder.

    Args:
        exp: the experiment.
        weights: a checkpoint, or a program of the model (``detkit export``); None is the run's ``model_final.pth``.
        precision: of a faster copy that is evaluated instead; see ``detkit.inference``.
        compile: whether the copy's static parts go through ``torch.compile``.
        report_file: where the report goes; None: ``report.html`` in the run's folder.
        engine: what runs the model; see ``Predictor``.

    Raises ConfigError where nothing would be measured.
    """
    if not exp.evaluators:
        raise ConfigError("evaluators: expected at least one, such as [{name: CocoEvaluator}], as nothing is measured")
    out = start_run(exp)
    model, views = _weighted(exp, weights or out / "model_final.pth", engine), exp.data.test_views is not None
    model = in_engine(model, engine, precision, compile, views)
    pictures, evaluators = FirstPredictions(exp.train.num_pictures), exp.build_evaluators()
    results = evaluate(exp.data.as_tested(model), exp.data.test(whole=True), evaluators, on_batch=pictures)
    if distributed.is_main():
        begin_evaluation(out)
    draw_pictures(exp, pictures, out)
    show(write_evaluation(results, evaluators, out / "evaluation.json", detections=out / "coco_results.json"))
    named = f"weights of {Path(weights or 'model_final.pth').name}"
    RunReport(exp, evaluators).write(results, named, trained=False, path=report_file)
    show(f"The evaluation is in {out}: evaluation.json, {report_file or run_file(out, 'report.html').name}")


def _weighted(exp: Experiment, weights: str | os.PathLike[str], engine: str | None) -> nn.Module:
    """The model with the weights, on the experiment's device; or the program that ``weights`` is."""
    if is_program(weights):
        program = Program(weights, None if engine == "auto" else engine)
        exp.data.check_classes(program.description.class_names)
        model: nn.Module = program_model(exp, program)
        exp.data.check_semantic_names(tuple(program.description.semantic_names), trained=False)
        return model
    checkpoint = read_checkpoint(weights)
    names = checkpoint.class_names or exp.data.train_set.class_names
    exp.data.check_classes(names)
    model = exp.filled_model(checkpoint, names)
    exp.data.check_semantic_names(model.semantic_names, trained=False)
    return model.to(torch_device(exp.train.device)).eval()


def evaluate_results(exp: Experiment, path: str | os.PathLike[str], report_file: Path | None = None) -> None:
    """Evaluates what was predicted before, or elsewhere, without a model; ``evaluate_weights`` says the rest.

    That are detections, panoptic maps, or both in a folder of ``detkit predict --results``.

    Raises:
        ConfigError: the experiment has no ``CocoEvaluator`` for detections, or no ``PanopticEvaluator`` for maps.
        DataError: the results cannot be read, or are not of the test dataset.
    """
    out = start_run(exp)
    maps, is_folder = maps_file(path) is not None, Path(path).is_dir()
    kinds: list[type[CocoEvaluator | PanopticEvaluator]] = [CocoEvaluator] if is_folder or not maps else []
    kinds += [PanopticEvaluator] if maps else []
    built = exp.build_evaluators()
    evaluators = [evaluator for kind in kinds for evaluator in built if isinstance(evaluator, kind)]
    if not evaluators:
        names = " and ".join(kind.__name__ for kind in kinds)
        raise ConfigError(f"evaluators: such results are evaluated by {names}, and there is none; add one")
    results = dict[str, Any]()
    for evaluator in evaluators:
        evaluator.read_results(Path(path))
        results |= evaluator.compute()
    begin_evaluation(out)
    show(write_evaluation(results, evaluators, out / "evaluation.json"))
    RunReport(exp, evaluators).write(results, f"detections of {Path(path).name}", trained=False, path=report_file)


def draw_pictures(exp: Experiment, pictures: FirstPredictions, out: Path) -> None:
    """Pictures of predictions in the run's folder; no error in them ends the run."""
    pairs = pictures.gathered()
    with optional_output("pictures of predictions"):
        write_prediction_pictures(pairs, exp.data.test_set, run_file(out, "predictions"))


def show(words: str) -> None:
    """Prints, in the first of several processes."""
    if distributed.is_main():
        print(words)
