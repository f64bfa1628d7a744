"""What must hold of ``launch``: forms that sbatch reads, and nothing that two options say differently."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from meshwright.errors import Problem
from meshwright.layout.plan import Plan
from meshwright.spec import Spec
from meshwright.spec.launch import Launch, Slurm

__all__ = ["SET_HERE", "TAKEN", "launch_problems", "seconds", "slurm_problems"]


def launch_problems(spec: Spec) -> Iterator[Problem]:
    """What is wrong with the options alone, in every verb."""
    launch = spec.launch
    if launch.port is not None and not 1 <= launch.port <= 65535:
        yield Problem("launch.port", f"{launch.port} is no port; give 1024 to 65535", "launch.port")
    if launch.test_only and launch.kind != "slurm":
        yield Problem(
            "launch.test_only", "asks slurmctld, and launch is local; choose launch=slurm", "launch.test_only"
        )
    for name in ("python", "entry"):
        if not getattr(launch, name).strip():
            message = "is empty, and names nothing to run; leave it out, or give a path"
            yield Problem(f"launch.{name}", message, f"launch.{name}")
    if launch.entry.startswith("-"):
        yield Problem("launch.entry", f"{launch.entry!r} reads as a flag; write ./{launch.entry}", "launch.entry")
    yield from _environment(spec)
    yield from _control_characters(spec)
    yield from _resiliency(spec)
    if launch.kind == "slurm":
        yield from _of_slurm(spec)


def _environment(spec: Spec) -> Iterator[Problem]:
    cluster, launch = spec.cluster.environment, spec.launch.environment
    names = {**{name: "cluster" for name in cluster}, **dict.fromkeys(launch, "launch")}
    for name, owner in names.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            allowed = "use letters, digits and '_', no digit first"
            yield Problem(f"{owner}.environment", f"{name!r} cannot name a variable; {allowed}", "launch.environment")
        elif name in TAKEN:
            message = f"{name!r} is a variable that the scripts themselves set or read; leave it out"
            yield Problem(f"{owner}.environment", message, "launch.environment")


def _resiliency(spec: Spec) -> Iterator[Problem]:
    """Where ft_launcher cannot start or watch the ranks."""
    path, repair = "launch.resiliency.launcher", ({"launch.resiliency.launcher": "torchrun"},)
    if spec.launch.resiliency.launcher != "ft_launcher":
        if spec.launch.resiliency.learn_timeouts:
            message = "is for ft_launcher, and torchrun is the launcher; choose launch.resiliency.launcher=ft_launcher"
            yield Problem("launch.resiliency.learn_timeouts", message, "launch.resiliency")
        return
    if spec.backend.name != "megatron":
        message = f"ft_launcher is told by Megatron's loop where training is, and the backend is {spec.backend.name}"
        yield Problem(path, message, "launch.resiliency", repair)
    elif not spec.training.logging.checkpoints:
        message = "ft_launcher starts ranks again from a checkpoint, and training.logging.checkpoints is false"
        yield Problem(path, message, "launch.resiliency", ({"training.logging.checkpoints": True}, *repair))
    if spec.launch.kind == "slurm" and spec.launch.slurm.tasks == "rank":
        message = "ft_launcher runs once a node, and launch.slurm.tasks is rank"
        yield Problem(path, message, "launch.resiliency", ({"launch.slurm.tasks": "node"}, *repair))


def _of_slurm(spec: Spec) -> Iterator[Problem]:
    slurm = spec.launch.slurm
    yield from _forms(slurm)
    yield from _numbers(spec)
    yield from _slices(slurm)
    yield from _container(slurm)
    yield from _extra(slurm)


SCRIPTS = """arguments at before checkpoints code failures folder identity job limit log max_restarts names nodes owner
    processes rank requeue scratch slices step stopping task torchrun watcher MASTER_ADDR MASTER_PORT NODE_RANK RANK
    WORLD_SIZE LOCAL_RANK GROUP_RANK LOCAL_WORLD_SIZE SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_ID SLURM_JOB_ID
    SLURM_JOB_NODELIST
    SLURM_JOB_NUM_NODES SLURM_LOCALID SLURM_NODEID SLURM_NTASKS SLURM_PROCID SLURM_RESTART_COUNT SLURM_SUBMIT_DIR"""
BASHS = "BASHOPTS BASH_ENV BASH_VERSINFO EUID IFS PPID SHELLOPTS UID"
TAKEN = frozenset((*SCRIPTS.split(), *BASHS.split()))
"""What job.sbatch and launch.sh set or read for themselves, and what bash lets nobody set."""


def slurm_problems(plan: Plan) -> Iterator[Problem]:
    """What is wrong for ``launch=slurm``, too, once the ranks' places are known."""
    yield from launch_problems(plan.spec)
    yield from _ranks(plan)


