"""A plan for people: what was derived, how layers and parameters fall on the stages, what goes against the rules."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshwright.layout.plan import Plan, Stage
from meshwright.report.terminal import terminal
from meshwright.rules.requirements import Requirement, needed
from meshwright.spec.effect import Effect, effect_of, unequal
from meshwright.spec.software import HERE

__all__ = ["show"]


def show(plan: Plan, console: Console | None = None, before: Plan | None = None) -> None:
    """Print ``plan`` to the terminal; ``before``: the stage that it goes on from."""
    console = console or terminal()
    console.print(Text("/".join(plan.spec.names), style="bold"), Text(f" {_headline(plan)}"), sep="")
    for name, value in (*_facts(plan), *_changes(before, plan)):
        console.print(Text(f"  {name:<10} ", style="dim"), Text(value), sep="")
    console.print(_stages(plan))
    for warning in plan.warnings:
        console.print(Text(f"  warning: {warning}", style="yellow"))


def _headline(plan: Plan) -> str:
    cluster, grid = plan.spec.cluster, plan.grid
    nodes = f"{grid.nodes} node{'s' * (grid.nodes > 1)} of {cluster.name}"
    gpus = f"{grid.world:,} {cluster.accelerator.name}"
    model = f"{plan.spec.model.name} " if plan.spec.model.name != plan.spec.name else ""
    return f"{model}on {gpus}, {nodes}, backend {plan.spec.backend.name}"


def _facts(plan: Plan) -> Iterator[tuple[str, str]]:
    grid, p, batch = plan.grid, plan.spec.parallelism, plan.batch
    yield "world", f"{grid.world:,} = {grid.factors}"
    if plan.spec.model.moe:
        yield "experts", f"{grid.world:,} = {grid.expert_factors}"
    extras = [f"vpp {p.vpp}", f"ZeRO-{p.zero}", f"recompute {p.recompute}"] + ["sequence parallel"] * p.sp
    yield "layout", ", ".join(extras)
    ranks = f"gtp·dp {grid.data}" if grid.gtp > 1 else f"dp {grid.dp}"
    product = f"micro {batch.micro_batch} · {ranks} · {batch.microbatches} micro-batches"
    yield "batch", f"{batch.global_batch:,} sequences of {batch.sequence:,} = {batch.tokens:,} tokens = {product}"
    if plan.steps:
        yield "steps", f"{plan.steps:,}"
    if needs := _needs(plan):
        yield "nodes need", ", ".join(needs)
    active = f", {plan.active_parameters:,} active" if plan.spec.model.moe else ""
    yield (
        "parameters",
        f"{plan.total_parameters:,}{active}; vocabulary {plan.spec.model.vocab:,} padded to {plan.padded_vocab:,}",
    )


_CHANGE: dict[Effect, str] = {"learned": "learns", "runs": "runs"}


def _changes(before: Plan | None, plan: Plan) -> Iterator[tuple[str, str]]:
    """What is trained otherwise than in the stage before, and what only runs otherwise."""
    found = list(unequal(before.spec, plan.spec)) if before else []
    for effect, name in _CHANGE.items():
        changed = [f"{path} {_said(a)} -> {_said(b)}" for path, a, b in found if effect_of(path) == effect]
        if changed:
            yield name, f"otherwise than {before.spec.stage if before else None}: {', '.join(changed)}"


def _said(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value) if isinstance(value, float | str | bool) else "..."


def _needs(plan: Plan) -> list[str]:
    """Each component once, in the newest of the versions that options ask for, and what the software has of it."""
    rows: dict[str, Requirement] = {}
    for row in sorted(needed(plan.spec), key=_least):
        rows[row.component] = row
    return [f"{row.name} ({_version(plan, row)})" for row in rows.values()]


def _least(row: Requirement) -> tuple[int, ...]:
    return tuple(int(part) for part in (row.least or "0").split("."))


def _version(plan: Plan, row: Requirement) -> str:
    software = plan.spec.software
    found = software.components.get(row.component)
    if found == HERE:
        return f"in software={software.name}" + (", which does not say its version" if row.least else "")
    return f"software={software.name} has {found}" if found else f"software={software.name} does not say"


def _stages(plan: Plan) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("stage", "layers", "parameters per rank", "of these experts"):
        table.add_column(name, justify="left" if name == "layers" else "right")
    numbered = list(enumerate(plan.stages))
    for _, run in groupby(numbered, key=lambda pair: _row(pair[1])):
        same = list(run)
        label = str(same[0][0]) if len(same) == 1 else f"{same[0][0]}-{same[-1][0]}"
        table.add_row(label, *_row(same[0][1]))
    return table


def _row(stage: Stage) -> tuple[str, ...]:
    layers = "+".join(str(chunk.layers) for chunk in stage.chunks)
    return layers, f"{stage.parameters:,}", f"{stage.expert_parameters:,}" if stage.expert_parameters else "-"
