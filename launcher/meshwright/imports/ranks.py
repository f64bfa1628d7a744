"""How many nodes and ranks a launcher starts, and what it gets wrong about them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from meshwright.imports.asks import open_ask
from meshwright.imports.found import Ask, Found, Given, Place, Remark
from meshwright.imports.launchers import Program
from meshwright.imports.shell import sbatch
from meshwright.imports.shell.sbatch import Headers
from meshwright.imports.unknown import is_known, readable
from meshwright.spec.frozen import dataclass

__all__ = ["Ranks", "ranks", "remarks", "used"]

LOCAL = ("localhost", "127.0.0.1", "0.0.0.0", "::1")


@dataclass(frozen=True)
class Ranks:
    """``per_node`` None: as many as a node has GPUs. ``nodes`` or ``world`` None: the script does not say."""

    nodes: int | None
    per_node: int | None
    asks: tuple[Ask, ...] = ()

    @property
    def world(self) -> int | None:
        """All ranks, where both are known."""
        return self.nodes * self.per_node if self.nodes and self.per_node else None


def ranks(program: Program, headers: Headers) -> Ranks:
    """Nodes and ranks a node, from the launcher's own options, srun's and sbatch's."""
    if program.launcher == "accelerate":
        return _accelerate(program, headers)
    if program.launcher == "python":
        return _tasks(program, headers)
    counts = _counts(program)
    if program.option("standalone"):
        counts["nodes"] = (1, ())
    (nodes, open_nodes), (per_node, open_ranks) = counts["nodes"], counts["ranks"]
    if nodes is None and not open_nodes:
        nodes = 1 if program.launcher == "torchrun" else _slurm(program, headers, "nodes") or 1
    if program.launcher == "torchrun" and per_node is None and not open_ranks and _ranks_option(program) is None:
        per_node = 1  # torchrun's own default
    if per_node is None and not open_ranks:
        per_node = sbatch.gpus_per_node(headers)
    return Ranks(nodes, per_node, (*open_nodes, *open_ranks))


Count = tuple[int | None, tuple[Ask, ...]]

_COUNTED = re.compile(r"device_count|nvidia-smi|rocm-smi")
"""Commands that count the GPUs of a node."""


def _counts(program: Program) -> dict[str, Count]:
    own = {"torchrun": ("nnodes", "nproc-per-node"), "deepspeed": ("num-nodes", "num-gpus")}[program.launcher]
    return {what: _count(program, option, "cluster.gpus") for what, option in zip(("nodes", "ranks"), own, strict=True)}


def _count(program: Program, option: str, path: str) -> Count:
    """The number of an option; of 1:4 nodes the most; gpu and auto leave it to the node."""
    if option not in program.options:
        return None, ()
    value, where = program.options[option]
    if _COUNTED.search(readable(value)):
        return None, ()
    if not is_known(value):
        return None, (open_ask(path, Given(f"--{option}", value, where)),)
    match = re.fullmatch(r"(?:\d+:)?(\d+)", value)
    return (int(match[1]) if match else None), ()


def _ranks_option(program: Program) -> tuple[str, Place] | None:
    return program.option("nproc-per-node")


def _slurm(program: Program, headers: Headers, name: str) -> int | None:
    said = program.outer.get(name, headers.get(name, ("", Place(""))))[0]
    match = re.match(r"\d+", said)
    return int(match[0]) if match else None


