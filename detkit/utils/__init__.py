"""Distributed helpers, logging, paths, seeds and the environment report."""

from detkit.utils.environment import environment_report
from detkit.utils.logging import setup_logging
from detkit.utils.paths import atomic_write, path_manager, remove_leftovers
from detkit.utils.seed import rng_state, seed_everything, set_rng_state

__all__ = [
    "atomic_write",
    "environment_report",
    "path_manager",
    "remove_leftovers",
    "rng_state",
    "seed_everything",
    "set_rng_state",
    "setup_logging",
]
