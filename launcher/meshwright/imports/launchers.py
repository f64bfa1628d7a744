"""torchrun, deepspeed, accelerate, srun: a command's words -> the program, its words, and nodes x ranks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from itertools import pairwise
from pathlib import PurePosixPath

from meshwright.imports.found import Place
from meshwright.imports.shell.scope import Command
from meshwright.imports.shell.scripts import ZOO
from meshwright.imports.shell.value import place, said
from meshwright.spec.frozen import dataclass

__all__ = ["Program", "program"]

Word = tuple[str, Place]


@dataclass(frozen=True, kw_only=True)
class Program:
    """What is started. ``options``: the launcher's own words by name, dashes for underscores, each with its place."""

    launcher: str  # torchrun, deepspeed, accelerate, python
    name: str  # the program's path, or its module
    words: tuple[Word, ...]  # behind the program
    place: Place
    options: Mapping[str, Word] = field(default_factory=dict)
    outer: Mapping[str, Word] = field(default_factory=dict)  # srun's own
    environment: Mapping[str, str] = field(default_factory=dict)  # what it finds there of the script

    def option(self, *names: str) -> Word | None:
        """The first of these options that is given."""
        return next((self.options[name] for name in names if name in self.options), None)


def program(command: Command) -> Program | None:
    """The program that a command starts; None where it starts no Python."""
    words = [(said(value), place(value, command.place)) for value in command.words]
    texts = [text for text, _ in words]
    if (swift := _swift(texts)) is not None:
        name = " ".join(texts[swift : swift + 2])
        return Program(launcher="python", name=name, words=tuple(words[swift + 2 :]), place=words[swift][1])
    if (zoo := next((at for at, text in enumerate(texts) if PurePosixPath(text).name in ZOO), None)) is not None:
        name, where, rest = PurePosixPath(texts[zoo]).name, words[zoo][1], tuple(words[zoo + 1 :])
        return Program(launcher="python", name=name, words=rest, place=where, environment=command.environment)
    at = _launcher(texts)
    return _launched(command, words, *at) if at is not None else None


def _launched(command: Command, words: list[Word], kind: str, start: int) -> Program | None:
    """What a launcher ``kind`` starts, whose own words begin at ``start``."""
    options, rest = _options(words[start:], _SWITCHES[kind])
    if not rest and "module" not in options:
        return None
    name, behind = (options["module"][0], rest) if "module" in options else (rest[0][0], rest[1:])
    outer = [(text, command.place) for text in command.outer] + words[:start]
    return Program(
        launcher=kind,
        name=name,
        words=tuple(behind),
        place=words[start - 1][1] if start else command.place,
        options=options,
        outer=dict(_outer(outer)),
    )


def _swift(texts: Sequence[str]) -> int | None:
    """Where ms-swift's own launcher stands: ``swift sft``, ``megatron sft``."""
    pairs = pairwise(texts)
    return next((at for at, pair in enumerate(pairs) if pair[0] in ("swift", "megatron") and pair[1] in _TUNES), None)


_TUNES = ("sft", "pt", "rlhf")

_SWITCHES = {
    "torchrun": frozenset(("standalone", "no-python", "run-path", "use-env")),
    "deepspeed": frozenset(("no-python", "no-local-rank", "save-pid", "force-multi", "enable-each-rank-log")),
    "accelerate": frozenset(
        (
            *("multi-gpu", "use-deepspeed", "use-fsdp", "use-megatron-lm", "cpu", "tpu", "quiet", "no-python"),
            *("debug", "same-network", "main-training-function"),
        )
    ),
    "python": frozenset(("u", "B", "O", "OO", "E", "s", "S", "I")),
}
"""Options of each launcher that take no value."""

_MODULES = ("torch.distributed.run", "torch.distributed.launch", "torch.distributed.elastic.multiprocessing")


def _launcher(texts: Sequence[str]) -> tuple[str, int] | None:
    """The kind of launcher, and where its own options begin."""
    for number, text in enumerate(texts):
        name = PurePosixPath(text).name
        if name == "torchrun":
            return "torchrun", number + 1
        if name == "deepspeed":
            return "deepspeed", number + 1
        if name == "accelerate" and texts[number + 1 : number + 2] == ["launch"]:
            return "accelerate", number + 2
        if re.fullmatch(r"python[\d.]*", name):
            return _of_python(texts, number)
    last = next((number for number, text in enumerate(texts) if text.endswith(".py")), None)
    return None if last is None else ("python", last)


def _of_python(texts: Sequence[str], number: int) -> tuple[str, int]:
    """``python -m torch.distributed.run`` is torchrun."""
    for at in range(number + 1, len(texts) - 1):
        if texts[at] == "-m":
            module = texts[at + 1]
            if module in _MODULES:
                return "torchrun", at + 2
            if module == "accelerate.commands.launch":
                return "accelerate", at + 2
            break
        if not texts[at].startswith("-"):
            break
    return "python", number + 1


def _options(words: Sequence[Word], switches: frozenset[str]) -> tuple[dict[str, Word], list[Word]]:
    """Options up to the program: ``--name value``, ``--name=value``; ``-m`` names a module."""
    options: dict[str, Word] = {}
    number = 0
    while number < len(words) and words[number][0].startswith("-"):
        text, where = words[number]
        name, equals, value = text.lstrip("-").partition("=")
        name = {"m": "module", "n": "nproc-per-node", "H": "hostfile"}.get(name, name.replace("_", "-"))
        number += 1
        if equals:
            options[name] = (value, where)
        elif name in switches or number == len(words):
            options[name] = ("", where)
        elif name == "module" and words[number][0].startswith("-"):
            continue  # accelerate's --module is a switch
        else:
            options[name] = (words[number][0], words[number][1])
            number += 1
    return options, list(words[number:])


_SHORT = {"N": "nodes", "n": "ntasks", "G": "gpus", "w": "nodelist", "c": "cpus-per-task"}


def _outer(words: Sequence[Word]) -> Iterator[tuple[str, Word]]:
    """Srun's options among the words before the launcher."""
    for number, (text, where) in enumerate(words):
        if PurePosixPath(text).name in ("srun", "mpirun", "mpiexec"):
            yield PurePosixPath(text).name, ("", where)
        name, equals, value = text.lstrip("-").partition("=")
        if not text.startswith("-") or not name:
            continue
        if short := re.fullmatch(r"-([NnGwc])=?(\S*)", text):
            name, value, equals = _SHORT[short[1]], short[2], short[2]
        following = words[number + 1][0] if number + 1 < len(words) else ""
        yield name.replace("_", "-"), (value if equals else following, where)
