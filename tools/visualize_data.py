#!/usr/bin/env python3
"""``detkit visualize data``, from a clone."""

import sys

from detkit.commands import run

if __name__ == "__main__":
    sys.exit(run("visualize data"))
