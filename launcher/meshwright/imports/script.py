"""A launch script -> values of ours: sbatch's lines, the launcher's words, the program's arguments."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from meshwright.errors import ConfigError, Problem
from meshwright.imports import ranks
from meshwright.imports.found import Found, Place, Remark, Source, shown
from meshwright.imports.launchers import Program, program
from meshwright.imports.libraries import read_by_libraries
from meshwright.imports.megatron import of_flags
from meshwright.imports.ranks import Ranks
from meshwright.imports.shell import sbatch
from meshwright.imports.shell.run import read
from meshwright.imports.shell.scope import Command, Scope
from meshwright.imports.shell.value import Value, fields, of_text, place, said
from meshwright.imports.unknown import is_known, readable

__all__ = ["Readers", "of_script"]

Readers = Sequence[tuple[Callable[[Program], bool], Callable[[Program, Ranks, Scope], Source]]]
"""Which programs a reader takes, and what it makes of their words."""


def of_script(text: str, file: str, answers: Mapping[str, str], readers: Readers = ()) -> Source:
    """What the script starts. It is parsed, never run; ``answers`` are values of variables.

    Raises:
        ConfigError: where it starts no training that is known.

    """
    scope, headers = _walked(text, file, answers)
    programs = [one for command in scope.commands if (one := program(command))]
    started = [(one, reader) for one in programs if (reader := _reader(one, readers))]
    if not started:
        return _fragment(scope, programs) or _refused(file, scope)
    chosen, reader = _chosen(started, answers)
    counted = ranks.ranks(chosen, headers)
    inner = reader(chosen, counted, scope)
    others = [one for one, _ in started if one.words != chosen.words]
    return replace(
        inner,
        values={
            **sbatch.values({**_container(chosen), **headers}),
            **_surroundings(headers, scope),
            **({} if any(ask.path == "cluster.gpus" for ask in inner.asks) else _cluster(counted)),
            **inner.values,
        },
        found=(*sbatch.found(headers), *ranks.used(chosen), *inner.found, *_exports(scope), *_lost(scope)),
        asks=(*counted.asks, *inner.asks),
        remarks=(*ranks.remarks(chosen, headers, counted), *inner.remarks, *_several(chosen, others)),
        choices=scope.choices,
    )


def _walked(text: str, file: str, answers: Mapping[str, str]) -> tuple[Scope, sbatch.Headers]:
    """What the script leaves: its commands and variables, and sbatch's lines, also those of jobs that it submits."""
    headers = sbatch.headers(text, file)
    scope = Scope(file, answers=answers, arguments=_arguments(answers))
    scope.take(sbatch.variables(headers), Place(file))
    read(text, scope)
    _take_runtime(scope)
    return scope, {**headers, **scope.headers}


def _arguments(answers: Mapping[str, str]) -> tuple[Value, ...] | None:
    """The words behind the script's name, as ``set.args`` gives them; None: nobody says."""
    if "args" not in answers:
        return None
    try:
        return tuple(of_text(word, Place("set.args")) for word in shlex.split(answers["args"]))
    except ValueError as error:
        raise ConfigError([Problem("set.args", str(error), "import.args")]) from None


def _fragment(scope: Scope, programs: Sequence[Program]) -> Source | None:
    """A script that others source: the arguments that its variables hold, where no program of its own takes them."""
    if any(text == "--num-layers" for one in programs for text, _ in one.words):
        return None
    words = [word for values in scope.variables.values() for value in values for word in fields(value)]
    if not any(said(word) == "--num-layers" for word in words):
        return None
    placed = [(said(word), place(word, Place(scope.file))) for word in words]
    first = next(number for number, (text, _) in enumerate(placed) if text.startswith("--"))
    inner = of_flags(placed[first:], "script that sets Megatron-LM's arguments")
    return replace(inner, found=(*inner.found, *_lost(scope)))


def _refused(file: str, scope: Scope) -> Source:
    raise ConfigError([_nothing(file, scope)])


def _reader(one: Program, readers: Readers) -> Callable[[Program, Ranks, Scope], Source] | None:
    for takes, reader in (*readers, (_is_megatron, _megatron)):
        if takes(one):
            return reader
    return None


def _is_megatron(one: Program) -> bool:
    flags = {text.partition("=")[0] for text, _ in one.words}
    sized = "--num-layers" in flags or "--yaml-cfg" in flags or "--tensor-model-parallel-size" in flags
    converts = flags & {"--load-dir", "--loader", "--target-tensor-model-parallel-size"}
    return sized and not converts and "--task" not in flags and not _NO_TRAINING.search(PurePosixPath(one.name).name)


_NO_TRAINING = re.compile(r"generat|server|inference|eval|convert|preprocess|analy|quantiz|export|prune")
_OTHERS = re.compile(r"bert|_t5|retro|vision|mamba|multimodal|vlm|encoder|ict|dino|mimo")


