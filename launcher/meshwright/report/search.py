"""A search for people and for machines: the ranking, why the winner wins, why the others lose."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshwright.cost.fitting import fit_probability, fit_words
from meshwright.cost.framework import framework_of
from meshwright.cost.inputs import scene
from meshwright.cost.memory import GIB
from meshwright.cost.offload import host, notes
from meshwright.cost.stage_loads import stages_of
from meshwright.cost.techniques import TECHNIQUES
from meshwright.report import problems
from meshwright.resolver import layout
from meshwright.search.candidate import Candidate, layout_words
from meshwright.search.frontier import Point, row, scaling
from meshwright.search.objective import OBJECTIVES
from meshwright.search.question import Result
from meshwright.search.rank import TIE, budget
from meshwright.search.reasons import PARTS, Answer, over, slower
from meshwright.search.table import Exclusion, as_layout
from meshwright.search.techniques import reasons

__all__ = ["document", "show"]


WIDE = 200
"""Columns where the output is no terminal."""


def show(result: Result, command: str, console: Console | None = None) -> None:
    """Print one stage's search; ``command`` measures the best layouts."""
    console = console or Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
    ranking, spec = result.ranking, result.space.current
    console.print(Text("/".join(spec.names), style="bold"), Text(f"  {OBJECTIVES[ranking.goal.objective]}"), sep="")
    console.print(Text(_counts(result)), style="dim")
    if ranking.best:
        console.print(_best(ranking.best))
        for line in (*_verdict(result), *_offloaded(ranking.best[0]), *_of_techniques(result)):
            console.print(Text(f"  {line}"))
    if len(points := scaling(ranking)) > 1:
        console.print(_scaling(points))
    if result.why:
        _show_why(result.why, console)
    else:
        if not ranking.valid:
            return _section(console, "excluded by rule", _excluded(ranking.excluded.values(), result))
        if ranking.frontier:
            _section(console, "what no other layout beats in step time and memory", _best(ranking.frontier[:12]))
        _section(console, "every other value, with the best layout that has it", _choices(result))
        _section(console, "excluded by rule", _excluded(ranking.excluded.values(), result))
    if ranking.best:
        console.print(Text("measure the best: ", style="dim"), Text(command), sep="")


def document(result: Result, command: str) -> dict[str, Any]:
    """The same for machines."""
    ranking = result.ranking
    return {
        "name": result.space.current.name,
        "variant": result.space.current.variant,
        "stage": result.space.current.stage,
        "objective": ranking.goal.objective,
        "points": ranking.points,
        "valid": ranking.valid,
        "fitting": ranking.fitting,
        "seconds": ranking.seconds,
        "proven": ranking.proven,
        "best": [row(c) for c in ranking.best],
        "ties": len(ranking.ties),
        "winner_against_runner_up": str(result.against_runner_up) if result.against_runner_up else None,
        "winner_against_current": str(result.against_current) if result.against_current else None,
        "current": row(result.current) if result.current else None,
        "current_problems": [str(problem) for problem in result.wrong],
        "frontier": [row(c) for c in ranking.frontier],
        "scaling": [{**row(p.candidate), "efficiency": p.efficiency, "days": p.days} for p in scaling(ranking)],
        "choices": [
            {"axis": axis, "value": value, "reasons": list(_lost(result, c)), **row(c)}
            for (axis, value), c in sorted(ranking.choices.items(), key=lambda pair: (pair[0][0], str(pair[0][1])))
        ],
        "excluded": [
            {"rule": e.rule.id, "points": e.points, "example": _example(e, result)} for e in ranking.excluded.values()
        ],
        "notes": [*_offloaded(ranking.best[0]), *_of_techniques(result)] if ranking.best else [],
        "why": _why_document(result.why) if result.why else None,
        "measure": command,
    }


def _offloaded(winner: Candidate) -> Iterator[str]:
    """What the best layout asks of the host, where states leave the GPU."""
    described = scene(layout(winner.spec))
    found = host(described, stages_of(described).loads)
    if away := found.states + found.activations:
        seconds = winner.parts["offload"]
        yield f"the best keeps {away / GIB:,.1f} GiB on a node's host, and waits {seconds:.3g} s a step for offload"
    yield from notes(described)


def _of_techniques(result: Result) -> Iterator[str]:
    """Why the best has each technique that was tried, or not."""
    tried = {path for bundle in result.space.bundles for path in bundle}
    asked = [one for one in TECHNIQUES if tried & one.off.keys()]
    if asked:
        yield from reasons(result.ranking.best[0].spec, asked)


def _counts(result: Result) -> str:
    r = result.ranking
    return (
        f"{r.points:,} layouts proposed, {r.valid:,} are valid, {r.fitting:,} of these fit; {r.seconds:.1f} s, "
        f"{r.valid / max(r.seconds, 1e-9):,.0f} layouts costed a second"
        f"{'' if r.proven else '; the best were simulated, but one left out might be as good'}"
    )


