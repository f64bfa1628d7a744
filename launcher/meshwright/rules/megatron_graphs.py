"""CUDA graphs: what Megatron captures, and what may not be inside. Places: megatron-core 0.19.2, in ``megatron/``."""

from __future__ import annotations

from meshwright.errors import Repair
from meshwright.model.kinds import kinds
from meshwright.model.megatron_classes import is_hybrid
from meshwright.rules._megatron_graph import NO_GRAPHS, captures, graph_rule, graphs, holding, named, without
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import Layout, Number, Rule, implies
from meshwright.rules.megatron_experts import static_experts

__all__ = ["CAPTURED", "RULES"]

CAPTURED = ("attn", "mlp", "moe", "moe_router", "moe_preprocess", "mamba")
"""What a graph of a layer can hold: core/transformer/enums.py CudaGraphModule."""

_BY_LAYER = ("local", "transformer_engine")


def _recomputes(r: Layout, module: str) -> Number:
    return (r.recompute == 1) & (module in (r.spec.parallelism.recompute_modules or ("core_attn",)))


def _parts_of_moe(r: Layout) -> tuple[Repair, ...]:
    others = (module for module in graphs(r).modules if module != "moe")
    return (holding(*dict.fromkeys((*others, "moe_router", "moe_preprocess"))),)


def _has_dense(r: Layout) -> bool:
    """Of a HybridModel with experts Megatron knows none, whatever the pattern says: its moe_layer_freq stays 1."""
    hidden = r.model.moe is not None and is_hybrid(r.model, r.backend.megatron)
    return not hidden and any(kind.ffn == "mlp" for kind in kinds(r.model))


def _full_recompute(r: Layout) -> Number:
    return implies(r.recompute == 2, graphs(r).kind == "full_iteration")


def _no_dropout_again(r: Layout) -> Number:
    attention = implies(_recomputes(r, "core_attn") & captures(r, "attn"), r.model.attention_dropout == 0)
    hidden = (_recomputes(r, "mlp") & captures(r, "mlp")) | (_recomputes(r, "moe") & captures(r, "moe"))
    return attention & implies(hidden, r.model.hidden_dropout == 0)


def _static_experts(r: Layout) -> bool:
    """Without static shapes, a dispatch waits for the host to read how many tokens come."""
    whole = graphs(r).kind == "full_iteration" or not graphs(r).modules
    bounded = r.backend.megatron.moe_rank_capacity is not None or static_experts(r)
    return r.model.moe is None or not whole or bounded


def _static_preprocess(r: Layout) -> bool:
    dropped = r.model.moe is not None and r.model.moe.capacity_factor is not None and not static_experts(r)
    return not (dropped and "moe_preprocess" in named(r) and r.backend.megatron.moe_dispatcher == "alltoall")


def _weight_gradients(r: Layout) -> Number:
    """Delayed weight gradients inside a graph need addresses that stay, and no biases."""
    options, model = r.backend.megatron, r.model
    shared = model.moe is not None and model.moe.shared_ffn > 0 and not options.moe_shared_expert_overlap
    inside = "attn" in graphs(r).modules or ("moe_router" in graphs(r).modules and shared)
    biases = "attn" in graphs(r).modules and (model.linear_bias or model.qkv_bias)
    asked = options.delay_wgrad and r.spec.parallelism.overlap_grad_reduce and inside
    return not asked or (options.gradient_accumulation_fusion and not biases)


