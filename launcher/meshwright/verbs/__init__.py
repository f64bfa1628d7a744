"""The verbs, one module each with a ``run(words) -> exit code``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from meshwright.errors import ConfigError

__all__ = ["VERBS", "Verb", "Words", "config_dir", "no_verb"]


@dataclass(frozen=True)
class Words:
    """What followed the verb: Hydra overrides, and of them the values that tell a point of a sweep from the others."""

    overrides: tuple[str, ...]
    config_dir: str | None = None
    swept: Mapping[str, str] = field(default_factory=dict)

    @property
    def point(self) -> str:
        """The point of a sweep, in the words that choose it; empty outside one."""
        return " ".join(f"{key}={value}" for key, value in self.swept.items())


def config_dir(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Hydra's ``--config-dir DIR`` or ``-cd DIR`` and the other words.

    Raises:
        ConfigError: where the folder is missing.

    """
    for i, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            if not equals and i + 1 == len(words):
                raise ConfigError(f"{word}: needs a folder")
            folder, behind = (value, i + 1) if equals else (words[i + 1], i + 2)
            return folder, [*words[:i], *words[behind:]]
    return None, list(words)


class Verb(NamedTuple):
    """Where a verb lives and what it does."""

    module: str
    summary: str


def _verb(name: str, summary: str) -> Verb:
    return Verb(f"meshwright.verbs.{name}", summary)


VERBS = {
    "plan": _verb("plan", "resolve, cost and explain; writes nothing"),
    "import": _verb("bring", "a script or configuration that you have, as ours: each key with its fate"),
    "check": _verb("check", "a script or configuration that you have: refused, changed, fits, how fast"),
    "compile": _verb("compile", "the run folder: files for every backend that can express it, and verdicts"),
    "export": _verb("export", "files for a program that others launch: to=accelerate_fsdp and others"),
    "rehearse": _verb("rehearse", "the same layout in miniature, trained for real on this machine"),
    "launch": _verb("launch", "compile, then run here or submit to SLURM"),
    "status": _verb("status", "what a run folder's run is doing: meshwright status runs/X"),
    "data": _verb("data", "tokenize text into the indexed format"),
    "doctor": _verb("doctor", "what is installed and visible here, and what that allows"),
    "diff": _verb("diff", "what differs between two runs, and whether it is learned: meshwright diff A B"),
    "report": _verb("report", "one page to look at, of plans, recipes, run folders or a search: out=report.html"),
    "search": _verb("search", "layouts ranked, with the reason each other one lost"),
    "recipes": _verb("recipes", "the library, each value with its source, and the audit"),
    "validate": _verb("validate", "our error on measured runs: rows=FILE.csv or runs=[FOLDER,...]"),
    "bench": _verb("bench", "this machine measured: a cluster file for cluster=NAME out=FILE; bench layer: one layer"),
    "calibrate": _verb("calibrate", "a cluster's constants from your own runs: the same, and cluster=NAME"),
}


def no_verb(word: str) -> str:
    """What is said of a first word that is none."""
    from difflib import get_close_matches

    close = get_close_matches(word, VERBS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the verbs are {', '.join(VERBS)}"
    return f"{word}: no such verb; {hint}"