def _megatron(one: Program, counted: Ranks, scope: Scope) -> Source:
    """A GPT's training; Megatron-LM's programs for other models take the same arguments.

    Raises:
        ConfigError: where it is one of these.

    """
    name = PurePosixPath(one.name).name
    if _OTHERS.search(name):
        raise ConfigError(
            [Problem(str(one.place), f"{name} trains another kind of model than a decoder", "import.model")]
        )
    return of_flags(one.words, "Megatron-LM launch script", counted.world)


def _chosen(
    started: Sequence[tuple[Program, Any]], answers: Mapping[str, str]
) -> tuple[Program, Callable[[Program, Ranks, Scope], Source]]:
    """The training at the line that is asked for, else the last one."""
    wanted = [one for one in started if str(one[0].place.line) == answers.get("program")]
    return (wanted or started)[-1]


def _several(chosen: Program, others: Sequence[Program]) -> Iterator[Remark]:
    if others:
        lines = ", ".join(str(one.place.line) for one in others)
        message = f"the script starts other trainings, too (line {lines}); set.program=LINE reads one of them"
        yield Remark("warning", "import.several", message, chosen.place)


def _nothing(file: str, scope: Scope) -> Problem:
    seen = [f"line {one.place.line}: {_called(one)}" for one in scope.commands[:5]]
    missing = [what for _, what, _ in scope.lost if what.startswith("source ")]
    hint = f"; it starts {', '.join(seen)}" if seen else "; it starts no program"
    hint += f"; {readable(missing[0])} is not there" if missing else ""
    return Problem(file, f"no training that is known here{hint}", "import.program")


def _cluster(counted: Ranks) -> dict[str, Any]:
    """Of several nodes, as many GPUs each as there are ranks; of one, a part of a node may do."""
    if counted.world:
        several = {"cluster.gpus_per_node": counted.per_node} if (counted.nodes or 1) > 1 else {}
        return {"cluster.gpus": counted.world, **several}
    return {"cluster.nodes": counted.nodes} if counted.nodes and not counted.asks else {}


def _called(command: Command) -> str:
    started = program(command)
    return shown(readable(started.name if started else said(command.words[0])))


def _container(chosen: Program) -> sbatch.Headers:
    """Srun's options for a container; a mount that is open, such as of the run folder itself, is left out."""
    if "container-image" not in chosen.outer:
        return {}
    image, where = chosen.outer["container-image"]
    mounts = chosen.outer.get("container-mounts", ("", where))[0].split(",")
    return {
        "container-image": (image, where),
        "container-mounts": (",".join(mount for mount in mounts if is_known(mount)), where),
    }


def _surroundings(headers: sbatch.Headers, scope: Scope) -> dict[str, Any]:
    return {**_environment(scope), **_modules(headers, scope)}


def _environment(scope: Scope) -> dict[str, Any]:
    """Exported variables that libraries read; what the script needs for itself is not the run's."""
    kept = {name: said(scope.variables[name][0]) for name in sorted(scope.exported) if _kept(name, scope)}
    return {"launch.environment": kept} if kept else {}


def _take_runtime(scope: Scope) -> None:
    """``ray job submit --runtime-env-json``: variables that the workers find."""
    for command in scope.commands:
        pairs = pairwise(command.words)
        for text in (value for word, value in pairs if said(word) == "--runtime-env-json"):
            _set_runtime(said(text), place(text, command.place), scope)
        for word in command.words:
            name, _, value = said(word).partition("=")
            if name == "--runtime-env-json":
                _set_runtime(value, place(word, command.place), scope)


def _set_runtime(text: str, where: Place, scope: Scope) -> None:
    try:
        held = json.loads(text).get("env_vars")
    except (ValueError, AttributeError, RecursionError):
        return
    known = {name: value for name, value in (held or {}).items() if isinstance(value, str)}
    scope.take(known, where)
    scope.exported |= known.keys()


def _kept(name: str, scope: Scope) -> bool:
    value = scope.variables.get(name, ())
    return bool(value) and read_by_libraries(name) and is_known(said(value[0]))


def _modules(headers: sbatch.Headers, scope: Scope) -> dict[str, Any]:
    """``module load NAME``, in a job."""
    words = [[said(word) for word in one.words] for one in scope.commands]
    loaded = [name for one in words if one[:2] == ["module", "load"] for name in one[2:] if is_known(name)]
    return {"launch.slurm.modules": loaded} if headers and loaded else {}


def _exports(scope: Scope) -> Iterator[Found]:
    for name in sorted(scope.exported & scope.variables.keys()):
        value = scope.variables[name][0] if scope.variables[name] else ()
        where, text = (value[0][1] if value else Place(scope.file)), shown(readable(said(value)))
        if _kept(name, scope):
            yield Found(f"export {name}", text, where, "mapped", "launch.environment")
        else:
            reason = "the script's own; no library is known to read it"
            yield Found(f"export {name}", text, where, "dropped", reason=reason)


def _lost(scope: Scope) -> Iterator[Found]:
    for where, what, reason in scope.lost:
        yield Found(shown(readable(what)), "", where, "dropped", reason=reason)
    for name, where in scope.assumed.items():
        reason = f"taken as not set, as the script stands; set.{name}=VALUE says otherwise"
        yield Found(f"${name}", "", where, "default", reason=reason)
