"""NVIDIA's performance recipes: the arguments we emit are what their ConfigContainer sets, key by key.

What they set was read by executing their functions (``benchmarks/bridge_containers.py``); ours is what Megatron's own
parser makes of our flags. ``bridge_exceptions.py`` names every difference with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from enum import Enum
from functools import cache
from types import FunctionType
from typing import Any

import pytest

from bridge_containers import CONTAINERS, OFF, environment_of, function_of, said, theirs
from bridge_exceptions import DIFFERENT, ENVIRONMENT, NO_ARGUMENT, RENAMED, WITHOUT_RECIPE
from meshwright.emit.environment import variables
from meshwright.emit.megatron import flags
from meshwright.layout.plan import Plan
from meshwright.library import files as library
from meshwright.resolver import resolve
from meshwright.verify.pool import Crash, fork_map
from samples import VARIANTS, sample

OURS = [(name, variant) for name, variant in VARIANTS if name.startswith("nvidia_")]
STAGES = "PipelineParallelLayerLayout"

Found = list[tuple[str, Any, Any]]


@cache
def planned(name: str, variant: str | None) -> tuple[str, Plan]:
    """The function that a variant is, and its plan."""
    (spec,) = library.run(name, variant).stages
    plan = resolve(spec)
    function = function_of(name, variant or "", plan.grid.world)
    assert function is not None, f"{name} {variant} is no function of theirs"
    return function, plan


def differences(job: tuple[str, Plan]) -> Found:
    """(key, theirs, ours) wherever they differ; ours is Ellipsis where no argument has the name. Run it in a fork."""
    from meshwright.verify.megatron import parse

    function, plan = job
    arguments, config, _ = parse(plan, flags(plan))
    known = {f"model.{field.name}": getattr(config, field.name) for field in fields(config)}
    values = said(theirs(function))
    return [
        (key, value, ours)
        for key, value in values.items()
        if not same(value, ours := of(key, known, arguments), values["model.pipeline_model_parallel_size"])
    ]


def of(key: str, known: dict[str, Any], arguments: Any) -> Any:
    if key in known and key not in RENAMED:
        return known[key]
    return getattr(arguments, RENAMED.get(key, key.partition(".")[2]), ...)


def same(value: Any, ours: Any, stages: int) -> bool:
    """Whether both say the same; a layout of a pipeline in any form."""
    if type(ours).__name__ == STAGES and value:
        return bool(ours.layout == type(ours)(value, stages).layout)
    return plain(ours) == value or (value in OFF and plain(ours) in OFF)


def plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, FunctionType):
        return value.__name__
    kind = type(value).__name__
    if kind == "RecipeConfig":
        return kind
    return value.input_data if kind == STAGES else str(value).removeprefix("torch.") if kind == "dtype" else value


def unexplained(found: Found) -> Iterator[str]:
    for key, value, ours in found:
        if ours is ...:
            explained = key in NO_ARGUMENT
        else:
            explained = any((value, plain(ours)) == pair[:2] for pair in DIFFERENT.get(key, ()))
        if not explained:
            yield f"{key}: theirs {value!r}, ours {'no argument' if ours is ... else repr(plain(ours))}"


def compared(variants: list[tuple[str, str | None]]) -> list[Found]:
    pytest.importorskip("megatron.core")
    from meshwright.verify import megatron

    megatron.warm()
    found = fork_map(differences, [planned(*one) for one in variants])
    assert [one.text for one in found if isinstance(one, Crash)] == []
    return [one for one in found if not isinstance(one, Crash)]


def wrong(variants: list[tuple[str, str | None]], found: list[Found]) -> list[str]:
    pairs = zip(variants, found, strict=True)
    return [f"{name} {variant} {line}" for (name, variant), one in pairs for line in unexplained(one)]


def test_a_sample_of_their_recipes_is_emitted_as_they_set_it() -> None:
    variants = sample(OURS, 12)
    assert wrong(variants, compared(variants)) == []


@pytest.mark.slow  # half a second each
def test_every_recipe_of_theirs_is_emitted_as_they_set_it_and_no_exception_is_left_over() -> None:
    found = compared(OURS)
    assert wrong(OURS, found) == []
    used = {(key, repr(value), repr(plain(ours))) for one in found for key, value, ours in one}
    assert {(key, repr(a), repr(b)) for key, pairs in DIFFERENT.items() for a, b, _ in pairs} <= used
    assert NO_ARGUMENT.keys() <= {key for one in found for key, _, ours in one if ours is ...}


def test_the_environment_is_theirs_but_for_what_has_a_reason() -> None:
    found = set()
    for function, plan in (planned(*one) for one in OURS):
        set_there, here = environment_of(function), {name: one.value for name, one in variables(plan).items()}
        assert set_there
        pairs = ((name, set_there.get(name), here.get(name)) for name in {**set_there, **here})
        found |= {(name, value, ours) for name, value, ours in pairs if value != ours}
    assert found == ENVIRONMENT.keys()


def test_a_value_that_is_not_theirs_is_noticed() -> None:
    (found,) = compared(OURS[:1])
    assert list(unexplained([*found, ("model.moe_router_fusion", True, False)])) == [
        "model.moe_router_fusion: theirs True, ours False"
    ]


def test_no_recipe_of_theirs_passes_flags_through() -> None:
    given = {
        name for name, variant in OURS for spec in library.run(name, variant).stages if spec.backend.megatron.extra
    }
    assert given == set()


def test_each_function_is_one_variant_or_has_a_reason_not_to_be() -> None:
    functions = [planned(name, variant)[0] for name, variant in OURS]
    assert len(set(functions)) == len(functions)
    left = CONTAINERS["functions"].keys() - set(functions)
    reasons = {name: [why for why in WITHOUT_RECIPE if re.fullmatch(f"{why}_config", name)] for name in left}
    assert {name for name, why in reasons.items() if len(why) != 1} == set()
    assert {why for whys in reasons.values() for why in whys} == WITHOUT_RECIPE.keys()
