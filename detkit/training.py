"""A training from a config to its files, and the evaluation of weights: what commands and Python share."""

import functools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from detkit.checkpoint import Checkpoint, Checkpointer, find_weights, load_weights, read_checkpoint, resume
from detkit.doctor import check_at_start
from detkit.engine import (
    CheckpointHook,
    EvalHook,
    Hook,
    Interruption,
    MetricsWriter,
    PredictionPictures,
    ProgressBar,
    StepTimer,
    TensorBoardWriter,
    Trainer,
)
from detkit.engine.training_state import named_hooks
from detkit.evaluation import (
    CocoEvaluator,
    Evaluator,
    FirstPredictions,
    PanopticEvaluator,
    evaluate,
    maps_file,
    write_evaluation,
)
from detkit.experiment import Experiment, OwnData, evaluation_data, load_experiment, torch_device
from detkit.experiment.run import (
    finished_message,
    init_output_dir,
    is_restarted,
    start_run,
    validate_datasets,
    warn_random_frozen,
)
from detkit.export import Program, description_of, is_program
from detkit.inference import Precision
from detkit.modeling import MetaArch
from detkit.modeling.compiling import compile_parts
from detkit.predictor.engines import in_engine, program_model
from detkit.predictor.loading import files_of_run
from detkit.registry import ConfigError, DataError
from detkit.report import ReportHook, RunReport
from detkit.utils import distributed
from detkit.utils.logging import optional_output
from detkit.utils.run_folder import begin_evaluation, run_file
from detkit.visualization import draw_predictions, plot_curves, write_prediction_pictures

logger = logging.getLogger(__name__)


def train(exp: Experiment, go_on: bool, interruption: Interruption) -> None:
    """Trains and evaluates; with ``go_on``, or in the place of a dead process, from the last checkpoint if any."""
    out = start_run(exp)
    pictures, evaluators = FirstPredictions(exp.train.num_pictures), exp.build_evaluators()
    report = RunReport(exp, evaluators)
    with interruption.at_once():
        trainer, fresh = prepare(exp, go_on, interruption, pictures, evaluators, report)
    if trainer.is_last_step:
        logger.info("%s", finished_message(exp, trainer.stop_reason))
        missing = not all((out / name).is_file() for name in ("model_final.pth", "evaluation.json"))
        if not distributed.any_process(missing):
            return
        end = (CheckpointHook, EvalHook, PredictionPictures)
        trainer.pending = [k for k, hook in named_hooks(trainer.hooks) if k in trainer.pending or isinstance(hook, end)]
    init_output_dir(exp, fresh=fresh)
    without_value: ConfigError | None = None
    try:
        trainer.train()
    except ConfigError as error:  # of a hook whose metric never had a value: said when the run is complete
        without_value = error
        if not trainer.is_last_step:
            raise
    _draw(exp, pictures, out, curves=True)
    _show(write_evaluation(trainer.results, evaluators, out / "evaluation.json", sets=list(trainer.weight_sets)))
    names = [run_file(out, name).name for name in ("report.html", "predictions")]
    _show(f"The run is in {out}: model_final.pth, evaluation.json, curves.png, {names[0]}, {names[1]}/")
    if without_value is not None:
        raise without_value


