"""Hydra composes here and nowhere else: overrides in, a Run of plain frozen dataclasses out.

Precedence: group defaults < recipe < stage < command line. Hydra lets a recipe win over a group chosen on the command
line and knows nothing of stages, so what the command line says is laid on again, last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from meshwright.decode import decode
from meshwright.errors import ConfigError, Problem
from meshwright.spec import Spec

__all__ = ["CONF", "GROUPS", "Options", "Rehearsal", "Run", "Search", "Text", "compose", "load", "run_of"]

CONF = Path(__file__).parent / "conf"
GROUPS = ("model", "cluster", "parallelism", "training", "backend", "launch", "recipe")
SPEC = ("name", "model", "cluster", "parallelism", "training", "backend", "launch")
LIBRARY = ("about", "provenance", "stages")  # what a recipe says about itself


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """The miniature that ``rehearse`` trains."""

    ranks: int = 4
    steps: int = 40


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search looks for, and what it writes beside its answer."""

    objective: Literal["time", "throughput", "gpu_hours", "memory", "gpus"] = "time"
    top: int = 5
    place: int = 1
    days: float | None = None
    scaling: Literal["strong", "weak"] = "strong"
    table: str | None = None
    plot: str | None = None
    compile: bool = False
    folder: str | None = None
    nodes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Text:
    """What the verb data reads and writes."""

    input: tuple[str, ...] = ()
    prefix: str | None = None
    field: str = "text"
    workers: int = 1


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the verbs ask beside the run itself."""

    output: Literal["text", "json"] = "text"
    stage: str | None = None
    runs: str = "runs"
    verify: bool = True
    why: Mapping[str, object] | None = None
    rehearse: Rehearsal = Rehearsal()
    rows: str | None = None
    search: Search = Search()
    data: Text = Text()


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run: its stages in order, each a whole Spec. ``about`` and ``provenance`` are the recipe's, as composed."""

    name: str
    stages: tuple[Spec, ...]
    options: Options
    about: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    composed: Mapping[str, Any] = field(default_factory=dict)


_TOP = {*SPEC, *LIBRARY} | {f.name for f in fields(Options)}


def load(overrides: Sequence[str] = (), config_dir: str | None = None) -> Run:
    """The Run that Hydra ``overrides`` describe.

    Raises:
        ConfigError: with one problem for each thing wrong with the words, the files or the values.

    """
    return run_of(compose(overrides, config_dir), overrides, config_dir)


def run_of(composed: Mapping[str, Any], overrides: Sequence[str], config_dir: str | None = None) -> Run:
    """Decode what Hydra composed, stage by stage; see ``load``. With ``parallelism=auto`` the search lays it out."""
    if (composed.get("parallelism") or {}).get("auto") is True:
        from meshwright.search.auto import run

        return run(composed, overrides, config_dir)
    problems: list[Problem] = list(_unknown(composed))
    data = {key: value for key, value in composed.items() if key in _TOP}
    library = {key: data.pop(key, None) or {} for key in LIBRARY}
    described = {key: data.pop(key) for key in SPEC if key in data}
    options = _try(problems, lambda: decode(Options, data)) or Options()
    base = _lay(described, _chosen_groups(overrides, config_dir))
    selected = _try(problems, lambda: _selected(library["stages"], options.stage)) or {}
    stages = [
        _try(problems, lambda: _spec(_commanded(_lay(base, _values(stage)), described, overrides), name))  # noqa: B023
        for name, stage in selected.items()
    ]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return Run(
        name=stages[0].name if stages[0] else "",
        stages=tuple(stage for stage in stages if stage is not None),
        options=options,
        about=library["about"],
        provenance=library["provenance"],
        composed=composed,
    )


def _unknown(composed: Mapping[str, Any]) -> Iterator[Problem]:
    for key in composed:
        if key not in _TOP:
            close = get_close_matches(key, _TOP, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(sorted(_TOP))}"
            yield Problem(key, f"unknown key; {hint}", "decode.unknown")


def _try[T](problems: list[Problem], attempt: Callable[[], T]) -> T | None:
    """The value, or None with its problems noted: all that is wrong is said at once."""
    try:
        return attempt()
    except ConfigError as error:
        problems += error.problems
        return None


