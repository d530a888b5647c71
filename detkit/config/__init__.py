"""From YAML to checked recipes. No torch here."""

from detkit.config.describe import OptionRow, describe, usage
from detkit.config.load import Config, load_config
from detkit.config.parse import build, parse
from detkit.config.ranges import Count, CountOrZero, Fraction, Interval, NonNegative, Positive, Share
from detkit.config.recipe import Recipe, built, parts_of
from detkit.config.write import complete, to_yaml
from detkit.registry import ConfigError, DataError

__all__ = [
    "Config",
    "ConfigError",
    "Count",
    "CountOrZero",
    "DataError",
    "Fraction",
    "Interval",
    "NonNegative",
    "OptionRow",
    "Positive",
    "Recipe",
    "Share",
    "build",
    "built",
    "complete",
    "describe",
    "load_config",
    "parse",
    "parts_of",
    "to_yaml",
    "usage",
]
