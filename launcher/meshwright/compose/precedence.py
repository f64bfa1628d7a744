"""Which value wins: group defaults < recipe < variant < stage < command line.

Hydra lets a recipe win over a group chosen on the command line and knows nothing of variants and stages, so what the
command line says is laid on again, last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from meshwright.compose.words import GROUPS, folders
from meshwright.errors import ConfigError, Problem

__all__ = ["LIBRARY", "SPEC", "laid", "merged", "new_names", "of_recipe", "selected", "staged", "varied"]

SPEC = ("name", "model", "cluster", "parallelism", "training", "backend", "launch", "software")
LIBRARY = ("about", "provenance", "stages", "variants")  # what a recipe says about itself


def laid(composed: Mapping[str, Any], overrides: Sequence[str], config_dir: str | Path | None) -> dict[str, Any]:
    """What describes a stage, with the groups of the command line above the recipe."""
    described = {key: composed[key] for key in SPEC if key in composed}
    return merged(described, _chosen_groups(overrides, config_dir))


def staged(
    base: Mapping[str, Any], stage: Any, composed: Mapping[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:
    """What a stage changes on top of ``base``, and the values of the command line on top of that."""
    return _commanded(merged(base, _changes(stage)), composed, overrides)


def varied(base: Mapping[str, Any], variants: Any, wanted: str | None) -> tuple[str | None, dict[str, Any]]:
    """The variant to handle, the first one where none is wanted, and ``base`` with what it changes.

    Raises:
        ConfigError: where variants are no mappings, or there is none of the name.

    """
    chosen = _named("variant", variants, wanted)
    if wanted is None and not chosen:
        return None, dict(base)
    name = next(iter(chosen))
    return name, merged(base, _changes(chosen[name]))


def selected(stages: Any, wanted: str | None) -> dict[str | None, Mapping[str, Any]]:
    """The stages to handle by name; a run without stages is one nameless stage.

    Raises:
        ConfigError: where stages are no mappings, or there is none of the name.

    """
    named = _named("stage", stages, wanted)
    return dict(named) or {None: {}}


def _named(kind: str, choices: Any, wanted: str | None) -> Mapping[Any, Mapping[str, Any]]:
    """The choices by name; of one that is wanted, it alone."""
    wrong = (
        [_no_mapping(kind, f"{kind}s", choices)] if not isinstance(choices, Mapping) else _no_mappings(kind, choices)
    )
    if wrong:
        raise ConfigError(wrong)
    if wanted is None:
        return dict(choices)
    if wanted not in choices:
        raise ConfigError([_no_choice(kind, kind, wanted, choices)])
    return {wanted: choices[wanted]}


def _no_mappings(kind: str, choices: Mapping[str, Any]) -> list[Problem]:
    return [_no_mapping(kind, f"{kind}s.{name}", of) for name, of in choices.items() if not isinstance(of, Mapping)]


def _no_mapping(kind: str, path: str, value: object) -> Problem:
    got = "null" if value is None else repr(value)
    return Problem(path, f"expected a mapping, got {got}; a {kind} is the keys it changes, {{}} for none")


def of_recipe(overrides: Sequence[str]) -> list[str]:
    """The overrides that change a recipe's variants or stages."""
    return [word for word in overrides if re.match(r"\+*(stages|variants)[.=]", word)]


def new_names(composed: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[Problem]:
    """A problem for each variant or stage that only an override names: nobody wrote what it is."""
    problems = []
    for kind in ("variant", "stage"):
        names, known = (_names(of.get(f"{kind}s")) for of in (composed, recipe))
        problems += [_no_choice(kind, f"{kind}s.{name}", name, known) for name in names if name not in known]
    return problems


def _names(choices: Any) -> tuple[object, ...]:
    return tuple(choices) if isinstance(choices, Mapping) else ()


def _no_choice(kind: str, path: str, name: object, known: Iterable[object]) -> Problem:
    close = get_close_matches(str(name), list(map(str, known)), n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(map(str, known)) or 'none'}"
    return Problem(path, f"no {kind} {name!r}; {hint}", "compose.stage")


def _changes(choice: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage or a variant changes of what is trained."""
    return {key: value for key, value in choice.items() if key not in LIBRARY}


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``under``; mappings merge, everything else replaces."""
    result = dict(under)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else deepcopy(value)
    return result


def _commanded(stage: Mapping[str, Any], composed: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Lay the values of the command line on again: they win over a stage, too."""
    result: dict[str, Any] = dict(stage)
    for override in overrides:
        path = override.partition("=")[0].lstrip("+~").split("@")[0].split(".")
        if path[0] in SPEC and (len(path) > 1 or path[0] == "name"):
            found, value = _find(composed, path)
            result = merged(result, _nest(path, value)) if found else result
    return result


def _find(data: Any, path: Sequence[str]) -> tuple[bool, Any]:
    for name in path:
        if not isinstance(data, Mapping) or name not in data:
            return False, None
        data = data[name]
    return True, data


def _nest(path: Sequence[str], value: Any) -> dict[str, Any]:
    return {path[0]: _nest(path[1:], value) if len(path) > 1 else value}


def _chosen_groups(overrides: Sequence[str], config_dir: str | Path | None) -> dict[str, Any]:
    """What the groups chosen on the command line state themselves, where a recipe would hide it."""
    choices = dict(o.partition("=")[::2] for o in overrides if o.partition("=")[0] in GROUPS)
    recipe = choices.pop("recipe", None)
    stated: dict[str, Any] = {}
    for group, option in choices.items() if recipe else ():
        stated = merged(stated, {group: _stated(group, option, config_dir)})
    return stated


def _stated(group: str, option: str, config_dir: str | Path | None) -> dict[str, Any]:
    from omegaconf import OmegaConf

    for folder in folders(config_dir):
        path = folder / group / f"{option}.yaml"
        if path.is_file():
            data: Any = OmegaConf.to_container(OmegaConf.load(path))
            return {key: value for key, value in (data or {}).items() if key != "defaults" and value is not None}
    return {}
