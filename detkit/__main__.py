"""``python -m detkit``, the same as the command ``detkit``."""

import sys

from detkit.commands import main

if __name__ == "__main__":
    sys.exit(main())