def compose(overrides: Sequence[str] = (), config_dir: str | None = None) -> dict[str, Any]:
    """What Hydra makes of the overrides, as a plain dict. Unknown keys are let through: decoding names them all."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    search = [f"hydra.searchpath=[{Path(config_dir).absolute().as_uri()}]"] if config_dir else []
    try:
        with initialize_config_module("meshwright.conf", version_base="1.3"):
            config = hydra_compose("config", [*search, *map(_open, overrides)])
        plain: Any = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        raise ConfigError([_hydra_problem(error)]) from None
    return {str(key): value for key, value in plain.items()}


def _open(override: str) -> str:
    """``key=value`` with ``++`` before it, so that Hydra leaves the judging of keys to our decoder."""
    key = override.partition("=")[0]
    plain = "=" in override and key[:1] not in "+~" and key not in GROUPS and not key.startswith("hydra")
    return f"++{override}" if plain and re.fullmatch(r"[\w.\-]+", key) else override


def _hydra_problem(error: Exception) -> Problem:
    text = str(error)
    override = getattr(error, "override", None)
    if isinstance(override, str):
        return _unreadable(override.removeprefix("++"))
    missing = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
    if missing:
        group, option = missing.groups()
        known = sorted(path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_"))
        close = get_close_matches(option, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
        return Problem(group, f"no option {option!r}; {hint}", "compose.option")
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return Problem(unknown[1], "unknown key", "compose.key")
    several = re.search(r"Ambiguous value for argument '(?:\+\+)?([^=']+)=", text)
    if several:
        message = "several values; sweep over them with -m, or write a list as [a,b]"
        return Problem(several[1], message, "compose.grammar")
    first = " ".join(line.strip() for line in text.splitlines() if line.strip())
    return Problem("", f"cannot compose: {first}" if first else f"cannot compose: {type(error).__name__}", "compose")


def _unreadable(override: str) -> Problem:
    """An override that Hydra's grammar does not take."""
    key, equals, value = override.partition("=")
    if not equals:
        return Problem("", f"{override}: not an override; write key=value", "compose.grammar")
    hint = "quote it for Hydra as well as for the shell, 'key=\"value\"'; a list of points needs -m"
    return Problem(key, f"cannot read the value {value}; {hint}", "compose.grammar")


def _selected(stages: Any, wanted: str | None) -> dict[str | None, Any]:
    """The stages to handle by name; a run without stages is one nameless stage."""
    if not isinstance(stages, Mapping):
        raise ConfigError([Problem("stages", f"expected a mapping, got {stages!r}")])
    if wanted is None:
        return dict(stages) or {None: {}}
    if wanted not in stages:
        known = ", ".join(map(str, stages)) or "none"
        raise ConfigError([Problem("stage", f"no stage {wanted!r}; there are {known}")])
    return {wanted: stages[wanted]}


def _values(stage: Any) -> dict[str, Any]:
    """What a stage overrides, without what it says about itself."""
    return {key: value for key, value in (stage or {}).items() if key not in LIBRARY}


def _lay(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``under``; mappings merge, everything else replaces."""
    result = dict(under)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _lay(result[key], value) if both else deepcopy(value)
    return result


def _commanded(staged: Mapping[str, Any], composed: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Lay the values of the command line on again: they win over a stage, too."""
    result: dict[str, Any] = dict(staged)
    for override in overrides:
        path = override.partition("=")[0].lstrip("+~").split("@")[0].split(".")
        if path[0] in SPEC and (len(path) > 1 or path[0] == "name"):
            found, value = _find(composed, path)
            result = _lay(result, _nest(path, value)) if found else result
    return result


def _find(data: Any, path: Sequence[str]) -> tuple[bool, Any]:
    for name in path:
        if not isinstance(data, Mapping) or name not in data:
            return False, None
        data = data[name]
    return True, data


def _nest(path: Sequence[str], value: Any) -> dict[str, Any]:
    return {path[0]: _nest(path[1:], value) if len(path) > 1 else value}


def _chosen_groups(overrides: Sequence[str], config_dir: str | None) -> dict[str, Any]:
    """What the groups chosen on the command line state themselves, where a recipe would hide it."""
    choices = dict(o.partition("=")[::2] for o in overrides if o.partition("=")[0] in GROUPS)
    recipe = choices.pop("recipe", None)
    stated: dict[str, Any] = {}
    for group, option in choices.items() if recipe else ():
        stated = _lay(stated, {group: _stated(group, option, config_dir)})
    return stated


def _stated(group: str, option: str, config_dir: str | None) -> dict[str, Any]:
    from omegaconf import OmegaConf

    for root in (CONF, *([Path(config_dir)] if config_dir else [])):
        path = root / group / f"{option}.yaml"
        if path.is_file():
            data: Any = OmegaConf.to_container(OmegaConf.load(path))
            return {key: value for key, value in (data or {}).items() if key != "defaults" and value is not None}
    return {}


def _spec(data: dict[str, Any], stage: str | None) -> Spec:
    data["model"] = _architecture(data.get("model"))
    if data.get("name") is None:
        data["name"] = data["model"].get("name", "run") if isinstance(data["model"], Mapping) else "run"
    return decode(Spec, {**data, "stage": stage})


def _architecture(model: Any) -> Any:
    """``model.path`` names a folder with a Hugging Face config.json; keys that are set win over it."""
    if not isinstance(model, Mapping) or "path" not in model:
        return model
    from meshwright.huggingface import read

    stated = {key: value for key, value in model.items() if key != "path" and value is not None}
    path = model["path"]
    if not isinstance(path, str) or path == "???":
        raise ConfigError([Problem("model.path", "not set; give a folder with a Hugging Face config.json")])
    return _lay(read(Path(path)), stated)
