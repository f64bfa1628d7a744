"""A plan's files for a program that others launch, in a folder of its name in the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from meshwright.emit.exports import EXPORTS
from meshwright.jobs.folders import refuse_foreign, usable, write
from meshwright.jobs.run_folder import Compiled
from meshwright.layout.plan import Plan
from meshwright.spec.identity import as_json, identity, plain

if TYPE_CHECKING:
    from meshwright.verify.verdict import Verdict

__all__ = ["export"]


def export(program: str, plans: Sequence[Plan], folders: Sequence[Path], *, verify: bool = True) -> list[Compiled]:
    """Write the files of ``program`` for every stage, judged by its own code; all are made before any is written.

    Raises:
        ConfigError: where a folder holds something else.

    """
    for plan, folder in zip(plans, folders, strict=True):
        with usable(folder):
            refuse_foreign(folder, identity(plan.spec))
    texts = [_texts(program, plan) for plan in plans]
    verdicts = _verify(program, plans) if verify else [()] * len(plans)
    written = []
    for plan, folder, names, judged in zip(plans, folders, texts, verdicts, strict=True):
        if verify:
            names[f"{program}/verdict.json"] = as_json([asdict(verdict) for verdict in judged])
        with usable(folder):
            write(folder, names, identity(plan.spec))
        written.append(Compiled(folder, tuple(names), tuple(judged)))
    return written


def _texts(program: str, plan: Plan) -> dict[str, str]:
    config = yaml.safe_dump(plain(asdict(plan.spec)), sort_keys=False)
    return {"config.yaml": config, **{f"{program}/{name}": text for name, text in EXPORTS[program](plan).items()}}


def _verify(program: str, plans: Sequence[Plan]) -> list[tuple[Verdict, ...]]:
    from meshwright.verify import verify

    return verify(plans, (program,))
