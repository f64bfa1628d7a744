"""The sections of docs/accuracy.md that hold kept-out errors to their bars, and published layouts to what fits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from fit_environments import ENVIRONMENTS, LEFT_OUT, belongs

from meshwright.cost import estimate
from meshwright.cost.fitting import Fits, fit_probability, fit_words, fits
from meshwright.cost.framework import framework_of
from meshwright.cost.memory import allocatable
from meshwright.cost.plan_cost import Cost, cost
from meshwright.library import files as library
from meshwright.library.published import DISCLOSED, Spared, spared_of
from meshwright.library.recipe import Recipe, Record, provenance_of
from meshwright.measured.rows import Row
from meshwright.measured.validate import Judged
from meshwright.report.spared import theirs
from meshwright.resolver import layout, normalise, resolve
from meshwright.spec import Spec

__all__ = ["bars", "recipes"]

GIB = 2**30
BRIDGE, DGXC, AUTOMODEL = "nvidia-megatron-bridge", "nvidia-dgxc-benchmarking", "nvidia-automodel"
EIGHT = ("fp8_tensorwise", "fp8_delayed", "fp8_blockwise", "mxfp8")

BARS: tuple[tuple[str, Callable[[Row], bool], float, float], ...] = (
    ("Megatron-Bridge, all GPUs and precisions", lambda row: row.source == BRIDGE, 0.08, 0.20),
    ("DGX Cloud, mixtures", lambda row: row.source == DGXC and _moe(row), 0.10, 0.20),
    ("Automodel", lambda row: row.source == AUTOMODEL, 0.10, 0.20),
    (
        "dense in 8 bits, NVIDIA's sources",
        lambda row: not _moe(row) and row.spec.training.precision in EIGHT,
        0.06,
        0.12,
    ),
)
"""(rows, which of NVIDIA's they are, the bar of their median error, and of the ninth in ten)."""


def _moe(row: Row) -> bool:
    return row.spec.model.moe is not None


def bars(judged: Sequence[Judged]) -> str:
    """Each bar: met or not, by errors of rows that no fit of their machine saw."""
    errors = list(_unseen(judged))
    lines = ["## Bars", ""]
    lines += ["Step time, of rows that no fit of their machine saw: each group by constants fitted without it, rows of"]
    lines += ["B300, DGX Cloud's mixtures on GB200 and 25.09's on H100, which no fit holds, as they are predicted."]
    lines += [""]
    lines += ["| rows | n | median | bar | p90 | bar | met |", "|" + "---|" * 7]
    for name, of, middle, ninth in BARS:
        sizes = sorted(abs(error) for row, error in errors if of(row))
        a, b = median(sizes), sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]
        met = "yes" if a <= middle and b <= ninth else "no"
        lines.append(f"| {name} | {len(sizes)} | {a:.1%} | {middle:.0%} | {b:.1%} | {ninth:.0%} | {met} |")
    return "\n".join(lines) + "\n"


def _unseen(judged: Sequence[Judged]) -> Iterator[tuple[Row, float]]:
    """NVIDIA's rows with their errors: kept out of their machine's fit, or of a machine that has none."""
    noted = json.loads(LEFT_OUT.read_text())
    timed = [j for j in judged if j.measured_time and j.row.source in (BRIDGE, DGXC, AUTOMODEL, "nvidia-nemo-docs")]
    seen: set[str] = set()
    for name, environment in ENVIRONMENTS.items():
        kept = {group: iter(errors) for group, errors in noted.get(name, {}).items()}
        for j in timed:
            if belongs(j.row, environment):
                seen.add(j.row.row_id)
                if j.row.group in kept:
                    yield j.row, next(kept[j.row.group])
    yield from ((j.row, j.step_time / (j.measured_time or 1) - 1) for j in timed if j.row.row_id not in seen)


def recipes() -> str:
    """Layouts of recipes by how likely they are said to fit, and every one that is not likely with its reason."""
    every = list(_layouts())
    found = [_Doubted(*one, cost(resolve(one[1]), explained=False)) for one in every if _estimated(one[1]) != "likely"]
    lines = ["## Recipes that ran", ""]
    lines += [
        f"Of the {len(every)} layouts of all recipes (each variant, each stage), {len(every) - len(found)} are said"
    ]
    lines += ["to fit likely. The others, in GiB, with what the authors' trainer held where the recipe says it:", ""]
    lines += ["| recipe | of usable | to fit | theirs | why |", "|" + "---|" * 5, *map(_line, found)]
    words = [fits(one.costs.fit_probability) for one in found if not _reason(one)]
    open_ones = f"{words.count('about even')} about even, {words.count('unlikely')} unlikely"
    return "\n".join([*lines, "", f"Without a reason: {open_ones}, of {len(every)}."]) + "\n"


@dataclass(frozen=True)
class _Doubted:
    """A layout that is not said to fit likely, with what its recipe says of it."""

    recipe: Recipe
    spec: Spec
    record: Record
    costs: Cost

    @property
    def spared(self) -> tuple[Spared, ...]:
        return spared_of(self.recipe.about.spared, self.spec.names)


def _line(one: _Doubted) -> str:
    their = f"{theirs(one.costs, one.spared) / GIB:.0f}" if one.spared else ""
    name = "/".join((one.recipe.name, *one.spec.names[1:]))
    room = f"{one.costs.peak_memory / GIB:.0f} of {one.costs.memory_limit / GIB:.0f}"
    return f"| `{name}` | {room} | {fit_words(one.costs.fit_probability)} | {their} | {_reason(one)} |"


def _layouts() -> Iterator[tuple[Recipe, Spec, Record]]:
    for name in library.names():
        recipe = library.recipe(name)
        records = {record.stage or record.variant: record for record in recipe.records}
        for run in library.runs(name):
            yield from (
                (recipe, spec, records.get(spec.stage or spec.variant, recipe.records[0])) for spec in run.stages
            )


def _estimated(spec: Spec) -> Fits:
    """By the closed form, which takes a hundredth of the simulation's time and counts the same bytes."""
    found = layout(normalise(spec))
    limit = allocatable(found.cluster.accelerator.memory_gib)
    return fits(fit_probability(float(estimate(found).peak_memory), limit, framework_of(found).memory_spread))


SPEEDS = ("step_seconds", "tokens_per_s_per_gpu", "tflops_per_gpu", "causal_tflops_per_gpu", "mfu", "hfu")
DECISIVE = ("recompute", "recompute_modules", "cp", "zero")


def _reason(one: _Doubted) -> str:
    """What keeps the prediction from being a contradiction of a run; empty where nothing does."""
    recipe, record = one.recipe, one.record
    if one.spared:
        return "; ".join(spared.why for spared in one.spared)
    claims = {*record.claims, *recipe.records[0].claims}
    benchmark = any(line.startswith("a benchmark") for line in recipe.about.differences)
    if benchmark and not claims & {*SPEEDS}:
        return "a preset without a published number: not known to have run"
    known = {**recipe.records[0].provenance, **record.provenance}
    entries = {name: provenance_of(f"parallelism.{name}", known) for name in DECISIVE}
    guessed = [name for name, entry in entries.items() if entry and entry.status not in DISCLOSED]
    return f"not published: {', '.join(guessed)}" if guessed else ""
