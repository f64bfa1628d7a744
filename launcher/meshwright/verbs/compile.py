"""``meshwright compile``: write the run folder of every stage and let the backends' own code judge it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from meshwright.compose import load
from meshwright.resolver import resolve
from meshwright.run_folder import Compiled, compile_all, folder_name
from meshwright.transition import joined
from meshwright.verbs import Words

__all__ = ["run"]


def run(words: Words) -> int:
    """Compile every stage; 1 where a check of a verdict failed."""
    asked = load(words.overrides, words.config_dir)
    plans = joined([resolve(spec) for spec in asked.stages])
    folders = [Path(asked.options.runs) / folder_name(plan.spec) for plan in plans]
    compiled = compile_all(plans, folders, verify=asked.options.verify)
    if asked.options.output == "json":
        from meshwright.report.summary import print_json, run_summary

        document = run_summary(asked.name, plans)
        extras = [_extras(one) for one in compiled]
        document["stages"] = [{**stage, **extra} for stage, extra in zip(document["stages"], extras, strict=True)]
        print_json({**document, **(extras[0] if len(extras) == 1 else {})})
    else:
        from meshwright.report.compiled import show

        for plan, one in zip(plans, compiled, strict=True):
            show(plan, one)
    return 0 if all(one.passed for one in compiled) else 1


def _extras(compiled: Compiled) -> dict[str, Any]:
    return {
        "folder": str(compiled.folder),
        "files": list(compiled.files),
        "verdicts": [{**asdict(verdict), "passed": verdict.passed} for verdict in compiled.verdicts],
    }
