"""``python -m meshwright``: the command, where a virtual environment's programs are not on the path."""

from __future__ import annotations

import sys

from meshwright.cli import main

if __name__ == "__main__":
    sys.exit(main())
