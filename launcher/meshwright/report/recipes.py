"""The library for people: one line a recipe, or one recipe value by value with where each comes from."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshwright.library.finding import Finding
from meshwright.library.recipe import Claim, Provenance, Recipe, Record, provenance_of
from meshwright.report.terminal import terminal

__all__ = ["billions", "disclosed", "layout", "literal", "origin", "show_all", "show_one"]

WIDE = 240  # columns where nobody's terminal limits them
STYLES = {"published": "green", "derived": "green", "inferred": "yellow", "ours": "magenta"}


def show_all(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """One line for each recipe's summary, then the contradictions the audit found."""
    console = console or Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("recipe", no_wrap=True)
    for name in ("size", "layout", "disclosure", "values"):
        table.add_column(name, overflow="fold")
    table.add_column("sources", no_wrap=True, max_width=None if console.width >= WIDE else console.width // 5)
    for row in rows:
        size = billions(row["parameters"])
        first, *more = (source["ref"] for source in row["sources"].values())
        sources = f"{first}, {len(more)} more" if more else first
        table.add_row(row["id"], size, layout(row["layout"]), row["disclosure"], disclosed(row["values"]), sources)
    console.print(table)
    for row in rows:
        for finding in row["findings"]:
            console.print(Text(f"{row['id']}: {finding['check']}: {finding['message']}", style="yellow"))
    checks = sum(row["checks"] for row in rows)
    console.print(
        f"{len(rows)} recipes, {checks} arithmetic checks, {sum(len(r['findings']) for r in rows)} contradictions"
    )
    console.print("values: published/derived/inferred/ours; one recipe in full: meshwright recipes recipe=NAME")


def show_one(
    recipe: Recipe, unstated: Mapping[str, object], findings: Sequence[Finding], console: Console | None = None
) -> None:
    """Sources, every value with its status, what nobody states, differences from the authors' run, and the audit."""
    console = console or terminal()
    console.print(Text(f"{recipe.name}: {recipe.about.title}", style="bold"))
    console.print(f"trained with {recipe.about.authors_framework}")
    for key, source in recipe.about.sources.items():
        console.print(f"  {key:<8} {source.ref}{f' ({source.url})' if source.url else ''}")
    for record in recipe.records:
        _show_record(record, console)
    left = ", ".join(f"{path.removeprefix('training.')}={literal(value)}" for path, value in unstated.items())
    _show_list("stated by no source, so conf/training's values are trained with", [left] if left else [], console)
    _show_list("differences from the authors' run", recipe.about.differences, console)
    console.print(Text("audit", style="bold"))
    for finding in findings:
        console.print(
            Text(f"  {'agrees' if finding.agrees else 'CONTRADICTS'}  {finding}", "" if finding.agrees else "red")
        )


def layout(stages: Sequence[Mapping[str, Any]]) -> str:
    """The degrees in one line: of the largest stage, and how many there are."""
    stage = max(stages, key=lambda one: one["gpus"])
    degrees = [f"{name}{stage[name]}" for name in ("tp", "pp", "vpp", "cp", "ep") if stage[name] > 1]
    text = " ".join([*degrees, f"zero{stage['zero']}", f"on {stage['gpus']:,} GPUs"])
    variants, named = ({one[kind] for one in stages if one[kind]} for kind in ("variant", "stage"))
    several = [f"{len(variants)} variants"] * bool(variants) + [f"{len(named)} stages"] * bool(named)
    return ", ".join([text, *several])


def billions(parameters: int) -> str:
    """In three digits or whole billions: ``8.03B``, ``1,026B``."""
    return f"{parameters / 1e9:,.0f}B" if parameters >= 1e11 else f"{parameters / 1e9:.3g}B"


def disclosed(values: Mapping[str, int]) -> str:
    """Numbers of values by status: published/derived/inferred/ours."""
    return "/".join(str(values[status]) for status in STYLES)


def _show_record(record: Record, console: Console) -> None:
    if record.values or record.claims:
        part = [f"{kind} {name}" for kind in ("variant", "stage") if (name := getattr(record, kind))]
        console.print(Text("".join(part) or "values", style="bold"))
    for path, value in record.values.items():
        entry = provenance_of(path, record.provenance)
        assert entry is not None, path  # Recipe.read refuses values without provenance
        line = Text(f"  {path:<36} {literal(value):<24} ")
        console.print(line + Text(f"{entry.status:<10}", STYLES[entry.status]) + Text(origin(entry), "dim"))
    for metric, claim in record.claims.items():
        console.print(
            Text(f"  {metric:<36} {claim.value:<24,.6g} ") + Text("claimed   ", "cyan") + Text(_where(claim), "dim")
        )


def _show_list(title: str, lines: Sequence[str], console: Console) -> None:
    if lines:
        console.print(Text(title, style="bold"))
    for line in lines:
        console.print(f"  {line}")


def literal(value: object) -> str:
    """A value as YAML writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def origin(entry: Provenance) -> str:
    """Where a value comes from, in one line."""
    return "; ".join(_parts(entry))


def _parts(entry: Provenance) -> Iterator[str]:
    if entry.published is not None:
        yield f"published as {literal(entry.published)}"
    if entry.source:
        yield f"{entry.source}, {entry.where}" if entry.where else entry.source
    if entry.why:
        yield entry.why


def _where(claim: Claim) -> str:
    return f"{claim.source}, {claim.where}{f' ({claim.note})' if claim.note else ''}"
