"""A foreign file judged: what its framework would refuse or change, whether it fits, what one change would bring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from meshwright.cost import Cost, cost
from meshwright.cost.fitting import fit_words, fits
from meshwright.cost.memory import GIB
from meshwright.emit import megatron
from meshwright.errors import ConfigError, Problem
from meshwright.imports.asks import problems
from meshwright.imports.found import Imported, Place
from meshwright.imports.run import described, open_asks
from meshwright.layout.plan import Plan
from meshwright.resolver import resolve
from meshwright.spec.frozen import dataclass

__all__ = ["Checked", "Level", "Said", "checked"]

Level = Literal["error", "warning", "advice"]


@dataclass(frozen=True)
class Said:
    """One thing said of a file. ``path``: the key of ours that it is about, empty for what is the file's own."""

    level: Level
    rule: str
    path: str
    message: str
    place: Place


@dataclass(frozen=True)
class Checked:
    """Everything said; the plan and its cost where nothing stands against them."""

    imported: Imported
    said: tuple[Said, ...]
    plan: Plan | None = None
    cost: Cost | None = None

    def code(self, strict: bool) -> int:
        """0: fine; 1: warnings, where ``strict`` makes them errors; 2: refused."""
        levels = {one.level for one in self.said}
        return 2 if "error" in levels else int(strict and "warning" in levels)


def checked(imported: Imported, words: Sequence[str] = (), config_dir: str | Path | None = None) -> Checked:
    """Judge what was imported, with ``words`` of the command line above it."""
    own = tuple(Said(one.level, one.rule, "", one.message, one.place) for one in imported.remarks)
    asks = tuple(_of_problem(one, imported) for one in problems(open_asks(imported, words), imported.choices))
    if asks:
        return Checked(imported, (*own, *asks))
    try:
        plan = resolve(described(imported, words, config_dir).stages[0])
    except ConfigError as error:
        return Checked(imported, (*own, *(_of_problem(problem, imported) for problem in error.problems)))
    costs = cost(plan)
    return Checked(imported, (*own, *_of_plan(plan, costs, imported)), plan, costs)


def _of_problem(problem: Problem, imported: Imported) -> Said:
    """With its repairs; where the file says what it is about."""
    place = imported.place(problem.path)
    bare = Problem("", problem.message.removeprefix(f"{place}: "), problem.rule, problem.repairs)
    return Said("error", problem.rule, problem.path, str(bare), place)


def _of_plan(plan: Plan, costs: Cost, imported: Imported) -> Iterator[Said]:
    for caution in plan.warnings:
        yield Said("warning", caution.rule, caution.path, caution.message, imported.place(caution.path))
    yield from _queue(plan, imported)
    if fits(costs.fit_probability) != "likely":
        words = fit_words(costs.fit_probability)
        sizes = f"{costs.peak_memory / GIB:.1f} GiB of {costs.memory_limit / GIB:.1f} usable"
        place = imported.place("training.micro_batch")
        yield Said("warning", "cost.memory", "cluster.accelerator", f"{sizes}; to fit: {words}", place)
    for one in costs.advice:
        yield Said("advice", "cost.advice", one.path, one.message, imported.place(one.path))


def _insisted(plan: Plan) -> dict[str, str]:
    """What validate_args looks for; other variables only make a layout faster."""
    wanted = {name: variable.value for name, variable in megatron.environment(plan).items()}
    return {name: value for name, value in wanted.items() if name == "CUDA_DEVICE_MAX_CONNECTIONS"}


def _queue(plan: Plan, imported: Imported) -> Iterator[Said]:
    """Variables that Megatron insists on: what a script exports, or leaves to its surroundings."""
    if plan.spec.backend.name != "megatron" or not any("script" in kind for kind in imported.kinds):
        return
    for name, value in _insisted(plan).items():
        said = imported.values.get("launch.environment", {}).get(name)
        if said != value and not (megatron.uses_fsdp(plan) and said != "1"):
            has = f"the script sets it to {said}" if said else "the script does not set it"
            message = f"Megatron stops this layout without {name}={value} (training/arguments.py:1014, :1437); {has}"
            place = imported.place("launch.environment") if said else Place(imported.files[0])
            yield Said("error" if said else "warning", "megatron.environment", "launch.environment", message, place)
