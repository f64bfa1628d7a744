"""``meshwright launch``: compile, show what will happen, then run here or submit to SLURM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any

from meshwright.compose import Run
from meshwright.errors import ConfigError, Problem
from meshwright.jobs import launch
from meshwright.jobs.launch import Launched
from meshwright.jobs.run_folder import Compiled, compile_all, folder_name
from meshwright.jobs.transition import Chain
from meshwright.loading import load
from meshwright.spec.frozen import dataclass
from meshwright.verbs import Words
from meshwright.verbs.sweep import every

__all__ = ["run", "sweep"]


@dataclass(frozen=True)
class Done:
    """A run or a sweep: its chains of stages, and what came of them. Nothing is launched where a proof failed."""

    chains: tuple[Chain, ...]
    launched: tuple[Launched, ...]
    passed: bool

    @property
    def code(self) -> int:
        """The exit code."""
        return 0 if self.passed and not any(one.code for one in self.launched) else 1


@dataclass(frozen=True)
class Point:
    """A run, or one of a sweep: its stages and their folders."""

    asked: Run
    links: Chain
    folders: tuple[Path, ...]
    words: Words


def run(words: Words) -> int:
    """Launch the stages of a run; 1 where a proof or a stage failed, or slurmctld would not take a job."""
    point = _point(words)
    done = _one(point)
    _report(point.asked, [done])
    return done.code


def sweep(jobs: Sequence[Words]) -> int:
    """Launch every point of a sweep: one after the other here, as array jobs on SLURM."""
    points = every(jobs, _point)
    _refuse_shared(points)
    local = points[0].asked.stages[0].launch.kind == "local"
    done = [_one(point) for point in points] if local else [_arrays(points)]
    _report(points[0].asked, done, {folder: point.words.point for point in points for folder in point.folders})
    return max(one.code for one in done)


def _point(words: Words) -> Point:
    asked = load(words.overrides, words.config_dir)
    links = _links(asked, bool(words.swept))
    folders = tuple(Path(asked.options.runs) / folder_name(plan.spec) for plan in links.plans)
    return Point(asked, links, folders, words)


def _refuse_shared(points: Sequence[Point]) -> None:
    """A run folder is named after what is trained, not after how it is launched."""
    shared = [folder for folder, times in Counter(f for point in points for f in point.folders).items() if times > 1]
    if shared:
        message = f"several points would train in {shared[0]}: they differ in launch alone; sweep over name, too"
        raise ConfigError([Problem("launch", message, "launch.sweep")])


def _one(point: Point) -> Done:
    asked, links = point.asked, point.links
    compiled = compile_all(links.plans, point.folders, verify=asked.options.verify)
    if asked.options.output == "text":
        _show(links, compiled, point.words.point)
    passed = all(one.passed for one in compiled)
    return Done((links,), tuple(_launch(asked, links, point.folders)) if passed else (), passed)


def _arrays(points: Sequence[Point]) -> Done:
    asked = points[0].asked
    plans = [plan for point in points for plan in point.links.plans]
    compiled = compile_all(plans, [f for point in points for f in point.folders], verify=asked.options.verify)
    if asked.options.output == "text":
        _show_points(points, compiled)
    passed = all(one.passed for one in compiled)
    return Done(tuple(point.links for point in points), tuple(_launch_arrays(points)) if passed else (), passed)


def _launch_arrays(points: Sequence[Point]) -> list[Launched]:
    from meshwright.jobs import sweep

    option, runs = points[0].asked.stages[0].launch, Path(points[0].asked.options.runs)
    act = sweep.try_out if option.test_only else sweep.planned if option.dry_run else sweep.submit
    return act([point.links for point in points], [point.folders for point in points], runs)


def _links(asked: Run, swept: bool) -> Chain:
    links = launch.links(asked.stages, Path(asked.options.runs))
    return replace(links, left_out=(*links.left_out, *_before(asked), *_throttle(asked, swept)))


def _throttle(asked: Run, swept: bool) -> tuple[str, ...]:
    throttle = asked.stages[0].launch.slurm.throttle
    idle = throttle is not None and not swept
    return (f"launch.slurm.throttle={throttle}: left out, it limits the jobs of a sweep (-m)",) * idle


def _before(asked: Run) -> tuple[str, ...]:
    """What a stage misses that was chosen by its name."""
    stages, chosen = asked.composed.get("stages") or {}, asked.options.stage
    earlier = list(takewhile(lambda name: name != chosen, stages)) if chosen else []
    ramps = [((stage or {}).get("training") or {}).get("ramp") for stage in stages.values()]
    if not earlier or any(ramps[1:]) or asked.stages[0].training.logging.load:  # alternatives begin by themselves
        return ()
    hint = "launch the recipe without stage=, or set training.logging.load to a checkpoint"
    return (f"{', '.join(earlier)}: left out, so stage {chosen} begins with RANDOM WEIGHTS; {hint}",)


def _launch(asked: Run, links: Chain, folders: Sequence[Path]) -> list[Launched]:
    option = asked.stages[0].launch
    if option.test_only:
        return launch.try_out(folders)
    if option.dry_run:
        return launch.planned(folders, links.plans)
    if option.kind == "slurm":
        return launch.submit(folders, links.plans)
    return launch.here(folders)


def _show_points(points: Sequence[Point], compiled: Sequence[Compiled]) -> None:
    """Each point as a launch shows its run, and then all of them compared."""
    from meshwright.cost import cost
    from meshwright.report.sweep import Row, show

    written = iter(compiled)
    for point in points:
        _show(point.links, [next(written) for _ in point.folders], point.words.point)
    show([Row(one.words.swept, cost(plan), plan.spec.stage) for one in points for plan in one.links.plans])


def _show(links: Chain, compiled: Sequence[Compiled], point: str) -> None:
    from meshwright.report.compiled import show
    from meshwright.report.launch import show_chain

    for plan, one in zip(links.plans, compiled, strict=True):
        show(plan, one, point)
    show_chain(links)


def _report(asked: Run, done: Sequence[Done], points: Mapping[Path, str] = MappingProxyType({})) -> None:
    """One list or one JSON document for all points, each folder with the point it belongs to."""
    from meshwright.report.launch import document, show_launched
    from meshwright.report.print_json import print_json

    launched = [one for point in done for one in point.launched]
    if asked.options.output == "text":
        show_launched(launched, points)
    elif launched or all(one.passed for one in done):
        result: dict[str, Any] = document(asked.name, [c for one in done for c in one.chains], launched, points)
        print_json(result)
