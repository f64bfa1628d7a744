"""``#SBATCH`` lines -> our ``launch.slurm``, and the variables that SLURM sets from them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from meshwright.imports.found import Found, Place
from meshwright.imports.unknown import is_known
from meshwright.rules.launch import SET_HERE

__all__ = ["Headers", "found", "headers", "number", "options", "says_no_cpus", "values", "variables"]

Headers = dict[str, tuple[str, Place]]
"""Options by their long name: value and place; the last one of a name counts."""

_SHORT = {
    **{"J": "job-name", "N": "nodes", "n": "ntasks", "A": "account", "p": "partition", "t": "time", "q": "qos"},
    **{"o": "output", "e": "error", "c": "cpus-per-task", "G": "gpus", "C": "constraint", "w": "nodelist"},
    **{"x": "exclude", "d": "dependency", "a": "array", "D": "chdir"},
}
_PLAIN = (
    *("account", "array", "comment", "constraint", "dependency", "exclude", "mail-type", "mail-user", "nodelist"),
    *("partition", "qos", "reservation", "time", "mem", "switches", "output", "job-name"),
)
_NUMBERS = ("cpus-per-task", "segment")
_LAYOUT = ("nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "gres", "gpus", "gpus-per-task")
_OURS = {"open-mode": "append"}  # what we always write


def headers(text: str, file: str) -> Headers:
    """The options of the leading comments of a job script."""
    found: Headers = {}
    for number_, line in enumerate(text.splitlines(), 1):
        if line.startswith("#SBATCH"):
            found |= options(_words(line.removeprefix("#SBATCH")), Place(file, number_))
        elif line.strip() and not line.lstrip().startswith("#"):
            break
    return found


def options(words: Iterable[str], where: Place) -> Headers:
    """The options among the words of one line, or of a command; what is left open is none."""
    return {name: (value, where) for name, value in _options(list(words)) if is_known(value)}


def _words(line: str) -> list[str]:
    """The words of a line; a comment may follow."""
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    return words[: next((at for at, word in enumerate(words) if word.startswith("#")), len(words))]


def _options(words: list[str]) -> Iterator[tuple[str, str]]:
    """``--name=value``, ``--name value`` and ``-N4``."""
    while words:
        word = words.pop(0)
        if match := re.fullmatch(r"-(\w)(.*)", word):
            name, value = _SHORT.get(match[1], match[1]), match[2].removeprefix("=")
        else:
            name, equals, value = word.removeprefix("--").partition("=")
            if equals:
                yield name, value
                continue
        if not value and words and not words[0].startswith("-"):
            value = words.pop(0)
        yield name, value


def variables(headers: Headers) -> dict[str, str]:
    """What sbatch sets in the job's environment."""
    nodes, tasks, per_node = number(headers, "nodes"), number(headers, "ntasks"), number(headers, "ntasks-per-node")
    gpus = gpus_per_node(headers)
    known = {
        "SLURM_NNODES": nodes,
        "SLURM_JOB_NUM_NODES": nodes,
        "SLURM_NTASKS_PER_NODE": per_node,
        "SLURM_TASKS_PER_NODE": per_node,
        "SLURM_NTASKS": tasks or (nodes * (per_node or 1) if nodes else None),
        "SLURM_NPROCS": tasks or (nodes * (per_node or 1) if nodes else None),
        "SLURM_GPUS_PER_NODE": gpus,
        "SLURM_GPUS_ON_NODE": gpus,
        "SLURM_CPUS_PER_TASK": number(headers, "cpus-per-task"),
    }
    return {name: str(value) for name, value in known.items() if value is not None}


def number(options: Headers, name: str) -> int | None:
    """An option's number; of a range its first."""
    match = re.match(r"\d+", options[name][0]) if name in options else None
    return int(match[0]) if match else None


def gpus_per_node(options: Headers) -> int | None:
    """GPUs of a node: ``--gpus-per-node=h100:8``, ``--gres=gpu:8``, or the job's over its nodes."""
    for name in ("gpus-per-node", "gres"):
        if name in options and (match := re.search(r"(?:gpu:|^)(?:[\w.-]*:)?(\d+)(?:\(|,|$)", options[name][0])):
            return int(match[1])
    whole, nodes = number(options, "gpus"), number(options, "nodes")
    return whole // nodes if whole and nodes else None


