"""The experiment: the root dataclasses of every config (model, data, solver, train, evaluators)."""

from detkit.experiment.data import DataConfig
from detkit.experiment.experiment import Experiment, load_experiment
from detkit.experiment.own_data import OwnData, evaluation_data, own_data
from detkit.experiment.solver import SolverConfig
from detkit.experiment.train import TrainConfig, torch_device

__all__ = [
    "DataConfig",
    "Experiment",
    "OwnData",
    "SolverConfig",
    "TrainConfig",
    "evaluation_data",
    "load_experiment",
    "own_data",
    "torch_device",
]
