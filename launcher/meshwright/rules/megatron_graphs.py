"""CUDA graphs: what Megatron captures, and what may not be inside. Places: megatron-core 0.19.2, in ``megatron/``."""

from __future__ import annotations

from collections.abc import Callable

from meshwright.errors import Repair
from meshwright.model.kinds import kinds
from meshwright.model.megatron_classes import is_hybrid
from meshwright.rules._repairs import Proposals, any_of, change
from meshwright.rules._rule import MEGATRON, Layout, Number, Rule, implies
from meshwright.rules.megatron_experts import static_experts
from meshwright.spec.techniques import CudaGraphs

__all__ = ["CAPTURED", "RULES"]

CAPTURED = ("attn", "mlp", "moe", "moe_router", "moe_preprocess", "mamba")
"""What a graph of a layer can hold: core/transformer/enums.py CudaGraphModule."""

_CONFIG = "core/transformer/transformer_config.py"
_NONE = change(backend__megatron__cuda_graphs__kind="none", backend__megatron__cuda_graphs__modules=())
_BY_LAYER = ("local", "transformer_engine")


def _graphs(r: Layout) -> CudaGraphs:
    return r.backend.megatron.cuda_graphs


def _named(r: Layout) -> set[str]:
    """Modules as Megatron reads them: local graphs tell no router from its preprocessing (:2472)."""
    modules, router = set(_graphs(r).modules), {"moe_router", "moe_preprocess"}
    return modules | router if _graphs(r).kind == "local" and router & modules else modules


def _captures(r: Layout, *modules: str) -> bool:
    """Whether one of ``modules`` is inside a graph: named, or in a whole layer or iteration."""
    return (_graphs(r).kind != "none" and not _graphs(r).modules) or bool(_named(r) & set(modules))


def _recomputes(r: Layout, module: str) -> Number:
    return (r.recompute == 1) & (module in (r.spec.parallelism.recompute_modules or ("core_attn",)))


def _rule(
    part: str,
    holds: Callable[[Layout], Number],
    message: str,
    line: str,
    repairs: Proposals = _NONE,
    path: str = "modules",
) -> Rule:
    return Rule(
        id=f"megatron.graphs_{part}",
        path=f"backend.megatron.cuda_graphs.{path}",
        backends=MEGATRON,
        holds=lambda r: (_graphs(r).kind == "none" and not _graphs(r).modules) or holds(r),
        message=message,
        source=line if line[0] != ":" else f"{_CONFIG}{line}",
        repairs=repairs,
    )


def _modules(*modules: str) -> Repair:
    return {"backend.megatron.cuda_graphs.modules": modules}


def _without(*dropped: str) -> Proposals:
    """The modules but for ``dropped``; none are left out of graphs altogether where nothing else is in them."""

    def propose(r: Layout) -> tuple[Repair, ...]:
        left = tuple(module for module in _graphs(r).modules if module not in dropped)
        return (_modules(*left),) if left else tuple(_NONE(r))

    return propose


def _parts_of_moe(r: Layout) -> tuple[Repair, ...]:
    others = (module for module in _graphs(r).modules if module != "moe")
    return (_modules(*dict.fromkeys((*others, "moe_router", "moe_preprocess"))),)


def _has_dense(r: Layout) -> bool:
    """Of a HybridModel with experts Megatron knows none, whatever the pattern says: its moe_layer_freq stays 1."""
    hidden = r.model.moe is not None and is_hybrid(r.model, r.backend.megatron)
    return not hidden and any(kind.ffn == "mlp" for kind in kinds(r.model))


def _full_recompute(r: Layout) -> Number:
    return implies(r.recompute == 2, _graphs(r).kind == "full_iteration")


def _no_dropout_again(r: Layout) -> Number:
    attention = implies(_recomputes(r, "core_attn") & _captures(r, "attn"), r.model.attention_dropout == 0)
    hidden = (_recomputes(r, "mlp") & _captures(r, "mlp")) | (_recomputes(r, "moe") & _captures(r, "moe"))
    return attention & implies(hidden, r.model.hidden_dropout == 0)


def _static_experts(r: Layout) -> bool:
    """Without static shapes, a dispatch waits for the host to read how many tokens come."""
    whole = _graphs(r).kind == "full_iteration" or not _graphs(r).modules
    bounded = r.backend.megatron.moe_rank_capacity is not None or static_experts(r)
    return r.model.moe is None or not whole or bounded


def _static_preprocess(r: Layout) -> bool:
    dropped = r.model.moe is not None and r.model.moe.capacity_factor is not None and not static_experts(r)
    return not (dropped and "moe_preprocess" in _named(r) and r.backend.megatron.moe_dispatcher == "alltoall")


def _weight_gradients(r: Layout) -> Number:
    """Delayed weight gradients inside a graph need addresses that stay, and no biases."""
    options, model = r.backend.megatron, r.model
    shared = model.moe is not None and model.moe.shared_ffn > 0 and not options.moe_shared_expert_overlap
    inside = "attn" in _graphs(r).modules or ("moe_router" in _graphs(r).modules and shared)
    biases = "attn" in _graphs(r).modules and (model.linear_bias or model.qkv_bias)
    asked = options.delay_wgrad and r.spec.parallelism.overlap_grad_reduce and inside
    return not asked or (options.gradient_accumulation_fusion and not biases)


