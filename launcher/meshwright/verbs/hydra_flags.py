"""Flags that Hydra answers by itself, beside a verb or without: --help, --cfg, --info, tab completion.

What Hydra knows nothing of (verbs, variants, stages) is answered here, and what it would answer with a traceback is
refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from meshwright.errors import ConfigError, Problem
from meshwright.verbs import VERBS, no_verb
from meshwright.verbs import config_dir as split

__all__ = ["answer"]

_WITH_VALUE = ("--cfg", "-c", "--info", "-i", "--config-dir", "-cd")
"""Flags whose value may be the next word."""

_COMPLETION = ("--shell-completion", "-sc")


def answer(words: list[str], verb: str | None) -> None:
    """Print what is asked for; ``verb``: the one before ``words``.

    Raises:
        ConfigError: for words that are neither flags nor overrides, and for what is wrong with the configuration.

    """
    _refuse_strays(words, verb)
    completion = any(word in _COMPLETION for word in words)
    if not (_completed(words) if completion else _configuration(words)):
        from meshwright.compose.hydra_program import hydra_program

        hydra_program(words)


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
        said = [] if verb else [no_verb(strays.pop(0))]
        said += [f"{word}: overrides are written key=value, see meshwright --help" for word in strays]
        raise ConfigError([Problem("", text) for text in said])


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

    config_dir, rest = split(words)
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
