"""Generalized tensor parallelism: weights kept in parts by ranks with micro-batches of their own, gathered to be used.

Places are files of megatron-core 0.19.2 (below ``megatron/``); Transformer Engine 2.19's interface is a need
(``megatron_needs``).
"""

from __future__ import annotations

from collections.abc import Callable

from meshwright.rules._repairs import Proposals, any_of, change
from meshwright.rules._rule import DEEPSPEED, MEGATRON, TORCHTITAN, Layout, Number, Rule, implies

__all__ = ["RULES"]

_OFF = change(parallelism__gtp=1, parallelism__egtp=1)


def _on(r: Layout) -> bool:
    return r.gtp > 1 or r.egtp > 1


def _rule(part: str, holds: Callable[[Layout], Number], message: str, source: str, mend: Proposals) -> Rule:
    """What must hold where either degree is above one."""
    return Rule(
        id=f"gtp.{part}",
        path="parallelism.gtp",
        backends=MEGATRON,
        holds=lambda r: implies(_on(r), holds(r)),
        message=message,
        source=source,
        repairs=any_of(mend, _OFF),
    )


def _kept_low(r: Layout) -> bool:
    """Weights in 4 bits, and in MXFP8, are gathered as they are kept."""
    details = r.backend.megatron.quantization
    if r.training.precision == "mxfp8":
        return details.param_gather and details.reuse_gradient_buffer
    return r.training.precision != "nvfp4" or details.param_gather


def _recomputes_shared(r: Layout) -> bool:
    """Whether shared experts inside local graphs are run again in 8 or 4 bits."""
    graphs, moe = r.backend.megatron.cuda_graphs, r.model.moe
    captured = not graphs.modules or {"moe", "moe_router"} & set(graphs.modules)
    low = r.training.precision not in ("fp32", "fp16", "bf16")
    shared = moe is not None and bool(moe.shared_ffn) and not r.backend.megatron.moe_shared_expert_overlap
    again = "shared_experts" in (r.spec.parallelism.recompute_modules or ())
    return graphs.kind == "local" and bool(captured) and low and shared and again


RULES: tuple[Rule, ...] = (
    Rule(
        id="gtp.others",
        path="parallelism.gtp",
        backends=(*DEEPSPEED, "accelerate_fsdp", *TORCHTITAN),
        holds=lambda r: not _on(r),
        message="gtp = {gtp}, egtp = {egtp} are Megatron's alone; zero=3 gathers weights over all of dp",
        source="Megatron's own: core/tensor_parallel/generalized_tensor_parallelism.py",
        repairs=_OFF,
    ),
    _rule(
        "zero",
        lambda r: r.zero <= 1,
        "gtp = {gtp}, egtp = {egtp} keep weights in parts already, which no FSDP (zero = {zero}) knows of; "
        "gradients reach the distributed optimizer's buffers alone",
        "core/distributed/distributed_data_parallel.py:376; no FSDP has such a hook",
        change(parallelism__zero=1),
    ),
    _rule(
        "instances",
        lambda r: r.spec.parallelism.optimizer_instances == 1,
        "{spec.parallelism.optimizer_instances} optimizer instances with gtp = {gtp}, egtp = {egtp} are not yet "
        "supported",
        "core/parallel_state.py:808",
        change(parallelism__optimizer_instances=1),
    ),
    _rule(
        "transformer",
        lambda r: r.backend.megatron.transformer == "transformer_engine",
        "gtp = {gtp}, egtp = {egtp} are Transformer Engine's layers', not transformer={backend.megatron.transformer}",
        "training/initialize.py:365: HAVE_GTP",
        change(backend__megatron__transformer="transformer_engine"),
    ),
    _rule(
        "tied",
        lambda r: implies(r.gtp > 1, not r.model.tied_embeddings),
        "gtp = {gtp} keeps a part of the embedding, which the output layer of {model.name} is handed as its weight: it "
        "refuses another shape than its own",
        "core/models/gpt/gpt_model.py:664; core/tensor_parallel/layers.py:1134, at the first step",
        change(model__tied_embeddings=False),
    ),
    _rule(
        "biases",
        lambda r: not r.model.linear_bias and implies(r.gtp > 1, not r.model.qkv_bias),
        "Transformer Engine makes a bias as long as the part of the weight that gtp = {gtp}, egtp = {egtp} leave, and "
        "adds it to the whole output; {model.name} has biases",
        "core/extensions/transformer_engine.py:445: out_features is cut before the module, with its bias, is made",
        change(model__linear_bias=False, model__qkv_bias=False),
    ),
    _rule(
        "low_weights",
        _kept_low,
        "gtp = {gtp}, egtp = {egtp} keep no bf16 weights beside {training.precision}: it needs quantization."
        "param_gather=true, and mxfp8 reuse_gradient_buffer=true",
        "training/arguments.py:1476, :1535, :1543",
        change(
            backend__megatron__quantization__param_gather=True,
            backend__megatron__quantization__reuse_gradient_buffer=True,
        ),
    ),
    _rule(
        "checkpoints",
        lambda r: r.backend.megatron.checkpoint_format in (None, "torch", "torch_dist"),
        "checkpoint_format={backend.megatron.checkpoint_format} cannot hold the parts of gtp = {gtp}, egtp = {egtp}",
        "training/arguments.py:1518",
        change(backend__megatron__checkpoint_format="torch_dist"),
    ),
    _rule(
        "fused_mlp",
        lambda r: implies(r.gtp > 1, not r.backend.megatron.op_fuser),
        "the fused MLP of op_fuser=true does not know the parts that gtp = {gtp} leaves",
        "core/transformer/mlp.py:408",
        change(backend__megatron__op_fuser=False),
    ),
    _rule(
        "graphs",
        lambda r: implies(r.gtp > 1, not _recomputes_shared(r)),
        "with gtp = {gtp} shared experts inside local CUDA graphs cannot be recomputed in {training.precision}",
        "core/transformer/transformer_config.py:2587",
        change(backend__megatron__cuda_graphs__kind="full_iteration", backend__megatron__cuda_graphs__modules=()),
    ),
)
