"""The form of a rule, and the numbers it is judged on.

``holds`` is arithmetic that gives the same answer for integers and for NumPy arrays of layouts: ``%``, ``//``,
comparisons, ``&`` and ``|``; never ``and``, ``or``, ``not`` or ``if`` on a value of the layout. ``resolve`` judges
one layout with it, ``search`` masks a million.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from string import Formatter
from typing import Any

from meshwright.errors import Problem, Repair, literal
from meshwright.layout.grid import Grid
from meshwright.spec import Backend, Cluster, Model, Spec, Training
from meshwright.spec.frozen import dataclass

__all__ = [
    "DEEPSPEED",
    "EVERY",
    "EXPORTED",
    "MEGATRON",
    "PIPELINED",
    "TORCHTITAN",
    "TRANSFORMERS",
    "Layout",
    "Number",
    "Rule",
    "Thumb",
    "implies",
    "megatron_rule",
]

MEGATRON, DEEPSPEED = ("megatron",), ("deepspeed",)
EVERY = MEGATRON + DEEPSPEED

EXPORTED: dict[str, tuple[str, ...]] = {
    "accelerate_deepspeed": DEEPSPEED,
    "accelerate_fsdp": EVERY,
    "bridge": MEGATRON,
    "torchtitan": EVERY,
}
"""Programs that files are exported for, and the backends whose common rules they share; their own name them."""

TORCHTITAN = ("torchtitan",)
PIPELINED = MEGATRON + TORCHTITAN
"""Who cuts a model into stages as the Plan says."""

TRANSFORMERS = (*DEEPSPEED, "accelerate_fsdp")
"""Who trains transformers' own models; ``accelerate_deepspeed`` shares all of DeepSpeed's rules."""

Number = Any  # an int or bool, or a NumPy array of them


def implies(condition: Number, consequence: Number) -> Number:
    """``condition -> consequence``, elementwise."""
    return (condition == 0) | (consequence != 0)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a search varies, as numbers or arrays of numbers, beside the parts of the Spec that stay."""

    tp: Number
    sp: Number
    pp: Number
    vpp: Number
    cp: Number
    ep: Number
    etp: Number
    dp: Number
    zero: Number
    world: Number
    micro_batch: Number
    global_batch: Number
    recompute: Number  # 0 none, 1 selective, 2 full
    first: Number  # decoder layers of the first stage; 0: not set
    last: Number
    embedding: Number  # takes a layer's slot
    loss: Number
    spec: Spec

    @property
    def model(self) -> Model:
        """The model, the same for every layout."""
        return self.spec.model

    @property
    def cluster(self) -> Cluster:
        """The cluster, the same for every layout."""
        return self.spec.cluster

    @property
    def training(self) -> Training:
        """Sequence, precision and the rest; its batch sizes are those of the layout instead."""
        return self.spec.training

    @property
    def backend(self) -> Backend:
        """The backends' options, the same for every layout."""
        return self.spec.backend

    @property
    def gtp(self) -> int:
        """Ranks that share a dense weight and gather it before its product, the same for every layout."""
        return self.spec.parallelism.gtp

    @property
    def egtp(self) -> int:
        """The same of the experts' weights."""
        return self.spec.parallelism.egtp

    @cached_property
    def data(self) -> Number:
        """Ranks that have micro-batches of their own."""
        return self.gtp * self.dp

    @cached_property
    def microbatches(self) -> Number:
        """Micro-batches a step; floored where the batch does not divide (a rule of its own says so)."""
        return self.global_batch // (self.micro_batch * self.data)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One constraint: who enforces it, when it holds, what to say and what to change.

    ``message`` is a format string over the Layout's names (``{pp}``, ``{model.layers}``), or a function of the Layout.
    ``repairs`` proposes overrides, the nearest first; the resolver keeps those that really help.
    ``source`` is where the backend enforces it (file:line of the version in constraints.txt), or the reason.
    """

    id: str
    path: str
    backends: tuple[str, ...]
    holds: Callable[[Layout], Number]
    message: str | Callable[[Layout], str]
    source: str
    needs: tuple[str, ...] = ()
    spares: tuple[str, ...] = ()  # programs that share the rules of ``backends`` but not this one
    repairs: Callable[[Layout], Iterable[Repair]] = lambda _: ()

    def problem(self, layout: Layout, repairs: tuple[Repair, ...] = ()) -> Problem:
        """What to tell the user about a layout that breaks this rule."""
        text = self.message(layout) if callable(self.message) else _Words().vformat(self.message, (), _names(layout))
        return Problem(self.path, text, self.id, repairs)

    def for_backends(self, *names: str) -> Rule:
        """The same rule, enforced by other backends."""
        return replace(self, backends=names)


@dataclass(frozen=True)
class Thumb:
    """A rule that may be broken: ``against`` says with numbers how a plan goes against it, or returns None."""

    id: str
    path: str
    against: Callable[[Spec, Grid], str | None]
    source: str


def megatron_rule(
    part: str,
    path: str,
    holds: Callable[[Layout], Number],
    message: str | Callable[[Layout], str],
    source: str,
    repairs: Callable[[Layout], Iterable[Repair]] = lambda _: (),
    where: Callable[[Model], bool] = lambda _: True,
) -> Rule:
    """A rule of Megatron-core alone; ``part``: its name behind the backend's; silent but ``where`` the model has it."""
    return Rule(
        id=f"megatron.{part}",
        path=path,
        backends=MEGATRON,
        holds=lambda r: not where(r.model) or holds(r),
        message=message,
        source=source,
        repairs=repairs,
    )


class _Words(Formatter):
    """Lists, switches and what is not set, as one types them."""

    def format_field(self, value: Any, format_spec: str) -> str:
        typed = value is None or isinstance(value, bool | tuple)
        return literal(value) if typed and not format_spec else super().format_field(value, format_spec)


def _names(layout: Layout) -> dict[str, Any]:
    parts = ("model", "cluster", "training", "backend", "microbatches", "gtp", "egtp", "data")
    return {**vars(layout), **{name: getattr(layout, name) for name in parts}}
