"""``meshwright launch``: compile, show what will happen, then run here or submit to SLURM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meshwright import launch
from meshwright.compose import Run, load
from meshwright.launch import Launched
from meshwright.run_folder import Compiled, compile_all, folder_name
from meshwright.transition import Chain
from meshwright.verbs import Words

__all__ = ["run", "sweep"]


def run(words: Words) -> int:
    """Launch the stages of a run; 1 where a proof or a stage failed, or slurmctld would not take a job."""
    asked = load(words.overrides, words.config_dir)
    links = launch.links(asked.stages)
    folders = _folders(asked, links)
    compiled = compile_all(links.plans, folders, verify=asked.options.verify)
    if asked.options.output == "text":
        _show(links, compiled)
    if not all(one.passed for one in compiled):
        return 1
    launched = _launch(asked, links, folders)
    _report(asked, links, launched)
    return 1 if any(one.code for one in launched) else 0


def sweep(jobs: Sequence[Words]) -> int:
    """Launch every point of a sweep: one after the other here, as array jobs on SLURM."""
    from meshwright.launch_sweep import submit

    runs = [load(words.overrides, words.config_dir) for words in jobs]
    option = runs[0].stages[0].launch
    if option.kind == "local" or option.dry_run or option.test_only:
        return max(run(words) for words in jobs)
    chains = [launch.links(one.stages) for one in runs]
    folders = [_folders(asked, links) for asked, links in zip(runs, chains, strict=True)]
    plans = [plan for links in chains for plan in links.plans]
    compiled = compile_all(plans, [folder for of_one in folders for folder in of_one], verify=runs[0].options.verify)
    if not all(one.passed for one in compiled):
        return 1
    submitted = submit(chains, folders, Path(runs[0].options.runs))
    _report(runs[0], Chain(tuple(plans), (), ()), submitted)
    return 0


def _folders(asked: Run, links: Chain) -> list[Path]:
    return [Path(asked.options.runs) / folder_name(plan.spec) for plan in links.plans]


def _launch(asked: Run, links: Chain, folders: Sequence[Path]) -> list[Launched]:
    option = asked.stages[0].launch
    if option.test_only:
        return launch.try_out(folders)
    if option.dry_run:
        return launch.planned(folders, links.plans)
    if option.kind == "slurm":
        return launch.submit(folders, links.plans)
    return launch.here(folders)


def _show(links: Chain, compiled: Sequence[Compiled]) -> None:
    from meshwright.report.compiled import show
    from meshwright.report.launch import show_chain

    for plan, one in zip(links.plans, compiled, strict=True):
        show(plan, one)
    show_chain(links)


def _report(asked: Run, links: Chain, launched: Sequence[Launched]) -> None:
    from meshwright.report.launch import document, show_launched
    from meshwright.report.summary import print_json

    if asked.options.output == "json":
        result: dict[str, Any] = document(asked.name, links, launched)
        print_json(result)
    else:
        show_launched(launched)
