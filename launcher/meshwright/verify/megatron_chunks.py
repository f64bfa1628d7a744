"""The model chunks of one rank, built by Megatron's GPTModel or HybridModel on the meta device.

Parameters are those of Transformer Engine's layers; without it, its local stand-ins are built, and where the two differ
the stand-in is changed to what Transformer Engine holds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from meshwright.emit.megatron_hybrid import hybrid
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.layout.plan import Plan
from meshwright.model.megatron_parts import parts
from meshwright.spec import Model
from meshwright.verify.megatron_objects import objects
from meshwright.verify.megatron_stand_ins import NoAttention, Norm, Replicated, as_transformer_engine

__all__ = ["WITHOUT_TECHNIQUES", "chunks"]

WITHOUT_TECHNIQUES: dict[str, Any] = {
    **dict.fromkeys(("fp8", "fp4", "quant_recipe", "moe_expert_rank_capacity_factor")),
    **dict.fromkeys(("fp8_param", "fp4_param", "fp8_output_proj", "first_last_layers_bf16"), False),
    **dict.fromkeys(("moe_router_fusion", "moe_shared_expert_overlap", "moe_paged_stash"), False),
    **dict.fromkeys(("delay_wgrad_compute", "overlap_dispatch_backward_with_experts_wgrad"), False),
    "use_transformer_engine_op_fuser": False,
    **dict.fromkeys(("fine_grained_activation_offloading", "cpu_offloading"), False),
    **dict.fromkeys(("moe_router_padding_for_fp8", "moe_router_padding_for_quantization"), False),
    "moe_pad_expert_input_to_capacity": False,
    "moe_flex_dispatcher_backend": "deepep",
    "cuda_graph_impl": "none",
    "cuda_graph_modules": [],
    "offload_modules": [],
    "cpu_offloading_num_layers": 0,
}
"""Kernels, copies and schedules of Transformer Engine, which hold no parameters of their own."""


def chunks(plan: Plan) -> list[Any]:
    """The model chunks of this rank."""
    import torch
    from megatron.core import parallel_state as ps

    config, model = _config(plan), plan.spec.model
    build = _hybrid_model if hybrid(plan) else _gpt_model
    made = []
    for v in range(plan.spec.parallelism.vpp):
        stage = v if plan.spec.parallelism.vpp > 1 else None
        with torch.device("meta"):
            made.append(
                build(plan, config, stage)(
                    config=config,
                    vocab_size=plan.padded_vocab,
                    max_sequence_length=model.position_rows,
                    pre_process=ps.is_pipeline_first_stage(ignore_virtual=False, vp_stage=stage),
                    post_process=ps.is_pipeline_last_stage(ignore_virtual=False, vp_stage=stage),
                    share_embeddings_and_output_weights=model.tied_embeddings,
                    position_embedding_type="learned_absolute" if model.looks_up_positions else "none",
                    vp_stage=stage,
                )
            )
    return made


def _gpt_model(plan: Plan, config: Any, stage: int | None) -> Callable[..., Any]:
    from megatron.core.models.gpt.gpt_model import GPTModel

    model = plan.spec.model
    layers = _with_our_parts(_layers(config, stage), model)
    mtp = _mtp(config, stage) if model.mtp else None
    return partial(GPTModel, transformer_layer_spec=layers, mtp_block_spec=mtp)


def _hybrid_model(plan: Plan, config: Any, _: int | None) -> Callable[..., Any]:
    from megatron.core.models.hybrid.hybrid_model import HybridModel

    from meshwright.train.hybrid_layers import amended
    from meshwright.train.local_layers import hybrid_stack

    stack = amended(hybrid_stack(Norm, NoAttention, Replicated), parts(plan.spec.model))
    return partial(HybridModel, hybrid_stack_spec=stack, **kwargs(plan)["HybridModel"])


def _config(plan: Plan) -> Any:
    from megatron.core.transformer import transformer_config

    name = "MLATransformerConfig" if plan.spec.model.mla else "TransformerConfig"
    values = objects(kwargs(plan)[name])
    on_meta = {
        "use_cpu_initialization": True,
        "perform_initialization": False,
        "gradient_accumulation_fusion": False,
        "defer_embedding_wgrad_compute": False,  # which fuses them
        "transformer_impl": "local",
        "dsa_kernel_backend": "none",  # the others ask for a GPU
        "moe_grouped_gemm": False,  # the grouped kernels' one tensor holds the same elements
        "moe_token_dispatcher_type": "alltoall",  # dispatchers hold no parameters; flex asks for DeepEP
        "moe_permute_fusion": False,
        "tp_comm_overlap": False,
        **WITHOUT_TECHNIQUES,
        "recompute_granularity": None,  # activations, not parameters
        "recompute_method": None,
        "recompute_num_layers": None,
        "recompute_modules": None,
    }
    return getattr(transformer_config, name)(**{**values, **on_meta})


def _layers(config: Any, vp_stage: int | None) -> Any:
    if config.experimental_attention_variant is not None:
        return _variant_layers(config, vp_stage)
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec

    block = get_gpt_decoder_block_spec(
        config, use_transformer_engine=False, normalization=config.normalization, vp_stage=vp_stage
    )
    for layer in block.layer_specs:
        as_transformer_engine(layer)
    block.layer_norm = Norm
    return block


def _variant_layers(config: Any, vp_stage: int | None) -> Any:
    """Megatron's own choice of the layers that are delta nets."""
    from megatron.core.models.gpt import experimental_attention_variant_module_specs as variants

    from meshwright.train.local_layers import install_variants

    install_variants(Norm, NoAttention, Replicated)
    return variants.get_transformer_block_with_experimental_attention_variant_spec(config, vp_stage=vp_stage)


def _with_our_parts(block: Any, model: Model) -> Any:
    """The layers and the embedding that ``--spec`` would build."""
    if parts(model):
        from meshwright.train.layers import amend, install

        attention = ("alibi", "attention_softcap")  # which holds no parameters
        ours = {name: value for name, value in parts(model).items() if name not in attention}
        install(ours, norm=Norm)
        amend(block, ours, norm=Norm)
    return block


def _mtp(config: Any, vp_stage: int | None) -> Any:
    """As Megatron-LM's gpt_builders.py: the specification of the last decoder layer, repeated."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_layer_specs, get_gpt_mtp_block_spec

    specs = get_gpt_decoder_layer_specs(config, use_transformer_engine=False, normalization=config.normalization)
    as_transformer_engine(specs[-1])
    block = get_gpt_mtp_block_spec(config, specs[-1], use_transformer_engine=False, vp_stage=vp_stage)
    for layer in block.layer_specs if block else ():
        layer.submodules.enorm = layer.submodules.hnorm = layer.submodules.layer_norm = Norm
    return block
