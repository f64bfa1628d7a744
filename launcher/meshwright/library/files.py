"""The recipes that come along, read straight from their files.

Hydra takes a tenth of a second a recipe; the whole library is laid out here in one second, and a test holds the two
to the same result.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import yaml

from meshwright.compose import Run, run_of
from meshwright.library.published import DISCLOSED, Status
from meshwright.library.recipe import Recipe, provenance_of

__all__ = [
    "composed",
    "disclosure",
    "names",
    "option",
    "options",
    "recipe",
    "run",
    "runs",
    "sketch",
    "statuses",
    "unstated",
]

Disclosure = Literal["full", "partial", "sketch"]

PLACES_RANKS = ("parallelism.tp", "parallelism.pp", "parallelism.cp", "parallelism.ep", "parallelism.etp")
COUNTS = ("cluster.gpus", "training.global_batch")


def names() -> tuple[str, ...]:
    """The recipes' names in order."""
    return options("recipe")


def options(group: str) -> tuple[str, ...]:
    """The names of a group's options in order."""
    names = (path.name for path in _conf().joinpath(group).iterdir())
    return tuple(sorted(n.removesuffix(".yaml") for n in names if n.endswith(".yaml") and not n.startswith("_")))


def recipe(name: str, config_dir: str | None = None) -> Recipe:
    """What the recipe says about itself; one that does not come along is looked for in ``config_dir``.

    Raises:
        ConfigError: a value without a source, or a source that is not named.

    """
    if config_dir is None or name in names():
        return _own(name)
    return Recipe.read(name, _parsed((Path(config_dir) / "recipe" / f"{name}.yaml").read_text("utf-8")))


@cache
def _own(name: str) -> Recipe:
    return Recipe.read(name, _file("recipe", name))


@cache
def run(name: str, variant: str | None = None) -> Run:
    """The recipe's run, as ``load(["recipe=NAME", "variant=VARIANT"])`` gives it."""
    if variant is None:
        return run_of(composed(name), [f"recipe={name}"])
    return run_of({**composed(name), "variant": variant}, [f"recipe={name}", f"variant={variant}"])


def runs(name: str) -> tuple[Run, ...]:
    """The run of every variant of the recipe; of one without variants its only run."""
    return tuple(run(name, variant) for variant in recipe(name).variants)


def composed(name: str) -> dict[str, Any]:
    """What Hydra composes for ``recipe=NAME``."""
    primary, stated = _file("", "config"), _file("recipe", name)
    chosen = {group: stem for group, stem in _choices(primary["defaults"]).items() if stem is not None}
    chosen |= {group.rpartition("/")[2]: stem for group, stem in _choices(stated["defaults"]).items()}
    groups = {group: option(group, stem) for group, stem in chosen.items()}
    own = ("defaults", "hydra")
    return _over(_over(_without(primary, own), groups), _without(stated, own))


def statuses(recipe: Recipe) -> dict[Status, int]:
    """How many of a recipe's values, its variants' and stages' included, are published, derived, inferred and ours."""
    counts: dict[Status, int] = {"published": 0, "derived": 0, "inferred": 0, "ours": 0}
    for record in recipe.records:
        for path in record.values:
            entry = provenance_of(path, record.provenance)
            assert entry is not None, path  # Recipe.read refuses values without provenance
            counts[entry.status] += 1
    return counts


def unstated(recipe: Recipe, run: Run) -> dict[str, object]:
    """What shapes the training and no record of the recipe states: the values of conf/training, which are ours."""
    training = run.stages[0].training
    kept = {f"training.optimizer.{name}": getattr(training.optimizer, name) for name in _OPTIMIZER}
    kept |= {f"training.schedule.{name}": getattr(training.schedule, name) for name in _SCHEDULE}
    return {p: v for p, v in kept.items() if not any(provenance_of(p, r.provenance) for r in recipe.records)}


_OPTIMIZER = ("name", "lr", "beta1", "beta2", "eps", "weight_decay", "clip")
_SCHEDULE = ("style", "warmup_steps", "min_lr")


def disclosure(recipe: Recipe) -> Disclosure:
    """How much of a run its authors disclose.

    full: whatever places ranks, the GPUs and the global batch are published or follow from what is. sketch: not even
    the model is.
    """
    records = [record for record in recipe.records if record.stage is None]
    wanted = ("model", *PLACES_RANKS, *COUNTS)
    stated = [(path, provenance_of(path, record.provenance)) for record in records for path in wanted]
    entries = [(path, entry.status in DISCLOSED) for path, entry in stated if entry is not None]
    known = {path: all(fine for other, fine in entries if other == path) for path, _ in entries}
    if not known["model"]:
        return "sketch"
    return "full" if all(known.values()) else "partial"


def sketch(name: str) -> str | None:
    """The title of a recipe that is no more than a sketch, None for every other name."""
    if name not in names() or disclosure(recipe(name)) != "sketch":
        return None
    return recipe(name).about.title


def _conf() -> Traversable:
    return files("meshwright").joinpath("conf")


@cache
def _file(group: str, option: str) -> dict[str, Any]:
    """The plain content of one file. Callers share it and leave it as it is."""
    folder = _conf().joinpath(group) if group else _conf()
    return _parsed(folder.joinpath(f"{option}.yaml").read_text("utf-8"))


def _parsed(text: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return data


def option(group: str, name: str) -> dict[str, Any]:
    """What conf/GROUP/NAME.yaml says, on top of the files it builds on."""
    stated = _file(group, name)
    below: dict[str, Any] = {}
    for base in stated.get("defaults", ()):
        below = below if base == "_self_" else _over(below, option(group, base))
    return _over(below, _without(stated, ("defaults",)))


def _choices(defaults: list[Any]) -> dict[str, Any]:
    return {
        str(group).removeprefix("override ").strip(): option
        for choice in defaults
        if isinstance(choice, Mapping)
        for group, option in choice.items()
    }


def _without(data: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in keys}


def _over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``under``, as OmegaConf merges: mappings merge, everything else replaces."""
    result = dict(under)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _over(result[key], value) if both else value
    return result
