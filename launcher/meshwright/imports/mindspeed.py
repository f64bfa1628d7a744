"""MindSpeed-LLM's flags (Ascend's fork of Megatron-LM), as Megatron-LM's own arguments say them. Read at c77308a."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from meshwright.imports.found import Given

__all__ = ["FLAGS", "GONE", "OTHER_MODELS", "translated"]

FLAGS: Mapping[str, tuple[str, Any]] = {
    "--context-parallel-algo": ("context_parallel_algo", str),
    "--ulysses-degree-in-cp": ("ulysses_degree_in_cp", int),
    "--first-k-dense-replace": ("first_k_dense_replace", int),
    "--n-shared-experts": ("n_shared_experts", int),
    "--num-layer-list": ("num_layer_list", str),
    "--moe-tp-extend-ep": ("moe_tp_extend_ep", True),
}
"""By flag: what stands for it until ``translated``, and the kind of its value."""

_KERNELS = "a choice of Ascend's kernels"
_SPARES = "MindSpeed's own way to save memory or time, which is not counted here"
GONE: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("--use-fused-swiglu", "--use-fused-rmsnorm", "--use-fused-rotary-pos-emb", "--use-ascend-coc"),
            *("--coc-fused-kernel", "--mla-fa-without-pad", "--mla-mm-split", "--use-sparse-flash-attn"),
            *("--use-fused-lightning-indexer", "--use-fused-lightning-indexer-loss", "--use-triton-gdn"),
            *("--use-triton-mhc", "--use-fused-mhc", "--shape-order", "--ai-framework"),
            "--gemm-gradient-accumulation-fusion",
        ),
        _KERNELS,
    ),
    **dict.fromkeys(
        (
            *("--reuse-fp32-param", "--swap-optimizer", "--swap-attention", "--recompute-activation-function"),
            *("--moe-alltoall-overlap-comm", "--moe-permutation-async-comm", "--moe-fb-overlap"),
            *("--use-cp-send-recv-overlap", "--mtp-mem-efficient-logits", "--schedules-method"),
        ),
        _SPARES,
    ),
}
"""By flag: why nothing of it is carried."""

OTHER_MODELS = (
    *("--noop-layers", "--add-rmsnorm-offset", "--post-norm", "--input-embeds-norm", "--gelu-tanh", "--use-glm-rope"),
    *("--output-logit-softcapping", "--query-pre-attn-scalar", "--interleave-sliding-window", "--enable-dsa-indexer"),
    *("--index-topk", "--full-attention-interval", "--enable-mhc", "--hc-mult", "--o-lora-rank", "--compress-ratios"),
    *("--partial-rotary-factor", "--rope-scaling-type", "--n-hash-layers", "--o-groups"),
)
"""Flags that make another model than the arguments beside them say."""

Named = dict[str, Given]


def translated(given: Mapping[str, Given]) -> Named:
    """With Megatron-LM's argument in the place of each of MindSpeed's, which keeps its flag and its line."""
    held = dict(given)
    for name, say in _SAYS.items():
        if one := held.pop(name, None):
            held |= {argument: replace(one, value=value) for argument, value in say(one.value, held).items()}
    return held


def _value(held: Mapping[str, Given], name: str, otherwise: Any) -> Any:
    return held[name].value if name in held else otherwise


def _algorithm(value: Any, held: Named) -> dict[str, Any]:
    """Ring attention, Ulysses, gathered keys; hybrid is Ulysses within ring attention."""
    kinds = {"megatron_cp_algo": "p2p", "ulysses_cp_algo": "a2a", "kvallgather_cp_algo": "allgather"}
    return {"cp_comm_type": [{**kinds, "hybrid_cp_algo": "a2a+p2p"}.get(value, value)]}


def _within(value: Any, held: Named) -> dict[str, Any]:
    """How many ranks of context parallelism are Ulysses'; the rest is a ring of these groups."""
    cp = _value(held, "context_parallel_size", None)
    known = isinstance(value, int) and isinstance(cp, int) and value > 0
    return {"hierarchical_context_parallel_sizes": [value, cp // value]} if known else {"ulysses_degree_in_cp": value}


def _dense(value: Any, held: Named) -> dict[str, Any]:
    """The first layers are dense, then every so many has experts (core/transformer/transformer_block.py:163)."""
    layers, every = _value(held, "num_layers", None), _value(held, "moe_layer_freq", 1)
    if not isinstance(layers, int) or not isinstance(every, int):
        return {"first_k_dense_replace": value}
    return {"moe_layer_freq": [int(layer >= value and layer % every == 0) for layer in range(layers)]}


def _shared(value: Any, held: Named) -> dict[str, Any]:
    width = _value(held, "moe_ffn_hidden_size", _value(held, "ffn_hidden_size", None))
    known = isinstance(width, int) and isinstance(value, int)
    return {"moe_shared_expert_intermediate_size": value * width} if known else {"n_shared_experts": value}


def _layers(value: Any, held: Named) -> dict[str, Any]:
    """``20,26``: the layers of each stage (training/arguments.py:94); the ends hold the embedding and the head."""
    counts = str(value).split(",")
    if not all(count.strip().isdigit() for count in counts):
        return {"num_layer_list": value}
    stages = ["t" * int(count) for count in counts]
    return {"pipeline_model_parallel_layout": "|".join(["E" + stages[0], *stages[1:]]) + "L"}


def _extended(value: Any, held: Named) -> dict[str, Any]:
    """Tensor-parallel ranks hold experts of their own, whole."""
    tp, ep = (_value(held, f"{kind}_model_parallel_size", 1) for kind in ("tensor", "expert"))
    known = isinstance(tp, int) and isinstance(ep, int)
    return {"expert_model_parallel_size": tp * ep, "expert_tensor_parallel_size": 1} if known else {}


_SAYS: Mapping[str, Callable[[Any, Named], dict[str, Any]]] = {
    "context_parallel_algo": _algorithm,
    "ulysses_degree_in_cp": _within,
    "first_k_dense_replace": _dense,
    "n_shared_experts": _shared,
    "num_layer_list": _layers,
    "moe_tp_extend_ep": _extended,
}