def _best(candidates: Sequence[Candidate]) -> Table:
    table = _table("", "GPUs", "step", "tokens/s/GPU", "peak memory", "spare", "to fit", "layout")
    for place, c in enumerate(candidates, 1):
        spare = (budget(c.spec.cluster) - c.peak_memory) / GIB
        costs = (
            f"{c.step_time:.3f} s",
            f"{c.tokens_per_gpu:,.0f}",
            f"{c.peak_memory / GIB:.1f} GiB",
            f"{spare:.1f}",
            _to_fit(c),
        )
        table.add_row(str(place), f"{c.gpus:,}", *costs, layout_words(c))
    return table


def _to_fit(c: Candidate) -> str:
    spread = framework_of(layout(c.spec)).memory_spread
    return fit_words(fit_probability(c.peak_memory, budget(c.spec.cluster), spread))


def _verdict(result: Result) -> Iterator[str]:
    ranking, winner = result.ranking, result.ranking.best[0]
    parts = sorted(winner.parts.items(), key=lambda part: -part[1])
    yield "the winner's step: " + ", ".join(
        f"{PARTS[n]} {s / winner.step_time:.0%}" for n, s in parts if s > 0.01 * winner.step_time
    )
    if ranking.ties:
        yield f"a tie: {len(ranking.ties)} of the others shown are within {TIE:.0%}, which the model cannot tell apart"
    if result.against_runner_up:
        yield f"against the runner-up: {result.against_runner_up}"
    if result.against_current:
        yield f"against the layout as described: {result.against_current}"
    for problem in result.wrong:
        yield f"the layout as described is none: {problem}"
    if result.current and result.current.peak_memory > budget(result.current.spec.cluster):
        yield f"the layout as described {over(result.current)}"


def _scaling(points: Sequence[Point]) -> Table:
    table = _table("GPUs", "step", "tokens/s/GPU", "efficiency", "days", "layout")
    for p in points:
        c = p.candidate
        days = "-" if p.days is None else f"{p.days:.1f}"
        costs = (f"{c.step_time:.3f} s", f"{c.tokens_per_gpu:,.0f}", f"{p.efficiency:.0%}", days)
        table.add_row(f"{c.gpus:,}", *costs, layout_words(c))
    return table


def _choices(result: Result) -> Table:
    table = _table("", "step", "peak memory", "why not")
    ordered = sorted(result.ranking.choices.items(), key=lambda pair: pair[0][0])
    for axis, found in groupby(ordered, key=lambda pair: pair[0][0]):
        several = sorted(found, key=lambda pair: pair[0][1])
        for (_, value), c in several if len(several) > 1 else ():
            costs = (f"{c.step_time:.3f} s", f"{c.peak_memory / GIB:.1f} GiB")
            table.add_row(f"{axis} {value}", *costs, "; ".join(_lost(result, c)))
    return table


def _lost(result: Result, candidate: Candidate) -> Iterator[str]:
    """Why one layout is not the winner."""
    winner = result.ranking.winner
    if candidate.peak_memory > budget(candidate.spec.cluster):
        yield over(candidate)
    elif winner is None:
        yield "too slow for search.days"
    elif candidate.spec == winner.spec:
        yield "chosen"
    else:
        yield from slower(winner, candidate)


def _excluded(exclusions: Any, result: Result) -> Table:
    table = _table("layouts", "rule", "for example")
    for e in sorted(exclusions, key=lambda e: -e.points):
        table.add_row(f"{e.points:,}", e.rule.id, _example(e, result))
    return table


def _example(exclusion: Exclusion, result: Result) -> str:
    from meshwright.resolver import normalise

    return exclusion.rule.problem(as_layout(normalise(result.space.current), exclusion.example)).message


def _show_why(answer: Answer, console: Console) -> None:
    asked = ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in answer.asked.items())
    console.print(
        Text(f"why not {asked}: ", style="bold"), Text(f"{answer.verdict} ({answer.points:,} layouts)"), sep=""
    )
    for line in (*map(str, answer.problems), *answer.reasons):
        console.print(Text(f"  {line}"))
    if answer.candidate:
        console.print(Text(f"  the best of them: {layout_words(answer.candidate)}"))
    if answer.comparison:
        console.print(Text(f"  from the winner to it: {answer.comparison}"))


def _why_document(answer: Answer) -> dict[str, Any]:
    return {
        "asked": dict(answer.asked),
        "verdict": answer.verdict,
        "points": answer.points,
        "problems": problems.document(answer.problems),
        "reasons": list(answer.reasons),
        "best": row(answer.candidate) if answer.candidate else None,
        "comparison": str(answer.comparison) if answer.comparison else None,
    }


def _section(console: Console, title: str, table: Table) -> None:
    console.print(Text(title, style="bold"))
    console.print(table)


def _table(*names: str) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in names:
        left = name in ("layout", "why not", "for example", "rule")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    return table
