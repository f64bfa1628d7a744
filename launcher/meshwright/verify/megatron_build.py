"""*Built*: one rank of every stage builds its GPTModel or HybridModel, on a fake process group and the meta device.

Its parameters must equal ours exactly, its layers ours chunk by chunk, its groups those of our grid. Parameters are
those of Transformer Engine's layers; without it, its local stand-ins are built, and where the two differ the stand-in
is changed to what Transformer Engine holds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from meshwright.emit.megatron_hybrid import hybrid
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.layout.plan import Chunk, Plan, Stage
from meshwright.model.kinds import count_kinds
from meshwright.model.layers import parts as parts_of
from meshwright.model.megatron_parts import parts
from meshwright.spec import Model
from meshwright.verify.megatron_emulation import emulate_gpu, substitutions
from meshwright.verify.megatron_objects import objects
from meshwright.verify.megatron_stand_ins import NoAttention, Norm, Replicated, as_transformer_engine
from meshwright.verify.verdict import Check

__all__ = ["built"]

STAND_INS = (
    "Megatron's local layers on the meta device, with Transformer Engine's sharding",
    "core attention without parameters, torch's norms",
)

WITHOUT_TECHNIQUES: dict[str, Any] = {
    **dict.fromkeys(("fp8", "fp4", "moe_expert_rank_capacity_factor")),
    **dict.fromkeys(("fp8_param", "fp4_param", "fp8_output_proj", "first_last_layers_bf16"), False),
    **dict.fromkeys(("moe_router_fusion", "moe_shared_expert_overlap", "moe_paged_stash"), False),
    **dict.fromkeys(("delay_wgrad_compute", "use_transformer_engine_op_fuser"), False),
    **dict.fromkeys(("fine_grained_activation_offloading", "cpu_offloading"), False),
    **dict.fromkeys(("moe_router_padding_for_fp8", "moe_router_padding_for_quantization"), False),
    "moe_flex_dispatcher_backend": "deepep",
    "cuda_graph_impl": "none",
    "cuda_graph_modules": [],
    "offload_modules": [],
    "cpu_offloading_num_layers": 0,
}
"""Kernels, copies and schedules of Transformer Engine, which hold no parameters of their own."""


def built(plan: Plan) -> Check:
    """Build every stage. Run it in a fork."""
    logging.disable(logging.WARNING)
    _only_own_groups()
    emulate_gpu(plan)
    _no_device()
    if plan.spec.model.mamba is not None or plan.spec.model.delta_net is not None:
        _no_kernels()
    wrong = [problem for stage in range(plan.grid.pp) for problem in _stage(plan, stage)]
    total = sum(stage.parameters for stage in plan.stages)
    done = f"{plan.grid.pp} stages, {total:,} parameters on one rank of each; groups of {plan.grid.world:,} ranks"
    return Check("built", not wrong, "; ".join(wrong) or done, STAND_INS + _unrun(plan) + substitutions(plan))


def _unrun(plan: Plan) -> tuple[str, ...]:
    """Where a CPU stops."""
    parts = plan.grid.gtp * plan.grid.egtp > 1
    return ("weights cut into gtp's parts by Megatron; gathering them needs Transformer Engine 2.19",) * parts


def _no_kernels() -> None:
    """Mamba and delta nets are refused without theirs."""
    from meshwright.train import local_scans

    local_scans.install()
    local_scans.without_random_state()


def _only_own_groups() -> None:
    """Megatron enumerates and creates every group of the world on every rank: enumerate once, create our own."""
    import torch.distributed as dist
    from megatron.core import parallel_state

    create = parallel_state.create_group

    def own(ranks: Any = None, *arguments: Any, **options: Any) -> Any:
        if ranks is not None and dist.get_rank() not in ranks:
            return dist.GroupMember.NON_GROUP_MEMBER
        return create(ranks, *arguments, **options)

    parallel_state.create_group = own
    enumerate_ranks = parallel_state.RankGenerator.get_ranks

    seen: dict[tuple[str, str], Any] = {}

    def get_ranks(self: Any, token: str) -> Any:
        key = (f"{self.order} {self.name_to_size}", token)
        if key not in seen:
            seen[key] = enumerate_ranks(self, token)
        return seen[key]

    parallel_state.RankGenerator.get_ranks = get_ranks


def _stage(plan: Plan, stage: int) -> Iterator[str]:
    import torch.distributed as dist
    from megatron.core import parallel_state
    from torch.testing._internal.distributed.fake_pg import FakeStore

    rank = plan.grid.dense.rank(pp=stage)
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=plan.grid.world)
    parallel_state.initialize_model_parallel(
        **kwargs(plan)["initialize_model_parallel"], create_gloo_process_groups=False
    )
    try:
        yield from _groups(plan, rank)
        yield from _counts(plan, stage, _chunks(plan))
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def _groups(plan: Plan, rank: int) -> Iterator[str]:
    """Our grid's groups of this rank against Megatron's own."""
    import torch.distributed as dist
    from megatron.core import parallel_state as ps

    dense, expert = plan.grid.dense, plan.grid.expert
    both = {
        "tp": (ps.get_tensor_model_parallel_group(), dense.group(rank, "tp")),
        "cp": (ps.get_context_parallel_group(), dense.group(rank, "cp")),
        "pp": (ps.get_pipeline_model_parallel_group(), dense.group(rank, "pp")),
        "dp": (ps.get_data_parallel_group(with_gtp_remat=False), dense.group(rank, "dp")),
        "dp-cp": (
            ps.get_data_parallel_group(with_context_parallel=True, with_gtp_remat=False),
            dense.group(rank, "dp", "cp"),
        ),
    }
    if plan.grid.gtp > 1:
        both |= {
            "gtp": (ps.get_gtp_weight_remat_group(), dense.group(rank, "gtp")),
            "gtp-dp": (ps.get_data_parallel_group(), dense.group(rank, "gtp", "dp")),
        }
    if plan.spec.model.moe:
        both |= {
            "etp": (ps.get_expert_tensor_parallel_group(), expert.group(rank, "etp")),
            "ep": (ps.get_expert_model_parallel_group(), expert.group(rank, "ep")),
            "edp": (ps.get_expert_data_parallel_group(with_gtp_remat=False), expert.group(rank, "edp")),
        }
    if plan.grid.egtp > 1:
        both["egtp"] = (ps.get_expert_gtp_weight_remat_group(), expert.group(rank, "egtp"))
    for name, (group, ours) in both.items():
        theirs = sorted(dist.get_process_group_ranks(group))
        if theirs != ours:
            yield f"rank {rank}'s {name} group is {theirs[:4]}..., ours {ours[:4]}..."


def _counts(plan: Plan, stage: int, chunks: list[Any]) -> Iterator[str]:
    named = [item for chunk in chunks for item in chunk.named_parameters()]
    experts = sum(p.numel() for name, p in named if ".experts." in name and ".shared_experts." not in name)
    found = Stage(plan.stages[stage].chunks, sum(p.numel() for _, p in named), experts)
    ours, layers = plan.stages[stage], [len(chunk.decoder.layers) for chunk in chunks]
    wanted = [_layers_of(plan, chunk) for chunk in ours.chunks]
    if layers != wanted:
        yield f"stage {stage} has {layers} layers a chunk, ours {wanted}"
    if found != ours:
        theirs = f"{found.parameters:,} parameters of which {experts:,} of experts"
        yield f"stage {stage} has {theirs}; ours {ours.parameters:,} and {ours.expert_parameters:,}"


def _layers_of(plan: Plan, chunk: Chunk) -> int:
    """HybridModel counts each part of a layer."""
    if not hybrid(plan):
        return chunk.layers
    counts = count_kinds(plan.spec.model, chunk.first, chunk.layers)
    return sum(len(parts_of(kind)) * count for kind, count in counts.items())


def _chunks(plan: Plan) -> list[Any]:
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
    layers = _with_our_parts(_layers(config, stage), config, model, stage)
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


def _with_our_parts(block: Any, config: Any, model: Model, stage: int | None) -> Any:
    """The layers and the embedding that ``--spec`` would build."""
    if parts(model):
        from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

        from meshwright.train.layers import amend, install

        attention = ("alibi", "attention_softcap")  # which holds no parameters
        ours = {name: value for name, value in parts(model).items() if name not in attention}
        install(ours, norm=Norm)
        amend(block, ours, norm=Norm, first=get_transformer_layer_offset(config, stage))
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


def _no_device() -> None:
    """Buffers go to the meta device, streams nowhere."""
    import megatron.core.models.common.embeddings.yarn_rotary_pos_embedding as yarn
    import megatron.core.transformer.experimental_attention_variant.absorbed_mla as absorbed
    import megatron.core.transformer.moe.moe_layer as experts
    import megatron.core.transformer.multi_latent_attention as latent
    import torch

    yarn.get_pos_emb_on_this_cp_rank = lambda positions, *_: positions  # would copy to a GPU

    torch.cuda.current_device = lambda: torch.device("meta")  # type: ignore[assignment,return-value]
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    torch.cuda.Stream = type("Stream", (), {"__init__": lambda self, *_, **__: None})  # type: ignore[assignment,misc]
    latent.HAVE_TE = False
    latent.TELinear = absorbed.TELinear = Replicated
    absorbed.HAVE_TE = False
    experts.HAVE_TE, experts.TELinear = True, Replicated
