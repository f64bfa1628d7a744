"""A throw-away SLURM on this machine's loopback: munged, slurmctld, one slurmd a virtual node; Debian's packages.

Every daemon runs in the foreground as a child of the test process, in UTS and mount namespaces of its own: on node n2
``hostname`` is n2 and the other nodes' names resolve, without a change to the machine. Nodes on paper are of the state
CLOUD: slurmctld schedules onto them and never meets them.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

__all__ = ["NODES", "PROGRAMS", "Cluster", "namespaces", "started"]

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "unshare", "setpriv")
NODES = 4
PAPER = {8: ("gpu", 2048), 4: ("quad", 2048)}  # GPUs a node: name of the nodes and of their partition, how many
LEAF = 32  # nodes below one switch
FINISHED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE"}


@dataclass(frozen=True)
class Cluster:
    """A running one. ``folder`` is for the jobs' files as well: nodes see the whole file system."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What its commands need."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """One of SLURM's commands."""
        return subprocess.run(words, cwd=cwd, env=self.environment, capture_output=True, text=True, check=False)

    def submit(self, folder: Path, *words: str) -> str:
        """The id of the job in the run folder ``folder``; ``words`` come before the script."""
        done = self.run("sbatch", "--parsable", *words, "job.sbatch", cwd=folder)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def show(self, job: str) -> dict[str, str]:
        """The fields of a job as slurmctld understood them."""
        text = self.run("scontrol", "show", "job", "--oneliner", job).stdout
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def wait(self, job: str, seconds: float = 300) -> str:
        """The state in which the job ended."""
        self.until(lambda: self.show(job).get("JobState") in FINISHED, seconds, f"job {job} did not end")
        return self.show(job)["JobState"]

    def until(self, holds: object, seconds: float, message: str) -> None:
        """Wait for ``holds()``."""
        assert callable(holds)
        limit = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < limit, message
            time.sleep(0.2)


def namespaces() -> list[str] | None:
    """The command that gives a daemon its own host name; None where this user may not have one."""
    root = os.geteuid() == 0
    words = ["unshare", "--mount", "--uts"] if root else ["unshare", "-U", "-c", "--keep-caps", "--mount", "--uts"]
    probe = [*words, "sh", "-c", "mount --bind /etc/hosts /etc/hosts && hostname n1"]
    return words if subprocess.run(probe, capture_output=True, check=False).returncode == 0 else None


@contextmanager
def started(space: Sequence[str]) -> Iterator[Cluster]:
    """A cluster for the length of the block. Sockets' paths are limited to 108 bytes: its folder's is short."""
    folder = Path(mkdtemp(prefix="slurm", dir="/tmp"))
    folder.chmod(0o755)  # munged wants to be reached through it
    try:
        with ExitStack() as daemons:
            cluster = Cluster(folder)
            _start(cluster, space, daemons)
            yield cluster
            cluster.run("scancel", f"--user={os.geteuid()}")
            cluster.until(lambda: not cluster.run("squeue", "--noheader").stdout, 30, "jobs that do not end")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(cluster: Cluster, space: Sequence[str], daemons: ExitStack) -> None:
    folder, port = cluster.folder, _free_ports(NODES + 1)
    _write_files(folder, port)
    munge = folder / "munge"
    files = [f"--{name}={munge / name}" for name in ("key-file", "socket", "pid-file", "log-file", "seed-file")]
    _daemon(daemons, folder, cluster.environment, "munged", ["munged", "--foreground", "--num-threads=2", *files])
    cluster.until((munge / "socket").exists, 10, "munged did not start")
    for name in ("ctl", *(f"n{k}" for k in range(1, NODES + 1))):
        program = "slurmctld -D" if name == "ctl" else f"slurmd -D -N {name}"
        own = f"mount --bind '{folder}/hosts/{name}' /etc/hosts && hostname {name} && exec {program}"
        _daemon(daemons, folder, cluster.environment, name, [*space, "sh", "-c", own])
    ready = ("sinfo", "--noheader", "--partition=test", "--states=idle", "--format=%D")
    cluster.until(lambda: cluster.run(*ready).stdout.strip() == str(NODES), 60, _logs(folder))


def _daemon(daemons: ExitStack, folder: Path, environment: dict[str, str], name: str, words: list[str]) -> None:
    """Start it; it ends with the block, and with this process, whatever that dies of."""
    log = daemons.enter_context((folder / "log" / f"{name}.log").open("w"))
    environment = {**environment, "PATH": f"{environment['PATH']}:/usr/sbin:/sbin"}
    words = ["setpriv", "--pdeathsig", "TERM", *words]
    process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)
    daemons.callback(process.wait)
    daemons.callback(process.terminate)


def _logs(folder: Path) -> str:
    return "\n".join(path.name + ": " + path.read_text()[-1000:] for path in (folder / "log").glob("*.log"))


def _free_ports(count: int) -> int:
    """The first of ``count`` ports in a row that nobody uses."""
    for first in range(16817 + os.getpid() % 100 * 100, 60000, 100):
        if all(_free(first + k) for k in range(count)):
            return first
    raise AssertionError("no free ports")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _write_files(folder: Path, port: int) -> None:
    for name in ("state", "spool", "log", "munge", "dev", "hosts"):
        (folder / name).mkdir()
    (folder / "munge").chmod(0o711)
    (folder / "munge" / "key-file").write_bytes(os.urandom(128))
    (folder / "munge" / "key-file").chmod(0o600)
    for gpu in range(8):
        (folder / "dev" / f"gpu{gpu}").symlink_to("/dev/null")
    (folder / "slurm.conf").write_text(_configuration(folder, port))
    (folder / "gres.conf").write_text(
        f"AutoDetect=off\nNodeName=n[1-{NODES}] Name=gpu Type=h100 File={folder}/dev/gpu[0-7]\n"
    )
    (folder / "topology.conf").write_text("\n".join(_switches()) + "\n")
    names = [f"n{k}" for k in range(1, NODES + 1)]
    for own in ("ctl", *names):  # daemons listen on the address of their own name
        others = [f"127.0.1.{k} {name}" for k, name in enumerate(names, 1) if name != own]
        text = "\n".join([f"127.0.0.1 {own}", *others, Path("/etc/hosts").read_text()])
        (folder / "hosts" / own).write_text(text)


def _configuration(folder: Path, port: int) -> str:
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    paper = "\n".join(
        f"NodeName={name}[0001-{count}] CPUs=512 Sockets=2 CoresPerSocket=256 ThreadsPerCore=1 RealMemory=4000000 "
        f"Gres=gpu:h100:{gpus} Feature=h100 NodeAddr=127.0.0.1 Port=9 State=CLOUD\n"
        f"PartitionName={name} Nodes={name}[0001-{count}] MaxTime=7-00:00:00 State=UP"
        for gpus, (name, count) in PAPER.items()
    )
    return f"""ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# a requeued job waits cred_expire seconds (default 120; less than 5 counts as that) before it may start again
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=1,sched_min_interval=100000
TopologyPlugin=topology/tree
GresTypes=gpu
# believe the CPUs and memory below, not the hardware
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=86400
EnforcePartLimits=ALL
SlurmdTimeout=300
MessageTimeout=60
SuspendProgram=/bin/true
ResumeProgram=/bin/true
SuspendTime=INFINITE
ResumeTimeout=3600
PrivateData=cloud
NodeName=n[1-{NODES}] NodeAddr=127.0.0.1 Port=[{port + 1}-{port + NODES}] CPUs=64 Sockets=2 CoresPerSocket=32 """ + (
        f"""ThreadsPerCore=1 RealMemory=1000000 Gres=gpu:h100:8 Feature=h100 State=UNKNOWN
PartitionName=test Nodes=n[1-{NODES}] Default=YES MaxTime=INFINITE State=UP
{paper}
"""
    )


def _switches() -> Iterator[str]:
    leaves = [f"n[{k}-{k + 1}]" for k in range(1, NODES, 2)]
    for name, count in PAPER.values():
        leaves += [f"{name}[{k:04}-{k + LEAF - 1:04}]" for k in range(1, count, LEAF)]
    yield from (f"SwitchName=leaf{i} Nodes={nodes}" for i, nodes in enumerate(leaves))
    yield f"SwitchName=spine Switches=leaf[0-{len(leaves) - 1}]"
