"""``meshwright status FOLDER...``: what the runs in those folders are doing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from meshwright.errors import ConfigError, Problem
from meshwright.jobs.status import Status, statuses
from meshwright.verbs import Words

__all__ = ["FLAGS", "run"]

FLAGS = ("--watch",)
"""Beside Hydra's: look again until every run is done."""

OUTPUTS = ("text", "json", "html")
EVERY = 2  # seconds between two looks
_OURS = ("output=", "out=", *FLAGS)


def run(words: Words) -> int:
    """Show the status of every folder named, again and again with ``--watch``; 1 where a file of one cannot be read."""
    folders = [Path(word) for word in words.overrides if not word.startswith(_OURS)]
    if not folders:
        raise ConfigError("status of what? give a run folder, for example meshwright status runs/llama3_405b")
    output, watch = _output(words.overrides), "--watch" in words.overrides
    show = _shower(output, words.overrides, watch)
    found = _found(folders)
    if watch and output == "text":
        found = _watch_terminal(folders)
    else:
        show(found)
    while watch and output == "html" and not _over(found):
        time.sleep(EVERY)
        found = _found(folders)
        show(found)
    return 1 if any(one.problems for one in found) else 0


def _found(folders: Sequence[Path]) -> list[Status]:
    return [one for folder in folders for one in statuses(folder)]


def _over(found: Sequence[Status]) -> bool:
    return all(one.state == "done" for one in found)


def _output(words: Sequence[str]) -> str:
    asked = [word.partition("=")[2] for word in words if word.startswith("output=")] or ["text"]
    if asked[-1] not in OUTPUTS:
        raise ConfigError([Problem("output", f"expected one of {', '.join(OUTPUTS)}, got {asked[-1]!r}")])
    if asked[-1] == "json" and "--watch" in words:
        raise ConfigError([Problem("output", "json is one document; leave --watch out, and ask again")])
    return asked[-1]


def _shower(output: str, words: Sequence[str], watch: bool) -> Callable[[Sequence[Status]], None]:
    """What shows statuses once, in the output that is asked for."""
    if output == "html":
        return _page(words, watch)
    if output == "json":
        from meshwright.report.print_json import print_json
        from meshwright.report.status import document

        return lambda found: print_json(document(found))
    from meshwright.report.status import show

    return show


def _page(words: Sequence[str], watch: bool) -> Callable[[Sequence[Status]], None]:
    """Writes the page, whole at every moment: a browser may read it meanwhile."""
    from meshwright.jobs.outlook import outlook
    from meshwright.jobs.output_file import output_file, unwritable
    from meshwright.report.page.runs import runs_html

    named = [word.partition("=")[2] for word in words if word.startswith("out=")]
    path = output_file("out", named[-1] if named else "status.html", (".html",))
    assert path is not None  # a name was given
    print(path)

    def write(found: Sequence[Status]) -> None:
        text = runs_html([outlook(one) for one in found], EVERY if watch and not _over(found) else None)
        try:
            path.with_name(f".{path.name}").write_text(text, "utf-8")
            os.replace(path.with_name(f".{path.name}"), path)
        except OSError as error:
            raise ConfigError([unwritable("out", str(error))]) from None

    return write


def _watch_terminal(folders: Sequence[Path]) -> list[Status]:
    """Draw until every run is done; the last view stays."""
    from rich.live import Live

    from meshwright.jobs.outlook import outlook
    from meshwright.report.live import view

    found = _found(folders)
    with Live(view([outlook(one) for one in found]), auto_refresh=False) as live:
        while not _over(found):
            time.sleep(EVERY)
            found = _found(folders)
            live.update(view([outlook(one) for one in found]), refresh=True)
    return found
