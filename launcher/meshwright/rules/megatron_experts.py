"""Experts' dispatch and kernels. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from meshwright.rules import megatron_capacity
from meshwright.rules._megatron_option import by_flex, experts_of, flex_backend, off, option_rule, options_of
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import Layout, Number, Rule
from meshwright.spec.techniques import ExpertOptions
from meshwright.spec.training import FP8_RECIPES

__all__ = ["RULES", "experts_load", "static_experts"]

_PLAIN = ExpertOptions()


def _shared_beside(r: Layout) -> Number:
    moe, options = r.model.moe, options_of(r)
    if not options.moe_shared_expert_overlap or moe is None:
        return True
    again = (r.recompute == 1) & ("shared_experts" in (r.spec.parallelism.recompute_modules or ()))
    possible = moe.shared_ffn > 0 and options.moe_dispatcher != "allgather" and not r.spec.parallelism.overlap_ep
    return possible & (again == 0)


def _static(r: Layout) -> bool:
    options = options_of(r)
    return (
        options.moe_rank_capacity is None
        or r.model.moe is None
        or (options.op_fuser and flex_backend(r) in ("hybridep", "ncclep"))
    )


def _few_bits(r: Layout) -> bool:
    return r.training.precision in ("nvfp4", *FP8_RECIPES)


def static_experts(r: Layout) -> bool:
    """Whether the host knows how many tokens each expert takes: a dispatch reads no counts back.

    An all-gather counts what comes all the same (core/transformer/moe/token_dispatcher.py:317).
    """
    return experts_of(r).padded_to_capacity and options_of(r).moe_dispatcher != "allgather"


def experts_load(r: Layout) -> Number:
    """Of an even share of a rank's tokens, what an expert takes: its whole capacity where it is padded to it.

    Else what an even router sends, as far as the capacity lets it. A capacity is a whole number of tokens
    (core/transformer/moe/moe_utils.py:256).
    """
    moe = r.model.moe
    if moe is None or not moe.capacity_factor or r.backend.name != "megatron":
        return 1
    sent = r.micro_batch * r.training.sequence / r.cp / (1 + (r.sp != 0) * (r.tp - 1)) * moe.topk
    taken = -(-sent / moe.experts * moe.capacity_factor // 1) * moe.experts / sent
    return taken if experts_of(r).padded_to_capacity else taken - (taken > 1) * (taken - 1)


RULES: tuple[Rule, ...] = (
    option_rule(
        "flex_backend",
        "moe_flex_backend",
        lambda r: r.model.moe is None or by_flex(r) or options_of(r).moe_flex_backend == "deepep",
        "moe_dispatcher=flex alone calls {backend.megatron.moe_flex_backend}, not {backend.megatron.moe_dispatcher}",
        ":1609; for hybridep ours: it would be lost",
        any_of(off("moe_dispatcher", "flex"), off("moe_flex_backend", "deepep")),
    ),
    option_rule(
        "flex_sms",
        "moe_flex_sms",
        lambda r: r.model.moe is None or by_flex(r) or options_of(r).moe_flex_sms is None,
        "only moe_dispatcher=flex takes a number of multiprocessors",
        "ours: it would be lost",
        any_of(off("moe_flex_sms", None), off("moe_dispatcher", "flex")),
    ),
    option_rule(
        "ncclep",
        "moe_flex_backend",
        lambda r: flex_backend(r) != "ncclep" or options_of(r).moe_rank_capacity is not None,
        "NCCL EP sizes its buffers by moe_rank_capacity, which is not set",
        "core/transformer/moe/token_dispatcher.py:1564",
        any_of(off("moe_flex_backend", "hybridep"), off("moe_flex_backend", "deepep")),
    ),
    option_rule(
        "router_fusion",
        "moe_router_fusion",
        lambda r: (
            r.model.moe is None
            or not options_of(r).moe_router_fusion
            or options_of(r).transformer == "transformer_engine"
        ),
        "the fused router is Transformer Engine's",
        "core/transformer/moe/moe_utils.py:780",
        any_of(off("moe_router_fusion"), off("transformer", "transformer_engine")),
    ),
    option_rule(
        "shared_overlap",
        "moe_shared_expert_overlap",
        _shared_beside,
        "shared experts run beside the dispatch where there are any, with alltoall or flex, without overlap_ep, and "
        "not recomputed",
        ":1644, :1812, :2706",
        any_of(off("moe_shared_expert_overlap"), change(parallelism__overlap_ep=False)),
    ),
    option_rule(
        "latent_overlap",
        "moe_shared_expert_overlap",
        lambda r: r.model.moe is None or r.model.moe.latent is None or not options_of(r).moe_shared_expert_overlap,
        "shared experts do not run beside the dispatch of experts with model.moe.latent",
        "core/transformer/moe/moe_layer.py:469",
        off("moe_shared_expert_overlap"),
    ),
    option_rule(
        "rank_capacity",
        "moe_rank_capacity",
        _static,
        "static shapes need moe_dispatcher=flex with hybridep or ncclep, and op_fuser=true",
        ":1692",
        any_of(
            off("moe_rank_capacity", None),
            change(
                backend__megatron__moe_dispatcher="flex",
                backend__megatron__moe_flex_backend="hybridep",
                backend__megatron__op_fuser=True,
            ),
        ),
    ),
    option_rule(
        "paged_stash",
        "moe_paged_stash",
        lambda r: (
            r.model.moe is None or not options_of(r).moe_paged_stash or options_of(r).moe_rank_capacity is not None
        ),
        "pages are sized by moe_rank_capacity, which is not set",
        ":1907",
        any_of(
            off("moe_paged_stash"),
            change(
                backend__megatron__moe_paged_stash=False,
                backend__megatron__experts__stash_gpu=_PLAIN.stash_gpu,
                backend__megatron__experts__stash_host=_PLAIN.stash_host,
            ),
        ),
    ),
    option_rule(
        "padded",
        "experts.padded",
        lambda r: not experts_of(r).padded or (_few_bits(r) and options_of(r).moe_dispatcher != "allgather"),
        "tokens are padded for products in 8 or 4 bits, not {training.precision}, by alltoall or flex",
        ":2316",
        any_of(off("experts.padded"), off("moe_dispatcher", "alltoall")),
    ),
    *megatron_capacity.RULES,
    option_rule(
        "priority_stream",
        "experts.priority_stream",
        lambda r: not experts_of(r).priority_stream or r.spec.parallelism.overlap_ep,
        "the stream is that of an all-to-all hidden by overlap_ep, which is off",
        "core/pipeline_parallel/combined_1f1b.py:67; ours: it would be lost",
        any_of(off("experts.priority_stream"), change(parallelism__overlap_ep=True)),
    ),
    option_rule(
        "in_dispatch",
        "experts.permute_in_dispatch",
        lambda r: (
            flex_backend(r) == "hybridep"
            or (not experts_of(r).permute_in_dispatch and experts_of(r).preprocessing_sms == 108)
        ),
        "HybridEP alone sorts in the dispatch and counts tokens on preprocessing_sms: moe_dispatcher=flex, "
        "moe_flex_backend=hybridep",
        "core/transformer/moe/token_dispatcher.py:1154; ours: it would be lost",
        any_of(
            change(
                backend__megatron__experts__permute_in_dispatch=False, backend__megatron__experts__preprocessing_sms=108
            ),
            change(backend__megatron__moe_dispatcher="flex", backend__megatron__moe_flex_backend="hybridep"),
        ),
    ),
    option_rule(
        "stash_size",
        "experts.stash_gpu",
        lambda r: options_of(r).moe_paged_stash or (experts_of(r).stash_gpu, experts_of(r).stash_host) == (1.1, 0.0),
        "stash_gpu and stash_host size the pages of moe_paged_stash, which is off",
        "core/transformer/moe/paged_stash.py:910; ours: it would be lost",
        change(backend__megatron__experts__stash_gpu=1.1, backend__megatron__experts__stash_host=0.0),
    ),
    option_rule(
        "op_fuser",
        "op_fuser",
        lambda r: not options_of(r).op_fuser or options_of(r).transformer == "transformer_engine",
        "operations are Transformer Engine's",
        "core/extensions/transformer_engine.py",
        any_of(off("op_fuser"), off("transformer", "transformer_engine")),
    ),
)
