"""``meshwright status FOLDER...``: what the runs in those folders are doing."""

from __future__ import annotations

from pathlib import Path

from meshwright.errors import ConfigError
from meshwright.jobs.status import statuses
from meshwright.verbs import Words

__all__ = ["run"]


def run(words: Words) -> int:
    """Print the status of every folder named; ``output=json`` for machines; 1 where a file of one cannot be read."""
    folders = [Path(word) for word in words.overrides if not word.startswith("output=")]
    if not folders:
        raise ConfigError("status of what? give a run folder, for example meshwright status runs/llama3_405b")
    found = [one for folder in folders for one in statuses(folder)]
    code = 1 if any(one.problems for one in found) else 0
    if "output=json" in words.overrides:
        from meshwright.report.print_json import print_json
        from meshwright.report.status import document

        print_json(document(found))
    else:
        from meshwright.report.status import show

        show(found)
    return code
