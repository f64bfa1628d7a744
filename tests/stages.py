"""Runs of three small stages whose layout changes, to train for real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from meshwright.jobs.run_folder import compile_all, folder_name
from meshwright.jobs.transition import chain
from meshwright.layout.plan import Plan
from meshwright.rehearse.shrink import miniature, one_process
from meshwright.resolver import resolve
from meshwright.spec import Data, Parallelism, Schedule, Spec

__all__ = ["STEPS", "compiled", "staged", "whole"]

STEPS = 4  # of each stage
SCHEDULE = Schedule(style="cosine", warmup_steps=2, decay_steps=3 * STEPS, min_lr=1e-4)


def staged(original: Spec, text: Path, layouts: Sequence[Mapping[str, Any]], **launch: Any) -> list[Plan]:
    """The stages of a miniature of ``original``, each with a layout of its own, on the same text."""
    mini = miniature(original, 2, STEPS)[0]
    data = Data(paths=(str(text),), split="100,0,0", workers=0, tokenizer=mini.training.data.tokenizer)
    training = replace(mini.training, data=data, schedule=SCHEDULE)
    specs = []
    for i, degrees in enumerate(layouts):
        parallelism = Parallelism(cp_comm="all_gather" if degrees.get("cp", 1) > 1 else "p2p", **degrees)
        world = parallelism.tp * parallelism.cp * parallelism.pp * (parallelism.dp or 1)
        cluster = replace(mini.cluster, gpus=world, gpus_per_node=max(1, world // launch.get("nodes", 1)))
        specs.append(replace(mini, stage=f"s{i}", parallelism=parallelism, cluster=cluster, training=training))
    return [resolve(spec) for spec in specs]


def whole(plans: Sequence[Plan]) -> Plan:
    """A run of one stage on one process that takes the steps of all of them, one after the other."""
    one = one_process(plans[0].spec)
    return resolve(replace(one, training=replace(one.training, steps=len(plans) * STEPS)))


def compiled(plans: Sequence[Plan], runs: Path) -> list[Path]:
    """The run folders of the joined stages."""
    links = chain(plans)
    folders = [runs / folder_name(plan.spec) for plan in links.plans]
    compile_all(links.plans, folders, verify=False)
    return folders