def prepare(
    exp: Experiment,
    go_on: bool,
    interruption: Interruption,
    pictures: FirstPredictions,
    evaluators: Sequence[Evaluator],
    report: RunReport,
) -> tuple[Trainer, bool]:
    """The trainer, where its last checkpoint left it if it goes on with one; and whether it begins from the start."""
    device, out = torch_device(exp.train.device), exp.train.output_dir
    checkpointer = Checkpointer(out, keep=exp.train.checkpoint_keep, sharded=exp.train.sharded_checkpoints)
    go_on = go_on or is_restarted(Path(out))
    fresh = not (go_on and checkpointer.latest() is not None)
    start = _first_weights(exp.train.init_weights) if fresh and exp.train.init_weights is not None else None
    exp.fetch_weights()
    validate_datasets(exp)
    model = exp.build_model().to(device)
    if start is not None:
        loaded = load_weights(model, start, partial=exp.train.partial_weights)
        logger.log(logging.WARNING if loaded.warnings else logging.INFO, "%s", loaded)
    warn_random_frozen(exp, model)
    if exp.train.doctor:
        report.findings = check_at_start(exp, model)
    if exp.train.compile:
        compile_parts(model)
    exp.data.as_tested(model)  # says now what cannot be
    test_batches = interruption.watch(exp.data.test())
    images = interruption.watch(exp.data.test(whole=True)) if exp.data.takes_whole else test_batches

    def evaluate_now() -> dict[str, Any]:
        with interruption.at_once():
            results = evaluate(exp.data.as_tested(model), images, evaluators, on_batch=pictures)
            report.keep(len(trainer.weight_sets))
            return results

    hooks = [
        ProgressBar(),
        MetricsWriter(),
        TensorBoardWriter(),
        StepTimer(),
        *exp.build_hooks(),  # before the checkpoint, which then holds what they make of the step
        CheckpointHook(checkpointer, exp.train.checkpoint_period, config=exp.tree),
        EvalHook(evaluate_now, exp.train.eval_period),
        PredictionPictures(
            pictures, functools.partial(draw_predictions, dataset=exp.data.test_set), keep=exp.train.picture_keep
        ),
        ReportHook(report),
    ]
    trainer = build_trainer(exp, model, hooks, test_batches, interruption)
    if go_on:
        resume(checkpointer, model, trainer)
    return trainer, fresh


def _first_weights(source: str) -> Checkpoint:
    """What a training starts from; of weights that cannot be fetched the error says how to do without."""
    try:
        return read_checkpoint(source)
    except DataError as error:
        if "://" not in source:
            raise
        raise DataError(
            f"{error}; or train without weights, for longer: --weights none (train.init_weights=null)"
        ) from None


def build_trainer(
    exp: Experiment, model: MetaArch, hooks: Sequence[Hook], test_batches: Iterable, interruption: Interruption
) -> Trainer:
    """The trainer of the experiment, over ``model`` as this process trains it."""
    return Trainer(
        exp.build_parallelism().wrap(model),
        exp.build_optimizer(model),
        exp.build_schedule(),
        functools.partial(exp.data.train, exp.train.seed),
        exp.max_iter(),
        clip_grad_norm=exp.solver.clip_grad_norm,
        clip_param_norm=exp.solver.clip_param_norm,
        clip_grad_value=exp.solver.clip_grad_value,
        accumulate=exp.solver.accumulate,
        loss_mean=exp.solver.loss_mean,
        precision=exp.train.precision,
        output_dir=exp.train.output_dir,
        log_period=exp.train.log_period,
        test_batches=test_batches,
        interruption=interruption,
        data=exp.training_data(),
        hooks=hooks,
    )


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
    _draw(exp, pictures, out, curves=False)
    _show(write_evaluation(results, evaluators, out / "evaluation.json", detections=out / "coco_results.json"))
    named = f"weights of {Path(weights or 'model_final.pth').name}"
    RunReport(exp, evaluators).write(results, named, trained=False, path=report_file)
    _show(f"The evaluation is in {out}: evaluation.json, {report_file or run_file(out, 'report.html').name}")


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
    _show(write_evaluation(results, evaluators, out / "evaluation.json"))
    RunReport(exp, evaluators).write(results, f"detections of {Path(path).name}", trained=False, path=report_file)


def _draw(exp: Experiment, pictures: FirstPredictions, out: Path, *, curves: bool) -> None:
    """Pictures of predictions, and the training's curves; no error in them ends the run."""
    pairs = pictures.gathered()
    if curves and distributed.is_main():
        with optional_output("curves.png"):
            plot_curves(out / "metrics.jsonl", out / "curves.png")
    with optional_output("pictures of predictions"):
        write_prediction_pictures(pairs, exp.data.test_set, run_file(out, "predictions"))


def _show(words: str) -> None:
    if distributed.is_main():
        print(words)
