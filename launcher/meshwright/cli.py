"""The command line: a verb, then Hydra's own grammar.

Nothing heavy is imported here: ``--help`` and tab completion must answer at once.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from io import StringIO

from meshwright.errors import ConfigError, Problem
from meshwright.verbs import VERBS, Words
from meshwright.verbs.unread import refuse_unread

__all__ = ["main"]

HYDRA_ONLY = ("--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help", "--shell-completion", "-sc", "--resolve")
"""Flags that Hydra answers by itself."""

_WITH_VALUE = ("--cfg", "-c", "--info", "-i", "--config-dir", "-cd")
"""Flags whose value may be the next word."""

_COMPLETION = ("--shell-completion", "-sc")


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
        _refuse_strays(words, verb)
        return _hydra(words)
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


def _usage(words: list[str]) -> int:
    lines = [f"  meshwright {name:10} {verb.summary}" for name, verb in VERBS.items()]
    print("usage: meshwright VERB [group=option] [key=value] ...", *lines, sep="\n")
    print("Then Hydra's grammar: recipe=llama3_405b parallelism.tp=8 -m 'training.micro_batch=1,2' --cfg job --help")
    if not words:
        return 0
    raise ConfigError(_no_verb(words[0]))


def _no_verb(word: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(word, VERBS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the verbs are {', '.join(VERBS)}"
    return f"{word}: no such verb; {hint}"


def _refuse_strays(words: list[str], verb: str | None) -> None:
    """Words beside Hydra's flags that are neither flag, a flag's value nor an override: Hydra has a traceback for them.

    Raises:
        ConfigError: naming each of them.

    """
    before = ["", *words]
    strays = [
        word
        for word, last in zip(words, before, strict=False)
        if not word.startswith(("-", "~")) and "=" not in word and last not in _WITH_VALUE
    ]
    if strays:
        said = [] if verb else [_no_verb(strays.pop(0))]
        said += [f"{word}: overrides are written key=value, see meshwright --help" for word in strays]
        raise ConfigError([Problem("", text) for text in said])


def _hydra(words: list[str]) -> int:
    """Let Hydra answer: --help, --cfg, --info, completion."""
    import hydra

    completion = any(word in _COMPLETION for word in words)
    if _completed(words) if completion else _configuration(words):
        return 0
    sys.argv = ["meshwright", *words]
    with _ended_by_a_closed_pipe():
        hydra.main(version_base="1.3", config_path="pkg://meshwright.conf", config_name="config")(lambda _: None)()
        sys.stdout.flush()
    return 0


@contextmanager
def _ended_by_a_closed_pipe() -> Iterator[None]:
    """Exit with 0 at the first write nobody reads: Hydra's loggers and its report of errors print tracebacks for it."""
    before = signal.signal(signal.SIGPIPE, lambda *_: os._exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGPIPE, before)


def _completed(words: list[str]) -> bool:
    """Answer a query for verbs ourselves; Hydra prints what a shell evaluates to install or remove completion.

    Raises:
        ConfigError: for a task or a shell that Hydra has none of, which it meets with a traceback.

    """
    tasks = [f"{task}={shell}" for task in ("install", "uninstall", "query") for shell in ("bash", "fish", "zsh")]
    asked = [word for word in words if word not in _COMPLETION]
    if len(asked) != 1 or asked[0] not in tasks:
        raise ConfigError(f"-sc: expected one of {', '.join(tasks)}, got {' '.join(asked) or 'nothing'}")
    return asked[0].startswith("query=") and (_complete_verb() or _complete_part())


def _configuration(words: list[str]) -> bool:
    """Answer ``--cfg job`` ourselves, since Hydra knows no stages; refuse what it would answer with a traceback."""
    from meshwright.compose import compose, run_of, whole

    config_dir, rest = _config_dir(words)
    overrides = [word for word in rest if not word.startswith("-") and ("=" in word or word.startswith("~"))]
    flags = [word for word in rest if word not in (*overrides, "--resolve")]
    if "--resolve" in rest and not {"--cfg", "-c", "--help", "-h"}.intersection(flags):
        raise ConfigError("--resolve: belongs to --cfg job; give both")
    composed = compose(overrides, config_dir)
    if overrides and "parallelism=auto" not in overrides:  # which would search
        run_of(composed, overrides, config_dir)
    if flags not in (["--cfg", "job"], ["-c", "job"]):
        return False
    _print_yaml(whole(composed, overrides, config_dir))
    return True


def _print_yaml(document: Mapping[str, object]) -> None:
    import yaml

    print(yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True), end="")


def _complete_verb() -> bool:
    """Tab completion of the first word is ours; behind it, the verb is taken out of the line that Hydra completes."""
    program, *typed = os.environ.get("COMP_LINE", "").split(" ")
    if len(typed) <= 1:
        print(*(verb for verb in VERBS if verb.startswith(typed[0] if typed else "")), sep="\n")
        return True
    if typed[0] in VERBS:
        os.environ["COMP_LINE"] = " ".join([program, *typed[1:]])
    return False


def _complete_part() -> bool:
    """Tab completion of ``variant=`` and ``stage=``: a recipe's, of which Hydra knows nothing."""
    typed = os.environ.get("COMP_LINE", "").split(" ")
    kind, equals, part = typed[-1].partition("=")
    chosen = [word.removeprefix("recipe=") for word in typed if word.startswith("recipe=")]
    if kind not in ("variant", "stage") or not equals or not chosen:
        return False
    from meshwright.library import files

    records = files.recipe(chosen[-1]).records if chosen[-1] in files.names() else ()
    names = [str(name) for record in records if (name := getattr(record, kind))]
    print(*(f"{kind}={name}" for name in names if name.startswith(part)), sep="\n")
    return True


def _jobs(words: list[str], own: Sequence[str]) -> list[Words]:
    """The overrides of each job: one, or with ``-m`` one for every point of the sweep; ``own``: the verb's flags."""
    sweep = any(word in ("-m", "--multirun") for word in words)
    config_dir, rest = _config_dir([word for word in words if word not in ("-m", "--multirun")])
    flags = [word for word in rest if word.startswith("-") and word not in own]
    if flags:
        raise ConfigError(_no_flag(flags[0]))
    if not sweep:
        return [Words(tuple(rest), config_dir)]
    from meshwright.compose.sweep import expand

    points = expand(rest, config_dir)
    if not points:
        raise ConfigError("the sweep has no points: a glob(), range() or choice() in it matches nothing")
    swept = [i for i, values in enumerate(zip(*points, strict=True)) if len(set(values)) > 1]
    return [Words(tuple(point), config_dir, _assigned([point[i] for i in swept])) for point in points]


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


def _config_dir(words: list[str]) -> tuple[str | None, list[str]]:
    """Hydra's ``--config-dir DIR`` or ``-cd DIR`` and the other words."""
    for i, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            if not equals and i + 1 == len(words):
                raise ConfigError(f"{word}: needs a folder")
            return (value, words[:i] + words[i + 1 :]) if equals else (words[i + 1], words[:i] + words[i + 2 :])
    return None, words


if __name__ == "__main__":
    sys.exit(main())
