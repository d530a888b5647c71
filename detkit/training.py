"""A training from a config to its files: what commands and Python share."""

import functools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from detkit.checkpoint import Checkpoint, Checkpointer, load_weights, read_checkpoint, resume
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
from detkit.evaluating import draw_pictures, show
from detkit.evaluation import Evaluator, FirstPredictions, evaluate, write_evaluation
from detkit.experiment import Experiment, torch_device
from detkit.experiment.run import (
    finished_message,
    init_output_dir,
    is_restarted,
    start_run,
    validate_datasets,
    warn_random_frozen,
)
from detkit.modeling import MetaArch
from detkit.modeling.compiling import compile_parts
from detkit.registry import ConfigError, DataError
from detkit.report import ReportHook, RunReport
from detkit.utils import distributed
from detkit.utils.logging import optional_output
from detkit.utils.run_folder import run_file
from detkit.visualization import draw_predictions, plot_curves

logger = logging.getLogger(__name__)


def train(exp: Experiment, go_on: bool, interruption: Interruption) -> None:
    """Trains and evaluates; with ``go_on``, or in the place of a dead process, from the last checkpoint if any."""
    exp.check_model()
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
    if distributed.is_main():
        with optional_output("curves.png"):
            plot_curves(out / "metrics.jsonl", out / "curves.png")
    draw_pictures(exp, pictures, out)
    show(write_evaluation(trainer.results, evaluators, out / "evaluation.json", sets=list(trainer.weight_sets)))
    names = [run_file(out, name).name for name in ("report.html", "predictions")]
    show(f"The run is in {out}: model_final.pth, evaluation.json, curves.png, {names[0]}, {names[1]}/")
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
