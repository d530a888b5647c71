"""read_core_yaml: YAML by the core schema of YAML 1.2, in which ``no`` is a word and ``012`` is twelve."""

import re
from typing import Any

import yaml

from detkit.config.yaml_file import read_scalar


class _Loader(yaml.SafeLoader):
    """Leaves what an unquoted scalar is to ``read_scalar``."""


_Loader.yaml_implicit_resolvers = {None: [("unquoted", re.compile(""))]}
_Loader.add_constructor("unquoted", lambda loader, node: read_scalar(str(node.value)))


def read_core_yaml(text: str) -> Any:
    """What a YAML document holds. Raises yaml.YAMLError, ValueError or RecursionError for what is none."""
    return yaml.load(text, _Loader)  # a safe loader
