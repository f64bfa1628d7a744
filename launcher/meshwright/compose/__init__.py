"""Hydra composes here and nowhere else: overrides in, a Run of plain frozen dataclasses out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from meshwright.compose import software
from meshwright.compose.by_hydra import configuration
from meshwright.compose.precedence import LIBRARY, SPEC, laid, merged, new_names, of_recipe, selected, staged, varied
from meshwright.compose.run import Listing, Options, Rehearsal, Run, Search, Text
from meshwright.compose.sets import split_sets
from meshwright.compose.words import CONF, GROUPS, folders, opened, problem_of, refuse
from meshwright.errors import ConfigError, Problem, distinct
from meshwright.rules.values import value_problems
from meshwright.spec import Spec
from meshwright.spec.decode import decode, elsewhere, places

__all__ = [
    "CONF",
    "GROUPS",
    "Listing",
    "Options",
    "Rehearsal",
    "Run",
    "Search",
    "Text",
    "compose",
    "load",
    "run_of",
    "whole",
]

_TOP = {*SPEC, *LIBRARY} | {f.name for f in fields(Options)}


def load(
    overrides: Sequence[str] = (),
    config_dir: str | Path | None = None,
    *,
    search: bool = False,
    stated: Mapping[str, Any] | None = None,
) -> Run:
    """The Run that Hydra ``overrides`` describe, with the options of the folder ``config_dir`` beside ours.

    With ``parallelism=auto``, or for a ``search``, its layouts are open: see ``Run.open``. ``stated``: values above
    the groups and below the command line, as a recipe's stage has them; an import's.

    Raises:
        ConfigError: with one problem for each thing wrong with the words, the files or the values.
        TypeError: where ``overrides`` is no list of words.

    """
    _refuse_no_words(overrides)
    composed = compose(overrides, config_dir)
    if stated is not None:
        composed = {**composed, "stages": {None: stated}}
    if search or (composed.get("parallelism") or {}).get("auto") is True:
        return _open(composed, overrides, config_dir)
    return run_of(composed, overrides, config_dir)


def _refuse_no_words(overrides: object) -> None:
    if isinstance(overrides, str) or not isinstance(overrides, Sequence):
        raise TypeError(f"load takes a list of overrides, such as ['model=tiny', 'cluster.gpus=8'], not {overrides!r}")
    odd = [word for word in overrides if not isinstance(word, str)]
    if odd:
        raise TypeError(f"an override is text, such as 'cluster.gpus=8', not {odd[0]!r}")


def _open(composed: Mapping[str, Any], overrides: Sequence[str], config_dir: str | Path | None) -> Run:
    """A run whose layouts a search decides: a set of values stands for its first one meanwhile."""
    words = [word for word in overrides if word != "parallelism=auto"]
    plain, stated = split_sets(composed, words)
    plain["parallelism"] = {key: value for key, value in plain["parallelism"].items() if key != "auto"}
    return replace(run_of(plain, words, config_dir), open=stated)


def run_of(composed: Mapping[str, Any], overrides: Sequence[str], config_dir: str | Path | None = None) -> Run:
    """Decode what Hydra composed, stage by stage; see ``load``."""
    problems: list[Problem] = list(_unknown(composed))
    own = {key: value for key, value in composed.items() if key in _TOP and key not in (*SPEC, *LIBRARY)}
    options = _try(problems, lambda: decode(Options, own)) or Options()
    variant, described = _try(problems, lambda: _described(composed, overrides, config_dir, options)) or (None, {})
    stages = [_try(problems, lambda: _spec(values, name, variant)) for name, values in described.items()]  # noqa: B023
    if problems:
        raise ConfigError(distinct(problems))
    return Run(
        name=stages[0].name if stages[0] else "",
        stages=tuple(stage for stage in stages if stage is not None),
        options=options,
        about=composed.get("about") or {},
        provenance=composed.get("provenance") or {},
        composed=composed,
    )


def whole(composed: Mapping[str, Any], overrides: Sequence[str], config_dir: str | Path | None) -> dict[str, Any]:
    """What is configured, for people; the values are those of ``variant=NAME`` and ``stage=NAME``."""
    chosen = Options(stage=composed.get("stage"), variant=composed.get("variant"))
    if chosen == Options():
        return dict(composed)
    _, described = _described(composed, overrides, config_dir, chosen)
    return {**composed, **next(iter(described.values()))}


def _described(
    composed: Mapping[str, Any], overrides: Sequence[str], config_dir: str | Path | None, chosen: Options
) -> tuple[str | None, dict[str | None, dict[str, Any]]]:
    """The variant, and everything that describes each stage to be handled, not decoded yet."""
    base = laid(composed, overrides, config_dir)
    variant, base = varied(base, composed.get("variants") or {}, chosen.variant)
    stages = selected(composed.get("stages") or {}, chosen.stage)
    return variant, {name: staged(base, values, composed, overrides) for name, values in stages.items()}


def _unknown(composed: Mapping[str, Any]) -> Iterator[Problem]:
    for key in composed:
        if key not in _TOP:
            close = get_close_matches(key, _TOP, n=1)
            near = f"did you mean {close[0]}?" if close else f"known here: {', '.join(sorted(_TOP))}"
            deeper = elsewhere((*places(Spec, key), *places(Options, key)))
            yield Problem(key, f"unknown key; {deeper or near}", "decode.unknown")
    for key in ("about", "provenance"):
        if not isinstance(composed.get(key) or {}, Mapping):
            yield Problem(key, f"expected a mapping, got {composed[key]!r}", "decode.mapping")


def _try[T](problems: list[Problem], attempt: Callable[[], T]) -> T | None:
    """The value, or None with its problems noted: all that is wrong is said at once."""
    try:
        return attempt()
    except ConfigError as error:
        problems += error.problems
        return None


def compose(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> dict[str, Any]:
    """What Hydra makes of the overrides, as a plain dict. Unknown keys are let through: decoding names them all."""
    refuse(overrides, config_dir)
    composed = _composed(overrides, config_dir)
    on_recipe = of_recipe(overrides)
    if on_recipe:
        recipe = _composed([word for word in overrides if word not in on_recipe], config_dir)
        problems = new_names(composed, recipe)
        if problems:
            raise ConfigError(problems)
    return composed


def _composed(overrides: Sequence[str], config_dir: str | Path | None) -> dict[str, Any]:
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    lie = folders(config_dir)
    try:
        config = configuration([opened(word) for word in overrides], lie)
        plain: Any = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        raise ConfigError([problem_of(error, config_dir)]) from None
    return {str(key): value for key, value in plain.items()}


def _spec(data: dict[str, Any], stage: str | None, variant: str | None) -> Spec:
    data["model"] = _architecture(data.get("model"), data.get("backend"))
    data["software"] = software.asked(data.get("software"))
    data["backend"] = software.settled(data.get("backend"), data["software"])
    if data.get("name") is None:
        data["name"] = data["model"].get("name", "run") if isinstance(data["model"], Mapping) else "run"
    spec = decode(Spec, {**data, "stage": stage, "variant": variant})
    problems = value_problems(spec, spec.backend.name)
    if problems:
        raise ConfigError(problems)
    return spec


def _architecture(model: Any, backend: Any) -> Any:
    """``model.path`` names a folder with a Hugging Face config.json; keys that are set win over it."""
    if not isinstance(model, Mapping) or "path" not in model:
        return model
    stated = {key: value for key, value in model.items() if key not in _OF_FILE and value is not None}
    path = model["path"]
    if {"layers", "hidden", "heads", "vocab"} <= stated.keys():
        raise ConfigError([Problem("model.path", f"{stated.get('name')} is described without it; choose model=hf")])
    if not isinstance(path, str) or path == "???":
        raise ConfigError([Problem("model.path", "not set; give a folder with a Hugging Face config.json")])
    transformers = isinstance(backend, Mapping) and backend.get("name") == "deepspeed"
    return _read(Path(path), stated, model.get("trust_remote_code") is True, transformers)


_OF_FILE = ("path", "trust_remote_code")


def _read(path: Path, stated: Mapping[str, Any], trusted: bool, transformers: bool) -> dict[str, Any]:
    """``transformers``: whether that library's own model is trained."""
    from meshwright.model.huggingface import UnsayableError, as_built, read

    try:
        return merged(as_built(read(path)) if transformers else read(path), stated)
    except UnsayableError as error:
        from meshwright.compose.looked_at import looked_at

        found = looked_at(error, trusted)
        fixed = sorted(stated.keys() - {"name"})
        if fixed:
            message = f"{error.lacks}, so that only its file says what it is; change {', '.join(fixed)} there"
            raise ConfigError([Problem(f"model.{fixed[0]}", message, "huggingface.measured")]) from None
        return merged(found, stated)