RULES: tuple[Rule, ...] = (
    _rule(
        "modules",
        lambda r: set(_graphs(r).modules) <= set(CAPTURED) and (not _graphs(r).modules or _graphs(r).kind in _BY_LAYER),
        f"of {', '.join(CAPTURED)} graphs by layer hold some (kind=local or transformer_engine), "
        "not {backend.megatron.cuda_graphs.modules} with kind={backend.megatron.cuda_graphs.kind}",
        ":2461, :2445; core/transformer/enums.py CudaGraphModule",
        any_of(
            change(backend__megatron__cuda_graphs__kind="transformer_engine"),
            lambda r: (_modules(*(one for one in _graphs(r).modules if one in CAPTURED)),),
            change(backend__megatron__cuda_graphs__modules=()),
            _NONE,
        ),
    ),
    _rule(
        "router_or_moe",
        lambda r: not {"moe", "moe_router"} <= _named(r),
        "moe holds moe_router already, and in local graphs moe_preprocess means both",
        ":2472, :2484",
        _without("moe"),
    ),
    _rule(
        "preprocess",
        lambda r: implies("moe_preprocess" in _named(r), "moe_router" in _named(r)),
        "moe_preprocess is captured with moe_router only",
        ":2489",
        any_of(_without("moe_preprocess"), lambda r: (_modules(*_graphs(r).modules, "moe_router"),)),
    ),
    _rule(
        "experts",
        lambda r: r.model.moe is not None or not {"moe", "moe_router", "moe_preprocess"} & set(_graphs(r).modules),
        "the model has no experts to capture",
        ":2493",
        _without("moe", "moe_router", "moe_preprocess"),
    ),
    _rule(
        "mamba",
        lambda r: implies("mamba" in _graphs(r).modules, any(kind.mixer == "mamba" for kind in kinds(r.model))),
        "the model has no Mamba layers to capture",
        "core/transformer/cuda_graphs.py:2063; ours: nothing would be captured",
        _without("mamba"),
    ),
    _rule(
        "dense",
        lambda r: implies("mlp" in _graphs(r).modules, _has_dense(r)),
        "mlp is the part of dense layers, and every layer has experts, or so it is told where HybridModel builds some",
        ":2501",
        _without("mlp"),
    ),
    _rule(
        "dropless",
        lambda r: "moe" not in _graphs(r).modules or "moe_router" in _named(r) or static_experts(r),
        "whole experts are captured where each is padded to a capacity (experts.padded_to_capacity), by alltoall or "
        "HybridEP",
        ":2509",
        any_of(_parts_of_moe, _NONE),
    ),
    _rule(
        "static_preprocess",
        _static_preprocess,
        "with alltoall and a capacity factor, moe_preprocess waits for the host; local graphs of moe_router hold it",
        ":2472, :2516",
        any_of(_without("moe_preprocess"), _without("moe_router", "moe_preprocess")),
    ),
    _rule(
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
            _NONE,
        ),
        "kind",
    ),
    _rule(
        "recompute",
        _full_recompute,
        "full recomputation is captured by full_iteration only",
        ":2523",
        any_of(
            _NONE,
            change(
                parallelism__recompute="none", parallelism__recompute_method=None, parallelism__recompute_layers=None
            ),
        ),
        "kind",
    ),
    _rule(
        "router_recompute",
        lambda r: implies(
            _recomputes(r, "moe") & (_graphs(r).kind == "transformer_engine"), "moe_router" not in _graphs(r).modules
        ),
        "recomputing moe covers moe_router, which is in a graph",
        ":2533",
        any_of(_without("moe_router", "moe_preprocess"), _NONE),
    ),
    _rule(
        "dropout",
        _no_dropout_again,
        "what is recomputed inside a graph takes no random numbers: dropout must be 0",
        ":2546, :2554",
        any_of(_NONE, change(model__attention_dropout=0.0, model__hidden_dropout=0.0)),
        "kind",
    ),
    _rule(
        "overlap",
        lambda r: not (r.spec.parallelism.overlap_ep and _graphs(r).kind != "local" and {"moe", "mlp"} & _named(r)),
        "overlap_ep takes layers apart: moe and mlp stay out of graphs",
        ":2740",
        any_of(_without("moe", "mlp"), change(parallelism__overlap_ep=False)),
    ),
    _rule(
        "sharded_overlap",
        lambda r: implies((r.zero >= 2) & r.spec.parallelism.overlap_ep, _graphs(r).kind not in _BY_LAYER),
        "overlap_ep takes Megatron-FSDP's layers apart, which graphs of layers would hold (zero = {zero})",
        "core/distributed/fsdp/mcore_fsdp_adapter.py:173",
        any_of(_NONE, change(parallelism__overlap_ep=False, backend__megatron__delay_wgrad=False)),
        "kind",
    ),
    _rule(
        "weight_gradients",
        _weight_gradients,
        "delay_wgrad inside a graph needs gradient_accumulation_fusion=true, and attention without biases",
        "training/arguments.py:1829-1848",
        any_of(
            change(backend__megatron__gradient_accumulation_fusion=True),
            change(backend__megatron__delay_wgrad=False),
            _without("attn", "moe_router", "moe_preprocess"),
        ),
    ),
)