def _control_characters(spec: Spec) -> Iterator[Problem]:
    """A line break would end a line of the script, whatever stands around it."""
    for path, value in _texts(spec.launch):
        bad = sorted({c for c in value if not c.isprintable()})
        if bad:
            shown = ", ".join(repr(c) for c in bad)
            yield Problem(path, f"holds {shown}; only printable characters reach a script", "launch.characters")


def _texts(value: Launch | Slurm, root: str = "launch") -> Iterator[tuple[str, str]]:
    for name, item in vars(value).items():
        path = f"{root}.{name}"
        if isinstance(item, Slurm):
            yield from _texts(item, path)
        elif isinstance(item, str):
            yield path, item
        elif isinstance(item, tuple):
            yield from ((f"{path}[{i}]", part) for i, part in enumerate(item))
        elif name == "environment":
            yield from ((f"{path}.{key}", text) for key, text in item.items())


TIME = r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+|\d+-\d+:\d\d|\d+-\d+:\d\d:\d\d"
JOBS = r"[a-z]+(:[^,?\s]+)?"
FORMS: dict[str, tuple[str, str]] = {
    "time": (rf"UNLIMITED|{TIME}", "MINUTES, HH:MM:SS, D-HH:MM:SS or UNLIMITED, for example '1-00:00:00'"),
    "mem": (r"\d+[KMGT]?", "a number with K, M, G or T, for example '512G', or '0' for all"),
    "array": (r"\d+-\d+%1", "'0-9%1': time slices of one run, one after the other; a sweep (-m) makes its own array"),
    "dependency": (
        rf"{JOBS}((,{JOBS})*|(\?{JOBS})*)",
        "for example 'afterok:123', 'singleton', or several with ',' for all of them or '?' for any, not both",
    ),
    "switches": (rf"\d+(@({TIME}))?", "'8' or '8@00:10:00'"),
    "mail_type": (r"[A-Z_0-9]+(,[A-Z_0-9]+)*", "for example 'END,FAIL'"),
    "partition": (r"[^\s,]+(,[^\s,]+)*", "names without spaces, with commas between"),
    "gpu_type": (r"[^\s:,]+", "the type alone, as in gres.conf"),
    "job_name": (r"[^/\\]+", "a name without slashes"),
}


def _forms(slurm: Slurm) -> Iterator[Problem]:
    for name, (form, example) in FORMS.items():
        value = getattr(slurm, name)
        if value is not None and not re.fullmatch(form, value):
            yield Problem(
                f"launch.slurm.{name}", f"{value!r} is not what sbatch reads; write {example}", f"slurm.{name}"
            )


