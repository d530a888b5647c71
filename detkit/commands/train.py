"""Trains and evaluates: the work of ``detkit train``."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from detkit.commands.loading import check_processes_started
from detkit.commands.parsers import restart
from detkit.commands.parsers.train import parse_arguments
from detkit.config import assignment
from detkit.engine import Interrupted, Interruption
from detkit.evaluating import evaluate_results, evaluate_weights, evaluation_of
from detkit.experiment import Experiment, OwnData, evaluation_data, own_data, torch_device
from detkit.experiment.run import owned
from detkit.launch import launch
from detkit.signals import SIGNALS, exit_code, has_left
from detkit.training import train
from detkit.utils import distributed


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when it went well, 75 when it was asked to leave and saved what ``--resume`` goes on from."""
    args = parse_arguments(argv)
    if args.weights and not args.eval_only:
        args.overrides.append(assignment("train.init_weights", None if args.weights == "none" else args.weights))
    return start("train", args, argv)


def start(words: str, args: argparse.Namespace, argv: Sequence[str] | None) -> int:
    """Runs the command ``words``, a training or an evaluation, in as many processes as its arguments say."""
    if args.num_processes is not None and not distributed.launched():
        experiment(args)
        given = sys.argv[1:] if argv is None else argv
        code = launch(restart(words), given, args.num_processes, args.max_restarts or 0)
        return exit_code(code - 128) if code - 128 in SIGNALS else code
    interruption = Interruption()
    with interruption.listening():
        try:
            run(args, interruption)
        except Interrupted as stop:
            has_left()
            if distributed.is_main():
                words = str(stop).partition(";")[0] if args.eval_only else str(stop)
                if not args.eval_only and args.run is not None and Path(args.run, "config.yaml").is_file():
                    words += f": detkit train {shlex.quote(args.run)} --resume"
                print(words, file=sys.stderr, flush=True)
            return stop.exit_code
    return 0


def experiment(args: argparse.Namespace) -> Experiment:
    """What the command line asks for."""
    config, overrides, trust = args.config_file, args.overrides, args.trust_imports
    if args.eval_only and args.results is None:
        prepared, args.weights = evaluation_of(
            config, overrides, data=args.data, format=args.format, weights=args.weights, trust_imports=trust
        )
    elif args.data is None:
        prepared = OwnData(config, overrides, trust_imports=trust)
    elif args.eval_only:  # of results: without a model
        prepared = evaluation_data(args.data, config, overrides, format=args.format, trust_imports=trust)
    else:
        prepared = own_data(
            args.data, config, overrides, format=args.format, val_fraction=args.val_fraction, class_names=args.classes
        )
    return prepared.experiment()


def run(args: argparse.Namespace, interruption: Interruption) -> None:
    """Trains or evaluates, in one of the run's processes."""
    check_processes_started(args.num_processes)
    with interruption.at_once():
        exp = experiment(args)
    args.run = exp.train.output_dir
    with distributed.process_group(torch_device(exp.train.device)), owned(exp.train.output_dir):
        if args.eval_only:
            with interruption.at_once():
                if args.results is not None:
                    evaluate_results(exp, args.results, args.report)
                else:
                    evaluate_weights(exp, args.weights, args.precision, args.compile, args.report, args.engine)
        else:
            train(exp, args.resume, interruption)