def values(options: Headers) -> dict[str, Any]:
    """Our keys. Nodes and GPUs are the launcher's to say, and this one's where it does not."""
    if not options.keys() - {"container-image", "container-mounts"}:
        return {}
    slurm: dict[str, Any] = {name: options[name][0] for name in _PLAIN if name in options and options[name][0]}
    slurm |= {name: count for name in _NUMBERS if (count := number(options, name)) is not None}
    slurm["exclusive"] = "exclusive" in options or "cpus-per-task" not in options
    slurm["requeue"] = "no-requeue" not in options
    slurm["tasks"] = "rank" if (number(options, "ntasks-per-node") or 1) > 1 else "node"
    slurm["gpus"] = "gres" if "gres" in options else "gpus-per-node" if "gpus-per-node" in options else "none"
    slurm["extra"] = [f"--{name}={value}" if value else f"--{name}" for name, (value, _) in _others(options)]
    if slurm["exclusive"] and slurm.get("mem") == "0":
        del slurm["mem"]  # what an exclusive job asks for anyway
    if slurm.get("output") == "job-%j.log":
        del slurm["output"]  # ours where nothing is said
    slurm |= _typed(options) | _signal(options) | _container(options)
    named = {f"launch.slurm.{name.replace('-', '_')}": value for name, value in slurm.items()}
    return {"launch.kind": "slurm", **named}


def says_no_cpus(options: Headers) -> bool:
    """Whether nothing says how many CPUs a task has; the defaults of a partition are not in the file."""
    return not options.keys() & {"exclusive", "cpus-per-task", "cpus-per-gpu", "mincpus"}


def _typed(options: Headers) -> dict[str, str]:
    for name in ("gpus-per-node", "gres"):
        if name in options and (match := re.search(r"(?:^|gpu:)([A-Za-z][\w.-]*):\d", options[name][0])):
            return {} if match[1] == "gpu" else {"gpu_type": match[1]}
    return {}


def _signal(options: Headers) -> dict[str, int]:
    match = re.search(r"@(\d+)", options["signal"][0]) if "signal" in options else None
    return {"signal_seconds": int(match[1])} if match else {}


def _container(options: Headers) -> dict[str, Any]:
    if "container-image" not in options:
        return {}
    mounts = options.get("container-mounts", ("", Place("")))[0]
    return {"container": "pyxis", "image": options["container-image"][0], "mounts": [m for m in mounts.split(",") if m]}


_KNOWN = {
    *(*_PLAIN, *_NUMBERS, *_LAYOUT, *_OURS),
    *("exclusive", "requeue", "no-requeue", "signal", "container-image", "container-mounts"),
}
_LOST = {
    **dict.fromkeys(SET_HERE - _KNOWN, "it follows from the plan, or job.sbatch says it"),
    **{"error": "both streams go to --output", "chdir": "the job works in its run folder"},
}


def _others(options: Headers) -> Iterator[tuple[str, tuple[str, Place]]]:
    return ((name, one) for name, one in options.items() if name not in _KNOWN | _LOST.keys())


def found(options: Headers) -> Iterator[Found]:
    """The fate of every option."""
    own: Mapping[str, str] = {
        **dict.fromkeys(("nodes", "ntasks", "gpus"), "cluster.gpus"),
        **dict.fromkeys(("gpus-per-node", "gres"), "launch.slurm.gpus"),
        "ntasks-per-node": "launch.slurm.tasks",
        "signal": "launch.slurm.signal_seconds",
        "container-image": "launch.slurm.image",
        "container-mounts": "launch.slurm.mounts",
        "no-requeue": "launch.slurm.requeue",
    }
    for name, (value, where) in options.items():
        key = f"#SBATCH --{name}"
        if name in _LOST:
            yield Found(key, value, where, "dropped", reason=_LOST[name])
        elif name in _KNOWN:
            path = own.get(name, f"launch.slurm.{name.replace('-', '_')}")
            yield Found(key, value, where, "default" if _OURS.get(name) == value else "mapped", path)
        else:
            yield Found(key, value, where, "passed", "launch.slurm.extra")