def seconds(time: str) -> int:
    """Of a time as sbatch reads it: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, secs = [*parts, 0, 0][:3]
    else:
        hours, minutes, secs = ([0, *parts, 0] if len(parts) == 1 else [0, *parts])[-3:]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + secs


def _numbers(spec: Spec) -> Iterator[Problem]:
    slurm = spec.launch.slurm
    least: dict[str, Any] = {"cpus_per_task": 1, "segment": 1, "signal_seconds": 1, "max_restarts": 0, "throttle": 1}
    for name, bound in {**least, "checkpoint_disk_gib": 0}.items():
        value = getattr(slurm, name)
        if value is not None and value < bound:
            yield Problem(f"launch.slurm.{name}", f"{value} is less than {bound}", f"slurm.{name}")
    if slurm.signal_seconds > 65535:
        message = f"{slurm.signal_seconds} s is more than sbatch takes (65535)"
        yield Problem("launch.slurm.signal_seconds", message, "slurm.signal_seconds")
    if slurm.time is not None and re.fullmatch(TIME, slurm.time) and 0 < seconds(slurm.time) <= slurm.signal_seconds:
        message = f"{slurm.signal_seconds} s before a limit of {seconds(slurm.time)} s is before the start"
        repair = {"launch.slurm.signal_seconds": max(1, seconds(slurm.time) // 4)}
        yield Problem("launch.slurm.signal_seconds", message, "slurm.signal_before_start", (repair,))
    by_gpu = any(word.startswith("--cpus-per-gpu") for word in slurm.extra)
    if not slurm.exclusive and slurm.cpus_per_task is None and not by_gpu:
        message = "not set, and nodes are shared: SLURM would give each task one CPU; give a number"
        yield Problem("launch.slurm.cpus_per_task", message, "slurm.shared_cpus", ({"launch.slurm.exclusive": True},))
    if slurm.gpu_type is not None and slurm.gpus == "none":
        message = f"{slurm.gpu_type!r}, but launch.slurm.gpus=none asks for no GPUs"
        yield Problem("launch.slurm.gpu_type", message, "slurm.gpu_type", ({"launch.slurm.gpu_type": None},))


def _slices(slurm: Slurm) -> Iterator[Problem]:
    if slurm.array is not None and slurm.requeue:
        message = f"{slurm.array}: the next slice goes on at the limit, and so does a requeued one; have one of them"
        repairs = {"launch.slurm.requeue": False}, {"launch.slurm.array": None}
        yield Problem("launch.slurm.array", message, "slurm.slices", repairs)


def _ranks(plan: Plan) -> Iterator[Problem]:
    """One task a rank: SLURM would spread the ranks of a node that is not full over all of them."""
    grid = plan.grid
    rest = grid.world % grid.gpus_per_node
    if plan.spec.launch.slurm.tasks == "rank" and grid.nodes > 1 and rest:
        message = f"rank, and the last of {grid.nodes:,} nodes holds {rest} ranks instead of {grid.gpus_per_node}"
        yield Problem("launch.slurm.tasks", message, "slurm.tasks", ({"launch.slurm.tasks": "node"},))


def _container(slurm: Slurm) -> Iterator[Problem]:
    if slurm.container == "none":
        for name in ("image", "mounts"):
            if getattr(slurm, name):
                message = "set, but launch.slurm.container is none; choose pyxis or apptainer"
                yield Problem(f"launch.slurm.{name}", message, "slurm.no_container")
    elif not slurm.image:
        yield Problem("launch.slurm.image", f"not set; {slurm.container} needs an image", "slurm.image")
    for i, mount in enumerate(slurm.mounts):
        if not re.fullmatch(r"[^:,]+:[^:,]+(:[^:,]+)?", mount):
            message = f"{mount!r} is not 'from:to' or 'from:to:options'; commas and colons divide mounts"
            yield Problem(f"launch.slurm.mounts[{i}]", message, "slurm.mounts")


KEYS = """account array chdir comment constraint cpus-per-task dependency distribution exclude exclusive gpus-per-node
    gres job-name mail-type mail-user mem no-requeue nodelist nodes ntasks ntasks-per-gpu ntasks-per-node open-mode
    output partition qos requeue reservation segment signal switches time wrap"""
SET_HERE = frozenset(KEYS.split())
"""Options of sbatch that other keys of ``launch.slurm`` set, or that the script relies on."""


def _extra(slurm: Slurm) -> Iterator[Problem]:
    for i, option in enumerate(slurm.extra):
        path = f"launch.slurm.extra[{i}]"
        name = re.match(r"--([a-z][a-z0-9-]*)(=|$)", option)
        if name is None:
            yield Problem(path, f"{option!r} is no option of sbatch; write '--name=value'", "slurm.extra")
        elif name[1] in SET_HERE:
            yield Problem(path, f"--{name[1]} has a key of its own in launch, or follows from the plan", "slurm.extra")
