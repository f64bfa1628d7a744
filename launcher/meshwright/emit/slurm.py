"""``job.sbatch``: the run as a SLURM job that survives faults, submitted from its run folder."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from meshwright.emit import slurm_text as text
from meshwright.emit.resiliency import launcher, replaces_torchrun
from meshwright.emit.torchrun import arguments, exports, program, ranks_on_node
from meshwright.emit.watch import watches, watching
from meshwright.layout.plan import Plan
from meshwright.model.optimizer_state import checkpoint_gib
from meshwright.spec import Launch, Logging, Spec
from meshwright.spec.identity import identity

__all__ = ["options", "script"]

BACKSLASH = "\\"


def script(plan: Plan, probes: Sequence[str] = ()) -> str:
    """The whole file; ``probes`` are what the health check looks for on every node (rules.requirements).

    The same plan gives the same text; it names no folder, so a run folder can be moved.

    ``rules.launch.slurm_problems`` must find nothing wrong with the plan.
    """
    launch = plan.spec.launch
    flags = "".join(f"#SBATCH {flag}\n" for flag in options(plan))
    parts = [text.HEADER.replace("@OPTIONS@", flags), *_settings(plan), text.FOLDER, *_surroundings(plan)]
    parts += [*_node(plan), *_health(plan, probes), *_training(plan), text.FOLLOW]
    ours = launch.entry == "meshwright" and not replaces_torchrun(plan)  # which wants 0 of a rank that was stopped
    return "".join(parts) + (text.END_OF_OURS if ours else text.END_OF_THEIRS)


def options(plan: Plan) -> list[str]:
    """The options of sbatch, quoted for it and sorted: ``--name=value``."""
    s = plan.spec.launch.slurm
    values = {
        "job-name": s.job_name or "-".join(plan.spec.names),
        "nodes": plan.grid.nodes,
        "ntasks-per-node": 1 if s.tasks == "node" else min(plan.grid.gpus_per_node, plan.grid.world),
        "ntasks": plan.grid.world if s.tasks == "rank" else None,
        "time": s.time,
        "mem": s.mem or ("0" if s.exclusive else None),  # without it sites give a share of the node's memory
        "switches": s.switches,
        "signal": f"B:USR1@{s.signal_seconds}",
        "open-mode": "append",
        "output": s.output or "job-%j.log",
        **{name.replace("_", "-"): getattr(s, name) for name in PLAIN},
        **_gpus(plan),
    }
    switches = ["--exclusive"] * s.exclusive + ["--requeue" if s.requeue else "--no-requeue"]
    flags = [f"--{name}={value}" for name, value in values.items() if value is not None]
    return sorted(map(_quoted, [*flags, *switches, *s.extra]))


UNSET = "set +u # what modules and environments run uses unset variables\n"
PLAIN = (
    *("account", "array", "comment", "constraint", "cpus_per_task", "dependency", "exclude", "mail_type", "mail_user"),
    *("nodelist", "partition", "qos", "reservation", "segment"),
)
"""Fields of Slurm that sbatch knows by the same name."""


def _quoted(option: str) -> str:
    """For sbatch, which quotes as a shell does, except that a backslash escapes within single quotes, too."""
    name, equals, value = option.partition("=")
    return f"{name}={shlex.quote(value.replace(BACKSLASH, 2 * BACKSLASH))}" if equals else name


def _gpus(plan: Plan) -> dict[str, str]:
    s = plan.spec.launch.slurm
    count = min(plan.grid.gpus_per_node, plan.grid.world)
    typed = f"{s.gpu_type}:{count}" if s.gpu_type else str(count)
    return {"gpus-per-node": {"gpus-per-node": typed}, "gres": {"gres": f"gpu:{typed}"}, "none": {}}[s.gpus]


def _settings(plan: Plan) -> Iterator[str]:
    s = plan.spec.launch.slurm
    yield f"identity={identity(plan.spec)}\nnodes={plan.grid.nodes}\n"
    yield f"requeue={int(s.requeue)}\nmax_restarts={s.max_restarts}\nslices={int(s.array is not None)}\n"
    yield f"checkpoints={shlex.quote(plan.spec.training.logging.save or '')}\n"


def _surroundings(plan: Plan) -> Iterator[str]:
    """Modules, variables with the reason for each, and the user's own commands."""
    s = plan.spec.launch.slurm
    if s.modules:
        yield f"\n{UNSET}"
        yield from (f"module load {shlex.quote(module)}\n" for module in s.modules)
        yield "set -u\n"
    yield "\n"
    yield from exports(plan)
    if s.before:
        yield f"\n# launch.slurm.before\n{UNSET}"
        yield from (f"{command}\n" for command in s.before)
        yield "set -u\n"


def _node(plan: Plan) -> Iterator[str]:
    """The function ``on_nodes LOG PROGRAM...``: one task a node or one a rank, in a container or not."""
    launch = plan.spec.launch
    task = _torchrun(plan) if launch.slurm.tasks == "node" else _rank(plan)
    yield text.RENDEZVOUS.replace("@PORT@", str(launch.port or text.PORT))
    folder = f"cd {shlex.quote(launch.slurm.workdir)}\n" if launch.slurm.workdir else ""
    yield text.TASK.replace("@TASK@", shlex.quote(f"{folder}{task}"))
    options = "".join(f" {word}" for word in _srun(plan))
    yield text.ON_NODES.replace("@OPTIONS@", options).replace("@CONTAINER@", _apptainer(plan))


