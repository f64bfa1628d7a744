"""What a sequence, its heads and the levels of context parallelism divide. Places: megatron-core 0.19.2."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from meshwright.errors import Repair
from meshwright.rules._repairs import any_of, change, nearest
from meshwright.rules._rule import EVERY, MEGATRON, Layout, Number, Rule, implies

__all__ = ["RULES"]

_CP = nearest("parallelism.cp", lambda r: r.cp, high=64)
_TP = nearest("parallelism.tp", lambda r: r.tp, high=64)


def _levels(r: Layout) -> Number:
    p = r.spec.parallelism
    if p.cp_comm != "a2a+p2p":
        return not p.cp_levels
    return (len(p.cp_levels) == 2) & (min(p.cp_levels, default=0) > 0) & (prod(p.cp_levels) == r.cp)


def _other_levels(r: Layout) -> Iterable[Repair]:
    """Another way without levels; heads within a node, where a node holds part of the group."""
    inside = max(1, r.cluster.gpus_per_node // r.tp)
    if r.spec.parallelism.cp_comm == "a2a+p2p" and r.cp % inside == 0:
        yield {"parallelism.cp_levels": (inside, r.cp // inside)}
    plain = {} if r.spec.parallelism.cp_comm != "a2a+p2p" else {"parallelism.cp_comm": "p2p"}
    yield {**plain, "parallelism.cp_levels": ()}


def _dealt(r: Layout) -> Number:
    """Heads are dealt over the whole group, or over the inner level of two."""
    p = r.spec.parallelism
    if p.cp_comm not in ("a2a", "a2a+p2p"):
        return True
    ways = p.cp_levels[0] if p.cp_comm == "a2a+p2p" and p.cp_levels else r.cp
    divides = ((r.model.heads // r.tp) % ways == 0) & ((r.model.kv_heads // r.tp) % ways == 0)
    return implies(r.cp > 1, divides)


_HYBRID = "--hybrid-context-parallel"


def _not_hybrid(r: Layout) -> Iterable[Repair]:
    """Without the flag and what it alone reads."""
    words = r.backend.megatron.extra
    asks = [i for i, word in enumerate(words) if word.split("=")[0] == "--max-seqlen-per-dp-cp-rank"]
    values = [i + 1 for i in asks if "=" not in words[i]]
    kept = tuple(word for i, word in enumerate(words) if word != _HYBRID and i not in (*asks, *values))
    return ({"backend.megatron.extra": kept},)


RULES: tuple[Rule, ...] = (
    Rule(
        id="context.sequence",
        path="training.sequence",
        backends=MEGATRON,
        holds=lambda r: implies(r.cp > 1, r.training.sequence % (2 * r.cp) == 0),
        message="{training.sequence} tokens do not cut into 2·cp = 2·{cp} balanced chunks",
        source="training/arguments.py:1296",
        repairs=any_of(lambda r: ({"training.sequence": -(-r.training.sequence // (2 * r.cp)) * 2 * r.cp},), _CP),
    ),
    Rule(
        id="context.positions",
        path="training.sequence",
        backends=EVERY,
        holds=lambda r: (r.model.positions in ("alibi", "none")) | (r.training.sequence <= r.model.max_positions),
        message="{training.sequence} tokens exceed the {model.max_positions} positions of {model.name}",
        source="training/arguments.py:1314",
        repairs=any_of(
            lambda r: ({"model.max_positions": r.training.sequence},),
            lambda r: ({"training.sequence": r.model.max_positions},),
        ),
    ),
    Rule(
        id="context.levels",
        path="parallelism.cp_levels",
        backends=MEGATRON,
        holds=_levels,
        message="cp_comm=a2a+p2p exchanges heads among some ranks and keys round rings of such groups, which cp_levels "
        "says: two numbers whose product is cp = {cp}, not {spec.parallelism.cp_levels}; other ways have no levels",
        source="training/arguments.py:562; core/parallel_state.py:1128; without a2a+p2p ours: they would be lost",
        repairs=_other_levels,
    ),
    Rule(
        id="context.hybrid",
        path="backend.megatron.extra",
        backends=MEGATRON,
        holds=lambda r: _HYBRID not in r.backend.megatron.extra,
        message="hybrid context parallelism gives each part of a packed sample ranks by its length, which balances "
        "samples of many lengths; a run here reads samples of {training.sequence} tokens without parts, where it stops "
        "at sample['cu_seqlens'], and were there parts as long as these, all would take the same ranks, as cp does",
        source="core/datasets/data_schedule.py:280; core/pipeline_parallel/hybrid_cp_schedule.py:45, gpus_needed; "
        "training/arguments.py:1404: one pipeline stage, no graphs, no Megatron-FSDP; "
        "core/transformer/multi_latent_attention.py:686: no latent attention",
        repairs=_not_hybrid,
    ),
    Rule(
        id="context.heads",
        path="parallelism.cp_comm",
        backends=MEGATRON,
        needs=("tensor.heads", "tensor.kv_heads", "context.levels"),
        holds=_dealt,
        message="cp_comm={spec.parallelism.cp_comm} deals the {model.heads} heads and {model.kv_heads} key/value heads "
        "of tp = {tp} over cp = {cp} ranks, or the first of cp_levels = {spec.parallelism.cp_levels}, which does not "
        "divide",
        source="transformer_engine attention/dot_product_attention/context_parallel.py: heads % cp_size == 0",
        repairs=any_of(change(parallelism__cp_comm="p2p", parallelism__cp_levels=()), _CP),
    ),
    Rule(
        id="tensor.sequence",
        path="training.sequence",
        backends=MEGATRON,
        needs=("context.sequence",),
        holds=lambda r: implies(r.sp, (r.training.sequence // r.cp) % r.tp == 0),
        message="sequence/cp = {training.sequence}/{cp} does not divide by tp = {tp}, which sequence parallelism needs",
        source="core/tensor_parallel/mappings.py:72, at the first step",
        repairs=any_of(_TP, nearest("parallelism.cp", lambda r: r.cp, high=64), change(parallelism__sp=False)),
    ),
)
