"""The verbs, one module each with a ``run(words) -> exit code``."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["VERBS", "Verb", "Words"]


@dataclass(frozen=True)
class Words:
    """What followed the verb: Hydra overrides, and which job of a sweep this is."""

    overrides: tuple[str, ...]
    config_dir: str | None = None
    job: int = 0
    jobs: int = 1


@dataclass(frozen=True)
class Verb:
    """Where a verb lives and what it does."""

    module: str
    summary: str


def _verb(name: str, summary: str) -> Verb:
    return Verb(f"meshwright.verbs.{name}", summary)


VERBS = {
    "plan": _verb("plan", "resolve, cost and explain; writes nothing"),
    "compile": _verb("compile", "the run folder: files for every backend that can express it, and verdicts"),
    "rehearse": _verb("rehearse", "the same layout in miniature, trained for real on this machine"),
    "launch": _verb("launch", "compile, then run here or submit to SLURM"),
    "status": _verb("status", "what a run folder's run is doing: meshwright status runs/X"),
    "data": _verb("data", "tokenize text into the indexed format"),
    "doctor": _verb("doctor", "what is installed and visible here, and what that allows"),
    "search": _verb("search", "layouts ranked, with the reason each other one lost"),
    "recipes": _verb("recipes", "the library, each value with its source, and the audit"),
    "validate": _verb("validate", "our error on measured runs: rows=FILE.csv or runs=[FOLDER,...]"),
    "bench": _verb("bench", "this machine measured: a cluster file for cluster=NAME out=FILE; bench layer: one layer"),
    "calibrate": _verb("calibrate", "a cluster's constants from your own runs: the same, and cluster=NAME"),
}
