"""From YAML to checked recipes. No torch here."""

from detkit.config.recipe import Recipe
from detkit.registry import ConfigError, DataError

__all__ = ["ConfigError", "DataError", "Recipe"]
