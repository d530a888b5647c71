"""From YAML to checked recipes. No torch here."""

from detkit.config.describe import OptionRow, describe, usage
from detkit.config.interpolation import written
from detkit.config.load import Config, ForeignConfig, load_config
from detkit.config.parse import build, parse
from detkit.config.recipe import Recipe, built, changed, parts_of
from detkit.config.schema import broken_contract
from detkit.config.user_file import is_detkits
from detkit.config.write import assignment, complete, to_yaml, yaml_json
from detkit.paths import FilePath
from detkit.ranges import Count, CountOrZero, Finite, Fraction, Gray, Interval, Length, NonNegative, Positive, Share
from detkit.registry import ConfigError, DataError

__all__ = [
    "Config",
    "ConfigError",
    "Count",
    "CountOrZero",
    "DataError",
    "FilePath",
    "Finite",
    "ForeignConfig",
    "Fraction",
    "Gray",
    "Interval",
    "Length",
    "NonNegative",
    "OptionRow",
    "Positive",
    "Recipe",
    "Share",
    "assignment",
    "broken_contract",
    "build",
    "built",
    "changed",
    "complete",
    "describe",
    "is_detkits",
    "load_config",
    "parse",
    "parts_of",
    "to_yaml",
    "usage",
    "written",
    "yaml_json",
]
