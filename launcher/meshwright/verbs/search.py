"""``meshwright search``: layouts ranked, with the reason each other one lost."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meshwright.compose.run import Options, Search
from meshwright.errors import ConfigError, Problem
from meshwright.search.auto import goal_of, nothing_fits
from meshwright.search.outputs import Outputs, outputs, write
from meshwright.search.question import Result, answer
from meshwright.search.rank import Progress
from meshwright.search.space import command_line, space
from meshwright.search.techniques import with_techniques
from meshwright.verbs import Words

__all__ = ["measure_command", "run"]

_BESIDE_FOLDER = ("search.folder", "search.nodes", "output", "training.micro_batch")
_OURS = ("search.", "output", "why", "parallelism")


def run(words: Words) -> int:
    """Search each stage of the run; 2 where no layout fits."""
    described, stated = command_line(words.overrides, words.config_dir)
    options = described.options
    if options.search.folder:
        return _go_on(words, options.search, stated, options.output)
    goal, weak = goal_of(described), options.search.scaling == "weak"
    spaces = [with_techniques(space(s, stated, weak), options.search.techniques) for s in described.stages]
    files = outputs(options.search, [stage.stage for stage in described.stages])
    with _progress() as progress:
        results = [answer(space, goal, options.why, progress) for space in spaces]
    command = measure_command(words.overrides, max(1, min(len(result.ranking.best) for result in results)))
    without = [nothing_fits(one.space, one.ranking) for one in results if one.ranking.winner is None]
    problems = [problem for error in without for problem in error.problems]
    _report(described.name, results, options.output, command, problems)
    _write(results, files, command)
    if options.search.compile:
        _compile(results, options)
    if problems and options.output == "text":
        raise ConfigError(problems)
    return 2 if problems else 0


def measure_command(overrides: Sequence[str], top: int) -> str:
    """What launches each of the ``top`` best layouts in turn."""
    kept = [
        word
        for word in overrides
        if not word.lstrip("+~").partition("=")[0].startswith(_OURS) or "parallelism." in word
    ]
    kinds = ("search.objective=", "search.days=", "search.techniques=")
    objective = [word for word in overrides if word.startswith(kinds)]
    places = "search.place=" + ",".join(map(str, range(1, top + 1)))
    return shlex.join(["meshwright", "launch", *kept, "parallelism=auto", *objective, places, "-m"])


def _go_on(words: Words, asked: Search, stated: Mapping[str, Any], output: str) -> int:
    """Layouts for a run folder's run on another number of nodes; 1 where there is none."""
    from meshwright.jobs.written_spec import read_spec
    from meshwright.report.elastic import document, show
    from meshwright.search.elastic import continuations

    folder, nodes = Path(str(asked.folder)), asked.nodes
    problems = [_foreign(word) for word in words.overrides if not _belongs(word)]
    if nodes is None or nodes < 1:
        problems.append(Problem("search.nodes", "how many nodes are healthy? give at least 1", "search.nodes"))
    if problems or nodes is None:
        raise ConfigError(problems)
    spec = read_spec(folder, "search.folder")
    found = continuations(spec, nodes, stated)
    if output == "json":
        from meshwright.report.print_json import print_json

        print_json(document(spec, folder, nodes, found))
    else:
        show(spec, folder, nodes, found)
    return 0 if found else 1


def _belongs(word: str) -> bool:
    """Whether a word has a meaning beside search.folder."""
    key = word.lstrip("+~").partition("=")[0]
    return key in _BESIDE_FOLDER or key.startswith(("parallelism.", "hydra."))


def _foreign(word: str) -> Problem:
    key = word.lstrip("+~").partition("=")[0]
    message = "has no meaning beside search.folder, which goes on with that folder's run by its fastest layout"
    return Problem(
        key, f"{message}; leave it out (parallelism.* and training.micro_batch can be pinned)", "search.folder"
    )


def _report(name: str, results: Sequence[Result], output: str, command: str, problems: Sequence[Problem]) -> None:
    from meshwright.report.search import document, show

    if output == "text":
        for result in results:
            show(result, command)
        return
    from meshwright.report.print_json import print_json
    from meshwright.report.problems import document as of_problems

    stages = [document(result, command) for result in results]
    wrong = {"problems": of_problems(problems)} if problems else {}
    print_json({**(stages[0] if len(stages) == 1 else {}), **wrong, "name": name, "stages": stages})


def _write(results: Sequence[Result], files: Sequence[Outputs], command: str) -> None:
    """The files that were asked for."""
    from meshwright.report.search import document

    for result, of_stage in zip(results, files, strict=True):

        def as_json(result: Result = result) -> str:
            return json.dumps(document(result, command), indent=2, ensure_ascii=False) + "\n"

        write(of_stage, result.ranking, as_json)


def _compile(results: Sequence[Result], options: Options) -> None:
    """The winner of each stage as a run folder, judged by the backends' own code where that is asked for."""
    from rich.console import Console

    from meshwright.jobs.run_folder import compile_all, folder_name
    from meshwright.report.compiled import show
    from meshwright.resolver import resolve

    winners: list[Any] = [result.ranking.winner for result in results if result.ranking.winner]
    plans = [resolve(winner.spec) for winner in winners]
    folders = [Path(options.runs) / folder_name(plan.spec) for plan in plans]
    console = Console(highlight=False, soft_wrap=True, stderr=options.output == "json")
    for plan, compiled in zip(plans, compile_all(plans, folders, verify=options.verify), strict=True):
        show(plan, compiled, console=console)


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """A count of layouts on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} layouts costed"), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda rows: bar.advance(task, rows)
