"""An import and its judgement, for people, for pull requests and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.text import Text

from meshwright.cost.summary import plan_summary
from meshwright.imports.check import Checked, Said
from meshwright.imports.found import Fate, Found, Imported
from meshwright.report.cost import show_cost
from meshwright.report.plan import show as show_plan
from meshwright.report.terminal import terminal

__all__ = ["document", "github", "markdown", "show", "show_account"]

_FATES: dict[Fate, str] = {
    "mapped": "carried",
    "default": "defaults",
    "passed": "passed through",
    "dropped": "not carried",
}
_STYLES = {"error": "red", "warning": "yellow", "advice": "green"}


def show(checked: Checked, console: Console | None = None) -> None:
    """Print the account, what is said, the plan and its cost."""
    console = console or terminal()
    show_account(checked.imported, console)
    for one in checked.said:
        console.print(Text(f"  {one.level:8}", style=_STYLES[one.level]), Text(_line(one)), sep="")
    if checked.plan is not None and checked.cost is not None:
        show_plan(replace(checked.plan, warnings=()), console)  # said above, with their lines
        constants = checked.plan.spec.cluster.efficiency.source
        show_cost(replace(checked.cost, advice=()), constants, console)
    else:
        console.print(Text("  refused: no plan is made of it", style="bold red"))


def show_account(imported: Imported, console: Console, whole: bool = False) -> None:
    """How many keys have which fate, and each key that is not carried; all of them where ``whole``."""
    for file, kind in zip(imported.files, imported.kinds, strict=True):
        console.print(Text(file, style="bold"), Text(f" {kind}", style="dim"), sep="")
    counts = Counter(one.fate for one in imported.found)
    said = ", ".join(f"{counts[fate]} {words}" for fate, words in _FATES.items() if counts[fate])
    console.print(f"  {len(imported.found)} keys: {said or 'none'}")
    for one in imported.found:
        if whole or one.fate == "dropped":
            console.print(Text(f"  {_FATES[one.fate]:14} {_key(one)}", style="dim"))


def _key(one: Found) -> str:
    value = f" {one.value}" if one.value else ""
    where = f" -> {one.path}" if one.path and one.fate != "dropped" else ""
    return f"{one.place}: {one.key}{value}{where}{f': {one.reason}' if one.reason else ''}"


def _line(one: Said) -> str:
    path = f"{one.path}: " if one.path else ""
    return f"{one.place}: {path}{one.message}{f' [{one.rule}]' if one.rule else ''}"


def document(checked: Checked, strict: bool) -> dict[str, Any]:
    """The machine-readable form: every key with its fate, every thing said, the plan."""
    imported = checked.imported
    return {
        "files": list(imported.files),
        "kinds": list(imported.kinds),
        "code": checked.code(strict),
        "said": [{**vars(one), "place": vars(one.place)} for one in checked.said],
        "keys": keys(imported),
        "plan": plan_summary(checked.plan, checked.cost) if checked.plan else None,
    }


def keys(imported: Imported) -> list[dict[str, Any]]:
    """Every key of the source with its fate."""
    return [{**vars(one), "place": vars(one.place)} for one in imported.found]


def github(said: Sequence[Said]) -> Iterator[str]:
    """Workflow commands of GitHub Actions, which annotate the lines of a pull request."""
    kinds = {"error": "error", "warning": "warning", "advice": "notice"}
    for one in said:
        line = f",line={one.place.line}" if one.place.line else ""
        place = f"file={_escaped(one.place.file, ',:')}{line},title={_escaped(one.rule, ',:')}"
        path = f"{one.path}: " if one.path else ""
        yield f"::{kinds[one.level]} {place}::{_escaped(path + one.message)}"


def _escaped(text: str, more: str = "") -> str:
    """As the runner's toolkit escapes data and properties (actions/toolkit, core/src/command.ts)."""
    for character in f"%\r\n{more}":
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def markdown(checked: Checked) -> Iterator[str]:
    """Two tables: what is said, and what is not carried."""
    for file, kind in zip(checked.imported.files, checked.imported.kinds, strict=True):
        yield f"## `{file}`: {kind}"
    yield ""
    if checked.said:
        yield from ("| | where | what |", "|---|---|---|")
        yield from (f"| {one.level} | `{one.place}` | {_cell(_about(one))} |" for one in checked.said)
    lost = [one for one in checked.imported.found if one.fate == "dropped"]
    if lost:
        yield from ("", "| not carried | where | why |", "|---|---|---|")
        yield from (f"| `{_cell(one.key)}` | `{one.place}` | {_cell(one.reason)} |" for one in lost)
    if checked.plan is not None and checked.cost is not None:
        grid = checked.plan.grid
        yield f"\n{grid.world:,} GPUs = {grid.factors}; "
        yield f"{checked.cost.step_time:.3g} s a step, MFU {checked.cost.mfu:.1%}"


def _about(one: Said) -> str:
    return f"`{one.path}`: {one.message}" if one.path else one.message


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
