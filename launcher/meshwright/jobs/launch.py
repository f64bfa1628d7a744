"""Start what was compiled: on this machine with torchrun, or as SLURM jobs, the stages of a run as a chain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from meshwright.errors import ConfigError, Problem, distinct
from meshwright.jobs import lock, slurm
from meshwright.jobs.followed import followed
from meshwright.jobs.paths import absent, absolute
from meshwright.jobs.room import no_room, room_warnings
from meshwright.jobs.run_folder import folder_name
from meshwright.jobs.transition import Chain, alternatives, chain
from meshwright.layout.plan import Plan
from meshwright.resolver import resolve
from meshwright.rules.launch import launch_problems, slurm_problems
from meshwright.rules.requirements import needed
from meshwright.spec import Launch, Spec
from meshwright.spec.frozen import dataclass
from meshwright.train.installed import found

__all__ = ["AFTER", "Launched", "here", "links", "planned", "problems", "submit", "try_out", "undo", "unstarted"]

AFTER = "--kill-on-invalid-dep=yes"  # a stage whose predecessor failed leaves the queue


@dataclass(frozen=True)
class Launched:
    """One stage: its folder, the command that starts it, and what came of it."""

    folder: Path
    command: tuple[str, ...]
    job: str | None = None  # of SLURM
    code: int | None = None  # of torchrun
    said: str = ""  # by slurmctld
    within: Path | None = None  # where the command is given, if that is not the folder: of an array


def links(specs: Sequence[Spec], runs: Path = Path("runs")) -> Chain:
    """The stages to launch, joined; their folders will lie in ``runs``.

    Raises:
        ConfigError: where they are alternatives, or something cannot be carried, or an option is wrong.

    """
    plans = [resolve(absolute(unstarted(spec))) for spec in specs]
    if len(plans) > 1 and alternatives(plans):
        names = ", ".join(str(plan.spec.stage) for plan in plans)
        raise ConfigError([Problem("stage", f"the stages are alternatives; choose one of {names}", "launch.stage")])
    joined = chain(plans)
    folders = [runs / folder_name(plan.spec) for plan in joined.plans]
    of_each = (problem for each in zip(joined.plans, folders, strict=True) for problem in problems(*each))
    found = [*_following(joined.plans), *of_each]
    unseen = [problem for problem in found if problem.rule in _ON_NODES and _looks_on(specs[0].launch)]
    wrong = [problem for problem in found if problem not in unseen]
    if wrong:
        raise ConfigError(distinct(wrong))
    short = room_warnings(joined.plans, folders)
    return replace(joined, left_out=(*joined.left_out, *dict.fromkeys(map(_unchecked, unseen)), *short))


_ON_NODES = ("data.files", "data.tokenizer", "launch.absent", "launch.disk")


def _looks_on(launch: Launch) -> bool:
    """Whether this is a look at a job from a machine that may not see the cluster's files and disks."""
    return launch.kind == "slurm" and launch.dry_run


def _unchecked(problem: Problem) -> str:
    what = problem.message.partition(";")[0]
    return f"{problem.path}: {what} here, so it is not checked here; the job looks on its nodes"


def unstarted(spec: Spec) -> Spec:
    """Without the options that only say how far to go now: the files are the same."""
    return replace(spec, launch=replace(spec.launch, dry_run=False, test_only=False))


def problems(plan: Plan, folder: Path) -> list[Problem]:
    """Why this stage cannot be launched into ``folder`` as it is."""
    from meshwright.corpus.checks import data_problems

    launch = plan.spec.launch
    found = list(slurm_problems(plan) if launch.kind == "slurm" else launch_problems(plan.spec))
    if launch.kind == "local" and plan.grid.nodes > 1:
        message = f"local starts this node alone, the layout needs {plan.grid.nodes:,}; launch=slurm, or run"
        found.append(Problem("launch.kind", f"{message} launch.sh on every node", "launch.nodes"))
    return [*found, *no_room(plan, folder), *absent(plan), *data_problems(plan), *_missing_here(plan)]


def _missing_here(plan: Plan) -> Iterator[Problem]:
    """What this machine lacks of what the plan needs, where it is to train here and has a GPU."""
    if plan.spec.launch.kind != "local" or not Path("/dev/nvidiactl").exists():
        return
    for row in needed(plan.spec):
        if found(row.component) is None:
            text = f"needs {row.name}, which is not here; set {row.instead}, or {row.install}"
            yield Problem(row.option.partition("=")[0], text, "launch.needs")