def _tasks(program: Program, headers: Headers) -> Ranks:
    """A rank a task of srun; without srun one rank."""
    if whole := _mpi(program):
        per_node = _slurm(program, {}, "npernode") or _slurm(program, {}, "nodes") or whole
        return Ranks(max(1, whole // per_node), min(per_node, whole))
    if "srun" not in program.outer and not headers:
        return Ranks(1, 1)
    nodes, tasks = _slurm(program, headers, "nodes"), _slurm(program, headers, "ntasks")
    each = _slurm(program, headers, "ntasks-per-node")
    filled = -(-tasks // each) if tasks and each else 1
    nodes = nodes or filled
    return Ranks(nodes, max(1, each or (tasks // nodes if tasks else 1)))


def _mpi(program: Program) -> int | None:
    """All ranks of mpirun; its -N is ranks a node, which srun's is not."""
    if not {"mpirun", "mpiexec"} & program.outer.keys():
        return None
    return _slurm(program, {}, "np") or _slurm(program, {}, "ntasks")


def _accelerate(program: Program, headers: Headers) -> Ranks:
    """``--num_processes`` counts all ranks."""
    whole, open_whole = _count(program, "num-processes", "cluster.gpus")
    nodes, open_nodes = _count(program, "num-machines", "cluster.gpus")
    nodes = nodes or (1 if not open_nodes else None)
    return Ranks(nodes, whole // nodes if whole and nodes else None, (*open_whole, *open_nodes))


def used(program: Program) -> Iterator[Found]:
    """The fate of the launcher's options."""
    carried = {"nnodes", "nproc-per-node", "num-nodes", "num-gpus", "num-processes", "num-machines", "standalone"}
    for name, (value, where) in program.options.items():
        key = f"{program.launcher} --{name}"
        if name in carried and is_known(value):
            yield Found(key, value, where, "mapped", "cluster.gpus")
        elif name in carried:
            yield Found(key, readable(value), where, "dropped", "cluster.gpus", "the file leaves it open")
        else:
            reason = "ours to say: launch.sh and job.sbatch find the first node and its port"
            yield Found(key, readable(value), where, "dropped", reason=reason)


def remarks(program: Program, headers: Headers, found: Ranks) -> Iterator[Remark]:
    """Tasks times torchrun, nodes that nobody uses, and a first node that is another for each."""
    tasks = _slurm(program, headers, "ntasks-per-node")
    several = (tasks or 1) > 1 and (found.per_node or 1) > 1
    if program.launcher == "torchrun" and several and "srun" in program.outer:
        message = (
            f"{tasks} tasks a node each start torchrun with {found.per_node} ranks: "
            f"{(tasks or 1) * (found.per_node or 1)} processes on the GPUs of a node; set --ntasks-per-node=1"
        )
        yield Remark("error", "launch.tasks", message, headers.get("ntasks-per-node", ("", program.place))[1])
    asked = sbatch.number(headers, "nodes")
    if asked and found.nodes and found.nodes != asked and program.launcher != "python":
        message = f"sbatch asks for {asked} nodes, {program.launcher} starts ranks on {found.nodes}"
        yield Remark("error", "launch.nodes", message, headers["nodes"][1])
    yield from _partial(program, headers, found)
    yield from _first_node(program, headers, found)
    if headers and sbatch.says_no_cpus(headers):
        message = (
            "neither --cpus-per-task nor --exclusive: SLURM gives a task one CPU where the partition says no other"
        )
        where = next(iter(headers.values()))[1]
        yield Remark("warning", "launch.cpus", f"{message}; read as --exclusive", where)


def _partial(program: Program, headers: Headers, found: Ranks) -> Iterator[Remark]:
    """Tasks that leave GPUs of the last nodes without a rank; mpirun's words count otherwise."""
    tasks = _slurm(program, headers, "ntasks") if program.launcher == "python" and not _mpi(program) else None
    if tasks and found.world and tasks != found.world:
        message = (
            f"{tasks} tasks are not {found.nodes} nodes with {found.per_node} each, which is read: "
            f"every node has as many ranks; set --ntasks={found.world}"
        )
        yield Remark("error", "launch.partial", message, headers.get("ntasks", ("", program.place))[1])


_OF_ONE = re.compile(r"scontrol|srun\b.*(\s-w|--nodelist)")
"""Commands that name a node, wherever they run."""


def _first_node(program: Program, headers: Headers, found: Ranks) -> Iterator[Remark]:
    address = program.option("master-addr", "rdzv-endpoint", "main-process-ip")
    if address is None or not found.nodes or found.nodes == 1:
        return
    host, where = address[0].partition(":")[0], address[1]
    if host in LOCAL:
        message = f"the address of the first node is {host}: each of {found.nodes} nodes would wait for itself"
        yield Remark("error", "launch.master_addr", message, where)
    elif re.search(r"\bhostname\b", readable(address[0])) and not _OF_ONE.search(readable(address[0])):
        login = "srun" in program.outer and not headers
        whose = "the machine where srun is typed (a login node)" if login else "each node's own name"
        if login or "srun" in program.outer:
            message = f"the address of the first node is {readable(host)}, {whose}; take it from $SLURM_JOB_NODELIST"
            yield Remark("error", "launch.master_addr", message, where)
