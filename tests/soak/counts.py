"""How much a soak does: a share of its full counts, given by an environment variable.

``SOAK=1`` does all: the counts of a release, hours on two cores. The default is a small share, for ``--slow``.
``SOAK_SEED`` (an int, default 0) changes every random choice.
"""

import os
import random

SHARE = float(os.environ.get("SOAK", "0.02"))
SEED = int(os.environ.get("SOAK_SEED", "0"))


def share_of(full: int, least: int = 1) -> int:
    """How many of ``full`` cases this soak does."""
    return max(round(full * SHARE), least)


def random_of(name: str, number: int) -> random.Random:
    """The random choices of one case."""
    return random.Random(f"{name} {SEED} {number}")
