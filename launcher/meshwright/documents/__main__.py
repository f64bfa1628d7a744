"""``python -m meshwright.documents [FOLDER]``: write the generated pages into docs/."""

from __future__ import annotations

import sys
from pathlib import Path

from meshwright.documents import write

if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
