"""``meshwright search``: layouts ranked, with the reason each other one lost."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meshwright.errors import ConfigError, Problem
from meshwright.search.auto import goal_of, nothing_fits
from meshwright.search.question import Result, answer
from meshwright.search.rank import Progress
from meshwright.search.space import command_line, space
from meshwright.verbs import Words

__all__ = ["measure_command", "run"]

_OURS = ("search.", "output", "why", "parallelism")


def run(words: Words) -> int:
    """Search each stage of the run; 1 where no layout fits."""
    described, stated = command_line(words.overrides, words.config_dir)
    options = described.options
    if options.search.folder:
        return _go_on(options.search.folder, options.search.nodes, options.output)
    goal, weak = goal_of(described), options.search.scaling == "weak"
    spaces = [space(stage, stated, weak) for stage in described.stages]
    with _progress() as progress:
        results = [answer(space, goal, options.why, progress) for space in spaces]
    command = measure_command(words.overrides, goal.top)
    _report(described.name, results, options.output, command)
    _write(results, options.search.table, options.search.plot, command)
    if options.search.compile:
        _compile(results, options.runs, options.verify)
    for result in results:
        if result.ranking.winner is None:
            raise nothing_fits(result.space, result.ranking)
    return 0


def measure_command(overrides: Sequence[str], top: int) -> str:
    """What launches each of the ``top`` best layouts in turn."""
    kept = [
        word
        for word in overrides
        if not word.lstrip("+~").partition("=")[0].startswith(_OURS) or "parallelism." in word
    ]
    objective = [word for word in overrides if word.startswith("search.objective=")]
    places = "search.place=" + ",".join(map(str, range(1, top + 1)))
    return shlex.join(["meshwright", "launch", *kept, "parallelism=auto", *objective, places, "-m"])


def _go_on(folder: str, nodes: int | None, output: str) -> int:
    """Layouts for a run folder's run on another number of nodes; 1 where there is none."""
    from meshwright.report.elastic import document, show
    from meshwright.search.elastic import continuations, read_folder

    if nodes is None or nodes < 1:
        raise ConfigError([Problem("search.nodes", "how many nodes are healthy? give at least 1", "search.nodes")])
    spec = read_folder(Path(folder))
    found = continuations(spec, nodes)
    if output == "json":
        from meshwright.report.summary import print_json

        print_json(document(spec, nodes, found))
    else:
        show(spec, nodes, found)
    return 0 if found else 1


def _report(name: str, results: Sequence[Result], output: str, command: str) -> None:
    from meshwright.report.search import document, show

    if output == "text":
        for result in results:
            show(result, command)
        return
    from meshwright.report.summary import print_json

    stages = [document(result, command) for result in results]
    print_json({**(stages[0] if len(stages) == 1 else {}), "name": name, "stages": stages})


def _write(results: Sequence[Result], table: str | None, plot: str | None, command: str) -> None:
    """The files that were asked for; of a run with stages, one for each."""
    from meshwright.search import frontier

    for result in results:
        stage = result.space.current.stage if len(results) > 1 else None
        if table:
            path = _file(table, stage, (".csv", ".json"), "search.table")
            if path.suffix == ".json":
                _write_json(path, result, command)
            else:
                frontier.write_csv(path, result.ranking)
        if plot:
            frontier.plot(_file(plot, stage, (".svg", ".png"), "search.plot"), result.ranking)


def _write_json(path: Path, result: Result, command: str) -> None:
    import json

    from meshwright.report.search import document

    path.write_text(json.dumps(document(result, command), indent=2, ensure_ascii=False) + "\n")


def _file(name: str, stage: str | None, suffixes: tuple[str, ...], key: str) -> Path:
    path = Path(name)
    if path.suffix not in suffixes:
        raise ConfigError([Problem(key, f"{name} ends neither in {' nor in '.join(suffixes)}", "search.file")])
    if not path.parent.is_dir():
        raise ConfigError([Problem(key, f"there is no folder {path.parent}", "search.file")])
    return path.with_stem(f"{path.stem}-{stage}") if stage else path


def _compile(results: Sequence[Result], runs: str, verify: bool) -> None:
    """The winner of each stage as a run folder, judged by the backends' own code where ``verify``."""
    from meshwright.report.compiled import show
    from meshwright.resolver import resolve
    from meshwright.run_folder import compile_all, folder_name

    winners: list[Any] = [result.ranking.winner for result in results if result.ranking.winner]
    plans = [resolve(winner.spec) for winner in winners]
    folders = [Path(runs) / folder_name(plan.spec) for plan in plans]
    for plan, compiled in zip(plans, compile_all(plans, folders, verify=verify), strict=True):
        show(plan, compiled)


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
