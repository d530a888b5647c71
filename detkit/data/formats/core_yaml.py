"""read_core_yaml: YAML as the core schema of YAML 1.2 has it, in which ``no`` and ``012`` are not what 1.1 made of them."""

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
    return yaml.load(text, _Loader)  # noqa: S506  # a safe loader
