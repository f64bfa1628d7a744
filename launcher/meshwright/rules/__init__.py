"""Every constraint on a run, as data: ``resolve`` reports them, ``search`` masks with them, documents list them."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from meshwright.rules import context, foreign, generalized, grid, host, length, pipeline, placement, schedule, sharding
from meshwright.rules._rule import DEEPSPEED, EVERY, EXPORTED, MEGATRON, Layout, Rule, implies

__all__ = [
    "DEEPSPEED",
    "EVERY",
    "EXPORTED",
    "MEGATRON",
    "POSITIVE",
    "Layout",
    "Rule",
    "broken",
    "every_rule",
    "implies",
    "rules_of",
]

POSITIVE: tuple[Rule, ...] = grid.POSITIVE
"""Judged first: every other rule divides by these."""

_SHAPE = (
    grid.RULES
    + generalized.RULES
    + length.RULES
    + pipeline.RULES
    + schedule.RULES
    + sharding.RULES
    + context.RULES
    + placement.RULES
)

_MACHINE = host.RULES + foreign.RULES


def _own(*backends: str) -> tuple[Rule, ...]:
    """Their own modules' rules: a plan for one backend does without the other's."""
    return tuple(rule for name in backends for rule in import_module(f"meshwright.rules.{name}").RULES)


@cache
def every_rule() -> tuple[Rule, ...]:
    """In an order in which a rule's ``needs`` stand before it."""
    from meshwright.rules import accelerate, bridge, exported, torchtitan  # which a plan for a backend does without

    return _SHAPE + _own(*EVERY) + _MACHINE + exported.RULES + accelerate.RULES + bridge.RULES + torchtitan.RULES


@cache
def rules_of(backend: str) -> tuple[Rule, ...]:
    """The rules that ``backend`` enforces, or a program that files are exported for."""
    shared = set(EXPORTED.get(backend, (backend,)))
    known = every_rule() if backend in EXPORTED else _SHAPE + _own(backend) + _MACHINE
    meant = (rule for rule in known if backend in rule.backends or shared <= set(rule.backends))
    return tuple(rule for rule in meant if backend not in rule.spares)


def broken(layout: Layout, backend: str) -> list[Rule]:
    """The rules of ``backend`` that one layout breaks. A rule whose needs are broken stays silent: no cascades."""
    wrong = [rule for rule in POSITIVE if not rule.holds(layout)]
    failed = {rule.id for rule in wrong}
    for rule in () if wrong else rules_of(backend):
        silent = not failed.isdisjoint(rule.needs)
        if silent or not rule.holds(layout):
            failed.add(rule.id)
            wrong += [] if silent else [rule]
    return wrong
