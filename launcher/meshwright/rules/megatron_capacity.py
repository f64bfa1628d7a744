"""How many tokens an expert takes at most, and its padding to them. Places: megatron-core 0.19.2, in ``megatron/``."""

from __future__ import annotations

from meshwright.rules._megatron_option import experts_of, flex_backend, off, option_rule, options_of
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import MEGATRON, Layout, Rule

__all__ = ["RULES"]


def _capacity(r: Layout) -> float:
    """Of an even share, what an expert takes at most; 0 without a bound."""
    return (r.model.moe.capacity_factor or 0.0) if r.model.moe is not None else 0.0


_ALLTOALL = change(
    backend__megatron__moe_dispatcher="alltoall",
    backend__megatron__moe_flex_backend="deepep",
    backend__megatron__moe_flex_sms=None,
)

RULES: tuple[Rule, ...] = (
    Rule(
        id="megatron.capacity_balancing",
        path="model.moe.capacity_factor",
        backends=MEGATRON,
        holds=lambda r: not _capacity(r) or r.model.moe.balancing != "sinkhorn",  # type: ignore[union-attr]
        message="a capacity goes with aux_loss, seq_aux_loss, global_aux_loss or none, not {model.moe.balancing}",
        source="core/transformer/transformer_config.py:1681",
        repairs=any_of(change(model__moe__capacity_factor=None), change(model__moe__balancing="aux_loss")),
    ),
    option_rule(
        "ncclep_capacity",
        "moe_flex_backend",
        lambda r: not _capacity(r) or flex_backend(r) != "ncclep",
        "NCCL EP sends a token to topk experts whatever model.moe.capacity_factor={model.moe.capacity_factor} drops or "
        "pads: where a choice was dropped, to one of no weight",
        "core/transformer/moe/token_dispatcher.py:1590, where DeepEP leaves such choices out (:1293); Megatron does "
        "not refuse it",
        any_of(off("moe_flex_backend", "hybridep"), _ALLTOALL, change(model__moe__capacity_factor=None)),
    ),
    option_rule(
        "padded_to_capacity",
        "experts.padded_to_capacity",
        lambda r: not experts_of(r).padded_to_capacity or _capacity(r) > 0,
        "experts are padded to a capacity, and model.moe.capacity_factor, which says it, is not set",
        ":1686",
        any_of(off("experts.padded_to_capacity"), change(model__moe__capacity_factor=1.0)),
    ),
    option_rule(
        "padding_dispatcher",
        "experts.padded_to_capacity",
        lambda r: not experts_of(r).padded_to_capacity or flex_backend(r) != "deepep",
        "experts are padded by alltoall, allgather, or flex with hybridep, not deepep",
        ":1601",
        any_of(off("experts.padded_to_capacity"), off("moe_flex_backend", "hybridep"), _ALLTOALL),
    ),
    option_rule(
        "padded_once",
        "experts.padded_to_capacity",
        lambda r: (
            not experts_of(r).padded_to_capacity
            or (not experts_of(r).padded and (options_of(r).moe_rank_capacity is None or flex_backend(r) == "ncclep"))
        ),
        "experts that are padded to a capacity are not padded for few bits besides, nor is a rank's part bounded again",
        "core/transformer/moe/token_dispatcher.py:511, :1117; ours: sizes would disagree, or one would be lost",
        any_of(
            off("experts.padded_to_capacity"),
            change(backend__megatron__experts__padded=False, backend__megatron__moe_rank_capacity=None),
        ),
    ),
)