RULES: tuple[Rule, ...] = (
    graph_rule(
        "modules",
        lambda r: set(graphs(r).modules) <= set(CAPTURED) and (not graphs(r).modules or graphs(r).kind in _BY_LAYER),
        f"of {', '.join(CAPTURED)} graphs by layer hold some (kind=local or transformer_engine), "
        "not {backend.megatron.cuda_graphs.modules} with kind={backend.megatron.cuda_graphs.kind}",
        ":2461, :2445; core/transformer/enums.py CudaGraphModule",
        any_of(
            change(backend__megatron__cuda_graphs__kind="transformer_engine"),
            change(backend__megatron__cuda_graphs__modules=()),
        ),
    ),
    graph_rule(
        "router_or_moe",
        lambda r: not {"moe", "moe_router"} <= named(r),
        "moe holds moe_router already, and in local graphs moe_preprocess means both",
        ":2472, :2484",
        without("moe"),
    ),
    graph_rule(
        "preprocess",
        lambda r: implies("moe_preprocess" in named(r), "moe_router" in named(r)),
        "moe_preprocess is captured with moe_router only",
        ":2489",
        any_of(without("moe_preprocess"), lambda r: (holding(*graphs(r).modules, "moe_router"),)),
    ),
    graph_rule(
        "experts",
        lambda r: r.model.moe is not None or not {"moe", "moe_router", "moe_preprocess"} & set(graphs(r).modules),
        "the model has no experts to capture",
        ":2493",
        without("moe", "moe_router", "moe_preprocess"),
    ),
    graph_rule(
        "mamba",
        lambda r: implies("mamba" in graphs(r).modules, any(kind.mixer == "mamba" for kind in kinds(r.model))),
        "the model has no Mamba layers to capture",
        "core/transformer/cuda_graphs.py:2063; ours: nothing would be captured",
        without("mamba"),
    ),
    graph_rule(
        "dense",
        lambda r: implies("mlp" in graphs(r).modules, _has_dense(r)),
        "mlp is the part of dense layers, and every layer has experts, or so it is told where HybridModel builds some",
        ":2501",
        without("mlp"),
    ),
    graph_rule(
        "dropless",
        lambda r: "moe" not in graphs(r).modules or "moe_router" in named(r) or static_experts(r),
        "whole experts are captured where each is padded to a capacity (experts.padded_to_capacity), by alltoall or "
        "HybridEP",
        ":2509",
        any_of(_parts_of_moe, NO_GRAPHS),
    ),
    graph_rule(
        "static_preprocess",
        _static_preprocess,
        "with alltoall and a capacity factor, moe_preprocess waits for the host; local graphs of moe_router hold it",
        ":2472, :2516",
        any_of(without("moe_preprocess"), without("moe_router", "moe_preprocess")),
    ),
    graph_rule(
        "static_experts",
        _static_experts,
        "a graph of whole layers or of an iteration holds experts, whose tokens the host counts at every dispatch; "
        "moe_rank_capacity or experts.padded_to_capacity makes their number static",
        "core/transformer/moe/token_dispatcher.py: tokens_per_expert is copied to the host",
        any_of(
            change(
                backend__megatron__cuda_graphs__kind="transformer_engine",
                backend__megatron__cuda_graphs__modules=("attn", "moe_router", "moe_preprocess"),
            ),
            NO_GRAPHS,
        ),
        "kind",
    ),
    graph_rule(
        "recompute",
        _full_recompute,
        "full recomputation is captured by full_iteration only",
        ":2523",
        any_of(
            NO_GRAPHS,
            change(
                parallelism__recompute="none", parallelism__recompute_method=None, parallelism__recompute_layers=None
            ),
        ),
        "kind",
    ),
    graph_rule(
        "router_recompute",
        lambda r: implies(
            _recomputes(r, "moe") & (graphs(r).kind == "transformer_engine"), "moe_router" not in graphs(r).modules
        ),
        "recomputing moe covers moe_router, which is in a graph",
        ":2533",
        any_of(without("moe_router", "moe_preprocess"), NO_GRAPHS),
    ),
    graph_rule(
        "dropout",
        _no_dropout_again,
        "what is recomputed inside a graph takes no random numbers: dropout must be 0",
        ":2546, :2554",
        any_of(NO_GRAPHS, change(model__attention_dropout=0.0, model__hidden_dropout=0.0)),
        "kind",
    ),
    graph_rule(
        "overlap",
        lambda r: not (r.spec.parallelism.overlap_ep and graphs(r).kind != "local" and {"moe", "mlp"} & named(r)),
        "overlap_ep takes layers apart: moe and mlp stay out of graphs",
        ":2740",
        any_of(without("moe", "mlp"), change(parallelism__overlap_ep=False)),
    ),
    graph_rule(
        "sharded_overlap",
        lambda r: implies((r.zero >= 2) & r.spec.parallelism.overlap_ep, graphs(r).kind not in _BY_LAYER),
        "overlap_ep takes Megatron-FSDP's layers apart, which graphs of layers would hold (zero = {zero})",
        "core/distributed/fsdp/mcore_fsdp_adapter.py:173",
        any_of(NO_GRAPHS, change(parallelism__overlap_ep=False, backend__megatron__delay_wgrad=False)),
        "kind",
    ),
    graph_rule(
        "weight_gradients",
        _weight_gradients,
        "delay_wgrad inside a graph needs gradient_accumulation_fusion=true, and attention without biases",
        "training/arguments.py:1829-1848",
        any_of(
            change(backend__megatron__gradient_accumulation_fusion=True),
            change(backend__megatron__delay_wgrad=False),
            without("attn", "moe_router", "moe_preprocess"),
        ),
    ),
)
