"""Spec -> Plan: fill in what follows from the rest, judge every rule, count every parameter."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from itertools import islice
from typing import Any

from meshwright.errors import ConfigError, Problem, Repair
from meshwright.layout import length
from meshwright.layout.grid import Grid
from meshwright.layout.pipeline import split
from meshwright.layout.plan import Batch, Plan
from meshwright.model.count import active_parameters, padded_vocab, parts_of, stage, total_parameters
from meshwright.rules import POSITIVE, Layout, Rule, broken
from meshwright.rules.thumb import warnings
from meshwright.rules.values import value_problems
from meshwright.spec import Cluster, Parallelism, Spec, Training

__all__ = ["holds", "layout", "normalise", "override", "refusals", "resolve"]

SHOWN_REPAIRS = 3
TRIED_REPAIRS = 60


def resolve(spec: Spec, program: str | None = None) -> Plan:
    """Every derived number of ``spec``; for another ``program`` than its backend where files are exported.

    Raises:
        ConfigError: with one problem, and its repairs, for each rule of the chosen backend that is broken.
        TypeError: where ``spec`` is something else, such as a whole Run.

    """
    if not isinstance(spec, Spec):
        raise TypeError(f"resolve takes one Spec, such as load(...).stages[0], not a {type(spec).__name__}")
    problems = refusals(spec, program or spec.backend.name)
    if problems:
        raise ConfigError([_searchable(problem) for problem in problems])
    return _plan(normalise(spec))


def _searchable(problem: Problem) -> Problem:
    """No single change mends the layout: a search may find one that several make."""
    if problem.repairs or not problem.path.startswith("parallelism"):
        return problem
    return replace(problem, message=f"{problem.message}; parallelism=auto searches for a layout that holds")


def refusals(spec: Spec, backend: str) -> list[Problem]:
    """Why ``backend`` cannot run this layout; empty when it can."""
    numbers = layout(normalise(spec))
    values = value_problems(spec, backend)
    if values:  # rules would reckon with them
        return [*values, *(rule.problem(numbers) for rule in POSITIVE if not rule.holds(numbers))]
    wrong = broken(numbers, backend)
    return [rule.problem(numbers, tuple(_repairs(spec, rule, wrong, backend))) for rule in wrong]


def holds(spec: Spec, backend: str) -> bool:
    """Whether ``backend`` refuses nothing; ``refusals`` says what, and takes its time over repairs."""
    return not value_problems(spec, backend) and not broken(layout(normalise(spec)), backend)


def normalise(spec: Spec) -> Spec:
    """The same run with everything that follows from the rest filled in: GPUs, nodes, dp, batch, recompute, steps."""
    parallelism, training = spec.parallelism, spec.training
    world = _world(spec.cluster, parallelism)
    model_degree = parallelism.tp * parallelism.gtp * parallelism.cp * parallelism.pp
    dp = parallelism.dp if parallelism.dp is not None else max(1, world // model_degree) if model_degree > 0 else 1
    batch = training.global_batch
    if batch is None:
        gathered = max(1, parallelism.gtp)  # one that is no count is said once, as parallelism.gtp
        batch = training.micro_batch * gathered * dp * (training.microbatches or 1)
    nodes = spec.cluster.nodes or -(-world // max(1, spec.cluster.gpus_per_node))
    return replace(
        spec,
        cluster=replace(spec.cluster, gpus=world, nodes=nodes),
        parallelism=_recompute(replace(parallelism, dp=dp)),
        training=replace(training, global_batch=batch),
    )


def layout(spec: Spec) -> Layout:
    """The numbers the rules judge, of a normalised Spec."""
    p, t, division = spec.parallelism, spec.training, spec.parallelism.pipeline_split
    return Layout(
        **{name: getattr(p, name) for name in ("tp", "pp", "vpp", "cp", "ep", "etp", "dp", "zero")},
        sp=int(p.sp),
        world=spec.cluster.gpus,
        micro_batch=t.micro_batch,
        global_batch=t.global_batch,
        recompute=("none", "selective", "full").index(p.recompute),
        first=division.first or 0,
        last=division.last or 0,
        embedding=int(division.embedding),
        loss=int(division.loss),
        spec=spec,
    )


def override[T](value: T, path: str, new: object) -> T:
    """A copy of the dataclass ``value`` with the field at the dotted ``path`` set to ``new``."""
    name, _, rest = path.partition(".")
    return replace(value, **{name: override(getattr(value, name), rest, new) if rest else new})  # type: ignore[type-var]


def _world(cluster: Cluster, parallelism: Parallelism) -> int:
    if cluster.gpus is not None:
        return cluster.gpus
    if cluster.nodes is not None:
        return cluster.nodes * cluster.gpus_per_node
    if parallelism.dp is not None:
        return parallelism.tp * parallelism.gtp * parallelism.cp * parallelism.pp * parallelism.dp
    raise ConfigError(
        [Problem("cluster.gpus", "not set; give cluster.gpus, cluster.nodes or parallelism.dp, the others follow")]
    )


def _recompute(parallelism: Parallelism) -> Parallelism:
    """Full recompute without more words is uniform, layer by layer (what Megatron's examples do)."""
    if parallelism.recompute != "full":
        return parallelism
    return replace(
        parallelism,
        recompute_method=parallelism.recompute_method or "uniform",
        recompute_layers=1 if parallelism.recompute_layers is None else parallelism.recompute_layers,
    )


def _repairs(spec: Spec, rule: Rule, wrong: list[Rule], backend: str) -> list[Repair]:
    """The first few proposals after which nothing is broken; where there are none, those that mend ``rule`` alone."""
    others = {r.id for r in wrong} - {rule.id}
    whole: list[Repair] = []
    partial: list[Repair] = []
    for repair in islice(rule.repairs(layout(normalise(spec))), TRIED_REPAIRS):
        left = _broken_after(spec, repair, backend)
        if left <= others and repair not in whole + partial:
            (partial if left else whole).append(repair)
        if len(whole) == SHOWN_REPAIRS:
            break
    return (whole or partial)[:SHOWN_REPAIRS]


def _broken_after(spec: Spec, repair: Repair, backend: str) -> set[str]:
    mended: Any = spec
    for path, value in repair.items():
        if not _exists(spec, path):
            return {path}
        mended = override(mended, path, value)
    return {rule.id for rule in broken(layout(normalise(mended)), str(repair.get("backend.name", backend)))}


def _exists(value: Any, path: str) -> bool:
    for name in path.split("."):
        if not is_dataclass(value) or name not in {f.name for f in fields(value)}:
            return False
        value = getattr(value, name)
    return True


def _plan(spec: Spec) -> Plan:
    grid = _grid(spec)
    batch = _batch(spec.training, grid)
    vocab = padded_vocab(spec.model, spec.backend, grid.tp)
    chunks = split(spec.model, grid.pp, spec.parallelism.vpp, spec.parallelism.pipeline_split)
    return Plan(
        spec=spec,
        grid=grid,
        batch=batch,
        stages=tuple(stage(spec.model, of_stage, vocab, grid, spec.backend, parts_of(spec)) for of_stage in chunks),
        padded_vocab=vocab,
        total_parameters=total_parameters(spec.model),
        active_parameters=active_parameters(spec.model),
        steps=steps(spec.training, batch),
        warnings=tuple(warnings(spec, grid)),
    )


def _grid(spec: Spec) -> Grid:
    p, world = spec.parallelism, spec.cluster.gpus
    assert world is not None
    assert p.dp is not None
    edp = world // (p.etp * p.ep * p.egtp * p.pp)
    node = spec.cluster.gpus_per_node
    return Grid(p.tp, p.cp, p.pp, p.dp, p.ep, p.etp, edp, p.order, node, p.gtp, p.egtp)


def _batch(training: Training, grid: Grid) -> Batch:
    assert training.global_batch is not None
    microbatches = training.global_batch // (training.micro_batch * grid.data)
    return Batch(training.micro_batch, training.global_batch, microbatches, training.sequence)


def steps(training: Training, batch: Batch) -> int | None:
    """Optimizer steps of the run: as stated, or its tokens over the tokens of a step, ramp included."""
    return length.steps(training, batch.global_batch)
