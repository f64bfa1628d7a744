"""The form of a rule about CUDA graphs, what is inside one, and the repairs that take something out.

Places: megatron-core 0.19.2, below ``megatron/``.
"""

from __future__ import annotations

from collections.abc import Callable

from meshwright.errors import Repair
from meshwright.rules._repairs import Proposals, change
from meshwright.rules._rule import MEGATRON, Layout, Number, Rule
from meshwright.spec.techniques import CudaGraphs

__all__ = ["NO_GRAPHS", "captures", "graph_rule", "graphs", "holding", "named", "without"]

_CONFIG = "core/transformer/transformer_config.py"
NO_GRAPHS = change(backend__megatron__cuda_graphs__kind="none", backend__megatron__cuda_graphs__modules=())


def graphs(r: Layout) -> CudaGraphs:
    """What is said of graphs, the same for every layout."""
    return r.backend.megatron.cuda_graphs


def named(r: Layout) -> set[str]:
    """Modules as Megatron reads them: local graphs tell no router from its preprocessing (:2472)."""
    modules, router = set(graphs(r).modules), {"moe_router", "moe_preprocess"}
    return modules | router if graphs(r).kind == "local" and router & modules else modules


def captures(r: Layout, *modules: str) -> bool:
    """Whether one of ``modules`` is inside a graph: named, or in a whole layer or iteration."""
    return (graphs(r).kind != "none" and not graphs(r).modules) or bool(named(r) & set(modules))


def graph_rule(
    part: str,
    holds: Callable[[Layout], Number],
    message: str,
    line: str,
    repairs: Proposals = NO_GRAPHS,
    path: str = "modules",
) -> Rule:
    """A rule ``megatron.graphs_{part}`` where there are graphs; a source of lines alone is of the model's config."""
    return Rule(
        id=f"megatron.graphs_{part}",
        path=f"backend.megatron.cuda_graphs.{path}",
        backends=MEGATRON,
        holds=lambda r: (graphs(r).kind == "none" and not graphs(r).modules) or holds(r),
        message=message,
        source=line if line[0] != ":" else f"{_CONFIG}{line}",
        repairs=repairs,
    )


def holding(*modules: str) -> Repair:
    """Graphs of ``modules`` and of nothing else."""
    return {"backend.megatron.cuda_graphs.modules": modules}


def without(*dropped: str) -> Proposals:
    """The modules but for ``dropped``; none are left out of graphs altogether where nothing else is in them."""

    def propose(r: Layout) -> tuple[Repair, ...]:
        left = tuple(module for module in graphs(r).modules if module not in dropped)
        return (holding(*left),) if left else tuple(NO_GRAPHS(r))

    return propose
