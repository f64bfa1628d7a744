"""``meshwright doctor``: what is installed and visible here, and what that allows."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from meshwright.errors import ConfigError, Problem
from meshwright.jobs.doctor import Finding, findings, software
from meshwright.loading import load
from meshwright.report.terminal import terminal
from meshwright.verbs import Words

__all__ = ["run"]

OUTPUTS = ("text", "json", "software")


def run(words: Words) -> int:
    """Print what was found, and for what is missing what it would allow and how to get it.

    ``output=software`` prints a file of the group ``software`` instead.
    """
    outputs = [word.partition("=")[2] for word in words.overrides if word.startswith("output=")]
    if outputs and outputs[-1] not in OUTPUTS:
        raise ConfigError([Problem("output", f"expected one of {', '.join(OUTPUTS)}, got {outputs[-1]!r}")])
    if "output=software" in words.overrides:
        print(software(platform.node().partition(".")[0]), end="")
        return 0
    options = load(words.overrides, words.config_dir).options
    found = findings(Path(options.runs))
    if options.output == "json":
        from meshwright.report.print_json import print_json

        print_json({"findings": [asdict(one) for one in found]})
        return 0
    _show(found)
    return 0


def _show(found: Iterable[Finding]) -> None:
    from rich.text import Text

    console = terminal()
    for one in found:
        mark, style = ("yes", "green") if one.found else ("no ", "yellow")
        hint = one.found or f"missing: {one.install}"
        console.print(Text(f"{mark}  ", style=style), Text(f"{one.name:<20}"), Text(f"{hint}  "), sep="", end="")
        console.print(Text(one.allows, style="dim"))
