"""``meshwright rehearse``: resolve, prove, then train the layout in miniature on this machine."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from meshwright.compose import Options
from meshwright.errors import ConfigError, Problem
from meshwright.layout.plan import Plan
from meshwright.loading import load
from meshwright.resolver import resolve
from meshwright.spec import Spec
from meshwright.verbs import Words

if TYPE_CHECKING:
    from meshwright.rehearse.result import Rehearsal

__all__ = ["run"]


def run(words: Words) -> int:
    """Rehearse every stage whose miniature differs; 1 where a proof or a comparison failed."""
    from meshwright.report.print_json import print_json
    from meshwright.report.rehearsal import document

    asked = load(words.overrides, words.config_dir)
    if asked.options.rehearse.steps < 1:
        raise ConfigError([Problem("rehearse.steps", f"{asked.options.rehearse.steps} train nothing; give at least 1")])
    plans = [resolve(spec) for spec in asked.stages]
    quiet = asked.options.output == "json"
    console = Console(highlight=False, soft_wrap=True, quiet=quiet)
    proven = [_prove(plan, console) for plan in plans] if asked.options.verify else []
    rehearsals = [_rehearse(plan, asked.options, console) for plan in _different(plans, asked.options)]
    if quiet:
        print_json({"name": asked.name, "rehearsals": [document(one) for one in rehearsals if one]})
    return 0 if all(proven) and all(one is not None and one.passed for one in rehearsals) else 1


def _prove(plan: Plan, console: Console) -> bool:
    from meshwright.report.compiled import show_verdicts
    from meshwright.report.plan import show
    from meshwright.verify import verify

    show(plan, console)
    console.print(Text("proven by the backends' own code:", style="bold"))
    verdicts = verify([plan])[0]
    show_verdicts(verdicts, console)
    return all(verdict.passed for verdict in verdicts)


def _different(plans: list[Plan], options: Options) -> Iterator[Plan]:
    """One plan for each miniature: stages of a run often differ in sizes only, which shrink to the same."""
    from meshwright.rehearse.shrink import miniature

    seen: list[tuple[Spec, ...]] = []
    for plan in plans:
        minis = miniature(plan.spec, options.rehearse.ranks, options.rehearse.steps)
        if minis not in seen:
            seen.append(minis)
            yield plan


def _rehearse(plan: Plan, options: Options, console: Console) -> Rehearsal | None:
    """The rehearsal in a scratch folder, which stays where it failed; None where it did not get through."""
    from meshwright.rehearse import RankError, rehearse
    from meshwright.report.rehearsal import show

    console.print(Text("trained in miniature on this machine:", style="bold"))
    asked = options.rehearse
    with _scratch() as folder:
        try:
            done = rehearse(plan.spec, folder, asked.ranks, asked.steps, tell=lambda text: console.print(f"  {text}"))
        except RankError as error:
            print(f"{error}\nlogs: {folder}", file=sys.stderr)
            return None
        show(done, console)
        if done.passed:
            shutil.rmtree(folder)
        else:
            print(f"logs: {folder}", file=sys.stderr)
    return done


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder that goes where the user stops the rehearsal: what is left of one tells nobody anything."""
    folder = Path(mkdtemp(prefix="meshwright-"))
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield folder
    except (KeyboardInterrupt, SystemExit):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
