"""The command line: a verb, then Hydra's own grammar.

Nothing heavy is imported here: ``--help`` and tab completion must answer at once.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO

from meshwright.errors import ConfigError
from meshwright.verbs import VERBS, Words, config_dir, no_verb
from meshwright.verbs.unread import refuse_unread

__all__ = ["main"]

HYDRA_ONLY = ("--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help", "--shell-completion", "-sc", "--resolve")
"""Flags that Hydra answers by itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code: 0 done, 1 it was tried and failed, 2 the configuration is wrong."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    gc.set_threshold(100_000, 50, 50)  # composing makes many objects that live on: looking for cycles costs a tenth
    try:
        code = _reported(words)
        sys.stdout.flush()  # or a closed pipe is met at exit, where nothing can catch it
        sys.stderr.flush()
    except BrokenPipeError:  # the reader of our output has seen enough
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 0
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich's word for the same (Console.on_broken_pipe)
            return 0
        raise
    except KeyboardInterrupt:
        return 130
    finally:
        if arguments is None:
            gc.freeze()  # the process ends: what is alive now need not be gone through once more
    return code


def _reported(words: list[str]) -> int:
    as_json = "output=json" in words
    try:
        return _run(words)
    except ConfigError as error:
        _complain(error, as_json)
        return 2


def _complain(error: ConfigError, as_json: bool) -> None:
    """A line a problem, or the document that a program waits for."""
    if as_json:
        from meshwright.report.print_json import print_json
        from meshwright.report.problems import document

        print_json({"problems": document(error.problems)})
    else:
        print(*error.problems, sep="\n", file=sys.stderr)


def _run(words: list[str]) -> int:
    if words[:1] == ["--version"]:
        from meshwright import __version__

        print(f"meshwright {__version__}")
        return 0
    verb = words.pop(0) if words and words[0] in VERBS else None
    if any(word.split("=")[0] in HYDRA_ONLY for word in words):
        return _answered_by_hydra(words, verb)
    if verb is None:
        return _usage(words)
    module = import_module(VERBS[verb].module)
    jobs = _jobs(words, getattr(module, "FLAGS", ()))
    refuse_unread(verb, jobs[0].overrides)
    if "output" in jobs[0].swept:
        raise ConfigError("output: one form for all points of a sweep; give one")
    if len(jobs) == 1:
        return int(module.run(jobs[0]))
    return int(module.sweep(jobs)) if hasattr(module, "sweep") else _each(module.run, jobs)


def _each(run: Callable[[Words], int], jobs: Sequence[Words]) -> int:
    """Every point of a sweep by itself, named; one that is wrong does not end the others."""
    if "output=json" in jobs[0].overrides:
        return _each_as_json(run, jobs)
    codes = []
    for job in jobs:
        print(f"point {job.point}:", flush=True)
        codes.append(_attempted(run, job, as_json=False))
    return max(codes)


def _each_as_json(run: Callable[[Words], int], jobs: Sequence[Words]) -> int:
    """One list of the documents that the points print."""
    from meshwright.report.print_json import print_json

    codes, documents = [], []
    for job in jobs:
        with redirect_stdout(StringIO()) as printed:
            codes.append(_attempted(run, job, as_json=True))
        told = json.loads(printed.getvalue())
        documents.append({"point": dict(job.swept), **(told if isinstance(told, dict) else {"document": told})})
    print_json(documents)
    return max(codes)


def _attempted(run: Callable[[Words], int], job: Words, as_json: bool) -> int:
    try:
        return int(run(job))
    except ConfigError as error:
        _complain(error, as_json)
        return 2


def _answered_by_hydra(words: list[str], verb: str | None) -> int:
    from meshwright.verbs import hydra_flags

    hydra_flags.answer(words, verb)
    return 0


def _usage(words: list[str]) -> int:
    lines = [f"  meshwright {name:10} {verb.summary}" for name, verb in VERBS.items()]
    print("usage: meshwright VERB [group=option] [key=value] ...", *lines, sep="\n")
    print("Then Hydra's grammar: recipe=llama3_405b parallelism.tp=8 -m 'training.micro_batch=1,2' --cfg job --help")
    if not words:
        return 0
    raise ConfigError(no_verb(words[0]))


def _jobs(words: list[str], own: Sequence[str]) -> list[Words]:
    """The overrides of each job: one, or with ``-m`` one for every point of the sweep; ``own``: the verb's flags."""
    sweep = any(word in ("-m", "--multirun") for word in words)
    folder, rest = config_dir([word for word in words if word not in ("-m", "--multirun")])
    flags = [word for word in rest if word.startswith("-") and word not in own]
    if flags:
        raise ConfigError(_no_flag(flags[0]))
    if not sweep:
        return [Words(tuple(rest), folder)]
    from meshwright.compose.sweep import expand

    points = expand(rest, folder)
    if not points:
        raise ConfigError("the sweep has no points: a glob(), range() or choice() in it matches nothing")
    swept = [i for i, values in enumerate(zip(*points, strict=True)) if len(set(values)) > 1]
    return [Words(tuple(point), folder, _assigned([point[i] for i in swept])) for point in points]


def _no_flag(flag: str) -> str:
    if flag.partition("=")[0] in ("--config-name", "-cn", "--config-path", "-cp"):
        hint = "a file of your own is DIR/recipe/NAME.yaml, chosen with --config-dir DIR recipe=NAME"
        return f"{flag}: there is one configuration, and recipes on top of it; {hint}"
    from meshwright.spec import Spec
    from meshwright.spec.decode import elsewhere, places

    near = elsewhere(places(Spec, flag.partition("=")[0].lstrip("-").replace("-", "_")))
    return f"{flag}: unknown flag; overrides are written key=value, {near or 'see meshwright --help'}"


def _assigned(overrides: Sequence[str]) -> dict[str, str]:
    return {key: value for key, _, value in (word.partition("=") for word in overrides)}


if __name__ == "__main__":
    sys.exit(main())
