"""Context parallelism in levels: heads are exchanged where links are fast, and keys go round between nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import small_model, spec
from meshwright.cost import cost
from meshwright.cost.plan_cost import Cost
from meshwright.emit.megatron import flags
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.resolver import refusals, resolve
from meshwright.spec import Spec

MODEL = small_model(hidden=4096, ffn=14336, heads=32, kv_heads=8, head_dim=128, vocab=128_000, max_positions=262_144)


def levels(comm: str, *sizes: int, cp: int = 16) -> Spec:
    """Sixteen ranks of a sequence on two nodes of eight."""
    return spec(MODEL, 32, sequence=131_072, global_batch=4, cp=cp, zero=1, cp_comm=comm, cp_levels=sizes)


def costed(one: Spec) -> Cost:
    return cost(resolve(one))


def test_both_ways_of_starting_say_the_sizes() -> None:
    plan = resolve(levels("a2a+p2p", 8, 2))
    words = flags(plan)
    assert words[words.index("--hierarchical-context-parallel-sizes") + 1 :][:2] == ["8", "2"]
    assert kwargs(plan)["TransformerConfig"]["hierarchical_context_parallel_sizes"] == [8, 2]
    assert kwargs(plan)["initialize_model_parallel"]["hierarchical_context_parallel_sizes"] == [8, 2]


@pytest.mark.parametrize(
    ("comm", "sizes", "rule"),
    [
        ("a2a+p2p", (), "context.levels"),
        ("a2a+p2p", (4, 2), "context.levels"),
        ("a2a+p2p", (2, 2, 4), "context.levels"),
        ("p2p", (8, 2), "context.levels"),
        ("a2a+p2p", (16, 1), "context.heads"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(comm: str, sizes: tuple[int, ...], rule: str) -> None:
    (problem,) = refusals(levels(comm, *sizes), "megatron")
    assert problem.rule == rule
    assert problem.repairs


def test_the_nodes_see_the_ring_alone() -> None:
    sent = costed(levels("a2a+p2p", 8, 2)).traffic
    assert (sent.context.link, sent.context.collective) == ("between nodes", "send")
    assert (sent.context_inner.link, sent.context_inner.collective) == ("within nodes", "all-to-all")
    ring = costed(levels("p2p")).traffic
    assert ring.context_inner.size == 0
    assert sent.context.size == pytest.approx(ring.context.size / 15)  # one round of two nodes, not of sixteen ranks


def test_levels_are_faster_than_a_ring_of_all_over_slow_links() -> None:
    slow = replace(levels("p2p").cluster.inter, bandwidth_gb_s=5.0)

    def seconds(one: Spec) -> float:
        return float(costed(replace(one, cluster=replace(one.cluster, inter=slow))).step.context)

    assert seconds(levels("a2a+p2p", 8, 2)) < seconds(levels("p2p")) / 2


def test_one_level_of_two_is_the_ring_or_the_exchange() -> None:
    assert costed(levels("a2a+p2p", 1, 16)).step == costed(levels("p2p")).step
    exchange, level = (costed(one).step.context for one in (levels("a2a", cp=8), levels("a2a+p2p", 8, 1, cp=8)))
    assert level == pytest.approx(exchange)