def _torchrun(plan: Plan) -> str:
    processes = ranks_on_node(plan, "SLURM_NODEID")
    if replaces_torchrun(plan):
        address, job = "$MASTER_ADDR:$MASTER_PORT", "$SLURM_JOB_ID"
        words = launcher(plan, "$((SLURM_NODEID == 0))", address, job, processes)
        return text.TORCHRUN.replace("@TORCHRUN@", f'{_python(plan.spec.launch)} {words} --log-dir="$scratch" "$@"')
    where = f'--nnodes={plan.grid.nodes} --node-rank="$SLURM_NODEID" --nproc-per-node="{processes}"'
    meet = '--master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT" --max-restarts=0 --log-dir="$scratch"'
    run = f'{_python(plan.spec.launch)} -m torch.distributed.run \\\n    {where} \\\n    {meet} "$@"'
    return text.TORCHRUN.replace("@TORCHRUN@", run)


def _rank(plan: Plan) -> str:
    local = f"LOCAL_RANK=$SLURM_LOCALID LOCAL_WORLD_SIZE={ranks_on_node(plan, 'SLURM_NODEID')}"
    world = f"export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS {local}\n"
    return world + text.RANK.replace("@RANK@", f'{_python(plan.spec.launch)} "$@"')


def _python(launch: Launch) -> str:
    return shlex.quote(launch.python)


def _srun(plan: Plan) -> Iterator[str]:
    s = plan.spec.launch.slurm
    if s.cpus_per_task:
        yield f"--cpus-per-task={s.cpus_per_task}"  # since SLURM 22.05 srun does not take it from sbatch
    if s.container == "pyxis":
        mounts = "".join(f",{mount}" for mount in (*_seen(plan), *s.mounts))
        yield f"--container-image={shlex.quote(s.image or '')}"
        yield f'--container-mounts="${{folder%/*}}:${{folder%/*}}"{shlex.quote(mounts) if mounts else ""}'


def _apptainer(plan: Plan) -> str:
    s = plan.spec.launch.slurm
    if s.container != "apptainer":
        return ""
    gpu = "--rocm" if plan.spec.cluster.accelerator.name.startswith("MI") else "--nv"
    binds = "".join(f" --bind {shlex.quote(mount)}" for mount in (*_seen(plan), *s.mounts))
    return f'apptainer exec {gpu} --bind "${{folder%/*}}"{binds} {shlex.quote(s.image or "")} '


def _seen(plan: Plan) -> Iterator[str]:
    """Mounts of what training writes or starts from outside the folder of the stages, if the user names none."""
    logging, mounts = plan.spec.training.logging, plan.spec.launch.slurm.mounts
    mounted = [PurePosixPath(mount.split(":")[1]) for mount in mounts]
    for path in dict.fromkeys(filter(None, (logging.save, logging.load, logging.tensorboard))):
        if path.startswith("/") and not any(PurePosixPath(path).is_relative_to(at) for at in mounted):
            yield f"{path}:{path}"


def _health(plan: Plan, probes: Sequence[str]) -> Iterator[str]:
    s = plan.spec.launch.slurm
    if not s.health_check:
        return
    gpus = 0 if s.gpus == "none" else min(plan.grid.gpus_per_node, plan.grid.world)
    saves = plan.spec.training.logging.checkpoints
    disk = checkpoint_gib(plan) * saves if s.checkpoint_disk_gib is None else s.checkpoint_disk_gib
    words = "".join(f" {shlex.quote(probe)}" for probe in (*probes, *_files(plan.spec)))
    kept = 1 if s.checkpoint_disk_gib is not None else _at_once(plan.spec.training.logging)
    yield text.HEALTH.replace("@WORDS@", f'{gpus} {disk:.1f} {kept} "$checkpoints"{words}')


def _files(spec: Spec) -> Iterator[str]:
    """What every node must be able to read; where the launch was made, it may not lie at all."""
    data = spec.training.data
    yield from (f"file:{prefix}{end}" for prefix in data.paths for end in (".bin", ".idx"))
    if data.tokenizer.path is not None:
        yield f"file:{data.tokenizer.path}"
    if spec.training.logging.load is not None:
        yield f"file:{spec.training.logging.load}"
    if spec.launch.entry != "meshwright":
        yield f"file:{spec.launch.entry}"


def _at_once(logging: Logging) -> int:
    """Checkpoints that retention leaves and the one being written; what people keep, they make room for themselves."""
    return 1 if logging.keep_last is None else logging.keep_last + 1


def _training(plan: Plan) -> Iterator[str]:
    if plan.spec.launch.entry != "meshwright":
        yield from ("\n", *arguments(plan), text.EXIT_SIGNAL)
    if watches(plan):
        yield watching(plan, '"$SLURM_JOB_ID"-node*.log')
    yield text.TRAIN.replace("@PROGRAM@", program(plan))
    if watches(plan):
        yield text.WATCH