def _following(plans: Sequence[Plan]) -> list[Problem]:
    """What keeps a stage from following another one's job."""
    slurm = plans[0].spec.launch.slurm
    found = []
    if len(plans) > 1 and "?" in (slurm.dependency or ""):
        message = f"{slurm.dependency!r} would start a stage without the one before it; divide the jobs with ','"
        found.append(Problem("launch.slurm.dependency", message, "launch.stages"))
    if len(plans) > 1 and slurm.array is not None:
        message = f"{slurm.array}: slices end at the limit, and none of the {len(plans)} stages would follow"
        repair = {"launch.slurm.array": None, "launch.slurm.requeue": True}
        found.append(Problem("launch.slurm.array", message, "launch.stages", (repair,)))
    return found


def here(folders: Sequence[Path], words: Sequence[str] = ()) -> list[Launched]:
    """Run one stage after the other on this machine, to the first that fails; those that are done are left."""
    results = []
    for folder in folders:
        if (folder / "DONE").exists():
            results.append(_finished(folder))
            continue
        command = ("bash", str(folder / "launch.sh"), *words)
        code = followed(command)
        results.append(Launched(folder, command, code=code))
        if code:
            break
        (folder / "DONE").write_text(f"{datetime.now():%FT%T} here\n")
    return results


def submit(folders: Sequence[Path], plans: Sequence[Plan]) -> list[Launched]:
    """One job a stage, each after the last one has ended well; all of them or none.

    Raises:
        ConfigError: where a folder has a job already, or sbatch refuses.

    """
    finished: list[Launched] = []
    submitted: list[Launched] = []
    for folder, plan in zip(folders, plans, strict=True):
        if (folder / "DONE").exists():
            finished.append(_finished(folder))
            continue
        words = _dependency(plan, submitted[-1].job if submitted else None)
        try:
            submitted.append(_submit(folder, words))
        except ConfigError:
            undo(submitted)
            raise
    return [*finished, *submitted]


def _finished(folder: Path) -> Launched:
    """A stage that was done before: nothing is started."""
    said = f"finished before: {(folder / 'DONE').read_text(errors='replace').strip()}; remove DONE to train on"
    return Launched(folder, (), said=said)


def planned(folders: Sequence[Path], plans: Sequence[Plan]) -> list[Launched]:
    """The commands that would start the stages that are not done; nothing is started."""
    done = [_finished(folder) for folder in folders if (folder / "DONE").exists()]
    left = [(folder, plan) for folder, plan in zip(folders, plans, strict=True) if not (folder / "DONE").exists()]
    if plans[0].spec.launch.kind == "local":
        return [*done, *(Launched(folder, ("bash", str(folder / "launch.sh"))) for folder, _ in left)]
    words = [_dependency(plan, "JOB" if place else None) for place, (_, plan) in enumerate(left)]
    return [*done, *(Launched(f, ("sbatch", *w, "job.sbatch")) for (f, _), w in zip(left, words, strict=True))]


def _submit(folder: Path, words: Sequence[str]) -> Launched:
    lock.claim(folder)
    try:
        job = slurm.submit(folder, words)
    except ConfigError:
        lock.release(folder)
        raise
    lock.take(folder, job)
    return Launched(folder, ("sbatch", *words, "job.sbatch"), job)


def undo(submitted: Sequence[Launched]) -> None:
    """Cancel what was submitted: a chain without its end helps nobody."""
    slurm.cancel([one.job for one in submitted if one.job])
    for one in submitted:
        lock.release(one.folder)


def _dependency(plan: Plan, job: str | None) -> tuple[str, ...]:
    if job is None:
        return ()
    own = plan.spec.launch.slurm.dependency
    return (f"--dependency={f'{own},' if own else ''}afterok:{job}", AFTER)


def try_out(folders: Sequence[Path]) -> list[Launched]:
    """What slurmctld says of each stage by itself; ``code`` is 0 where it would take it."""
    results = []
    for folder in folders:
        accepted, said = slurm.try_out(folder, "job.sbatch")
        results.append(Launched(folder, ("sbatch", "--test-only", "job.sbatch"), code=int(not accepted), said=said))
    return results
