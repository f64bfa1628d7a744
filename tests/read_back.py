"""What was written for a backend, read back as a Plan of ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from meshwright.emit.megatron import flags
from meshwright.emit.megatron_files import megatron_files
from meshwright.imports.found import Place, Source, together
from meshwright.imports.read import imported
from meshwright.imports.run import described
from meshwright.jobs.run_folder import files
from meshwright.layout.in_folder import in_folder
from meshwright.layout.plan import Plan
from meshwright.resolver import resolve
from meshwright.spec import Spec

__all__ = ["again", "differences", "plan_of", "words_in", "words_of", "written"]

SAID_ELSEWHERE = {
    "name": "the file's name",
    "stage": "one file is one stage",
    "variant": "one file is one variant",
    "model.name": "the file's name",
    "model.transformers": "Megatron's arguments know no transformers",
    "model.moe.score_before_topk": "normalised weights are the same either way",
    "training.tokens": "the steps that they take",
    "training.steps": "the steps of the tokens, 1,000 where neither is stated",
    "training.schedule.wsd_decay_style": "wsd only",
    "backend.deepspeed": "the other backend's options",
    "cluster": "the machine is named by its cluster, not by Megatron's arguments",
    "launch": "started by another program",
}
"""What Megatron's arguments do not carry, or say otherwise, with the reason."""


def words_of(*words: str) -> list[tuple[str, Place]]:
    return [(word, Place("args.txt", number)) for number, word in enumerate(words, 1)]


def words_in(folder: Path, plan: Plan) -> list[tuple[str, Place]]:
    """Megatron's arguments as a script in ``folder`` has them, beside the files that they name."""
    for name, text in megatron_files(plan).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return [(word, Place(str(folder / "run.sh"), n)) for n, word in enumerate(in_folder(flags(plan), "."), 1)]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def plan_of(source: Source, original: Spec) -> Plan:
    run = described(together([source], ("args.txt",)), [])
    (stage,) = run.stages
    return resolve(replace(stage, cluster=original.cluster, launch=original.launch, software=original.software))


def scale(plan: Plan) -> float:
    model = plan.spec.model
    return model.attention_scale or model.head_dim**-0.5


def differences(ours: Plan, theirs: Plan) -> set[str]:
    left, right = dict(leaves(asdict(ours.spec))), dict(leaves(asdict(theirs.spec)))
    changed = {path for path in left.keys() | right.keys() if left.get(path) != right.get(path)}
    if scale(ours) == scale(theirs):  # the usual one can be left out
        changed -= {"model.attention_scale"}
    if ours.spec.model.position_rows == theirs.spec.model.position_rows:  # all that Megatron's table has
        changed -= {"model.max_positions", "model.position_offset"}
    return {path for path in changed if not any(f"{path}.".startswith(f"{known}.") for known in SAID_ELSEWHERE)}


def written(plan: Plan, folder: Path) -> Path:
    for name, text in files(plan, verified=False).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def again(path: Path, original: Spec, *words: str) -> Plan:
    """The Plan of an import; the machine and how it is launched are said elsewhere."""
    (stage,) = described(imported([path]), (f"software={original.software.name}", *words)).stages
    same = {name: getattr(original, name) for name in ("cluster", "launch", "name", "software", "stage")}
    return resolve(replace(stage, **same))
