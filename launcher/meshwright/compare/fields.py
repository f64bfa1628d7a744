"""Fields of two Specs that differ in effect. What no file, no node and no prediction reads is equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from meshwright.compare.emitted import TWICE
from meshwright.emit.backends import FILES
from meshwright.emit.slurm import script as job
from meshwright.emit.torchrun import script
from meshwright.errors import ConfigError
from meshwright.resolver import holds, override, resolve
from meshwright.spec import Spec
from meshwright.spec.effect import Effect, effect_of, effect_of_flags, unequal
from meshwright.spec.frozen import dataclass
from meshwright.spec.identity import plain

__all__ = ["Difference", "differences", "written"]

READ_ELSEWHERE = (
    "cluster",  # by predictions and rules
    "launch.dry_run",  # by the verb launch, as the next three
    "launch.force",
    "launch.test_only",
    "launch.slurm.throttle",
    "training.data.epochs",
    "training.logging.checkpoints",  # by our program, from config.yaml
)
"""Fields with an effect that no emitted file shows."""


@dataclass(frozen=True)
class Difference:
    """A field that differs: its path, both values as YAML knows them, and what it changes."""

    path: str
    a: Any
    b: Any
    effect: Effect


def differences(a: Spec, b: Spec) -> tuple[Difference, ...]:
    """Of two Specs in canonical form that resolve, what was learned first."""
    texts = written(a), written(b)
    found = [
        _difference(path, *values)
        for path, *values in unequal(a, b)
        if path.startswith(READ_ELSEWHERE)
        or effect_of(path) == "described"
        or _acts(a, path, values[1], texts[0])
        or _acts(b, path, values[0], texts[1])
    ]
    order: tuple[Effect, ...] = ("learned", "runs", "described")
    return tuple(sorted(found, key=lambda one: order.index(one.effect)))


def written(spec: Spec) -> str | None:
    """Everything that is written for the backend and the launcher that ``spec`` chooses; None where it is refused."""
    try:
        plan = resolve(spec) if holds(spec, spec.backend.name) else None
    except (ConfigError, ArithmeticError, LookupError):  # a value of one run in the midst of another's
        return None
    if plan is None:
        return None
    texts = [text for name, text in FILES[spec.backend.name](plan).items() if name not in TWICE]
    jobs = [job(plan)] if spec.launch.kind == "slurm" else []
    return "".join([*texts, script(plan), repr(spec.after), *jobs])


def _acts(spec: Spec, path: str, value: Any, before: str | None) -> bool:
    """Whether ``value`` at ``path`` changes what is written for ``spec``."""
    return written(override(spec, path, value)) != before


def _difference(path: str, a: Any, b: Any) -> Difference:
    """Of two mappings, the keys that differ are shown."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = [key for key in {**a, **b} if (key in a, a.get(key)) != (key in b, b.get(key))]
        a, b = ({key: of[key] for key in keys if key in of} for of in (a, b))
    if path == "backend.megatron.extra":
        return Difference(path, _shown(a), _shown(b), effect_of_flags({*a} ^ {*b}))
    return Difference(path, _shown(a), _shown(b), effect_of(path))


def _shown(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {key: _shown(item) for key, item in value.items()}
    return [_shown(item) for item in value] if isinstance(value, tuple | list) else value
