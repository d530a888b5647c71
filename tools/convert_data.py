#!/usr/bin/env python3
"""``detkit convert``, from a clone."""

import sys

from detkit.commands import run

if __name__ == "__main__":
    sys.exit(run("convert"))
