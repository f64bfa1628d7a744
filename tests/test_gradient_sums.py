"""Which gradients Megatron sums over tensor-parallel ranks: those of parameters all of them hold, and no others."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest

from meshwright.emit.megatron_kwargs import kwargs
from meshwright.loading import load
from meshwright.model.megatron_parts import parts
from meshwright.resolver import resolve
from meshwright.spec.model import Model
from meshwright.verify.megatron_objects import objects
from meshwright.verify.pool import Crash, fork_map
from test_layers import ON_CPU, positions, stretch, tiny

RANKS, TP = 4, 2
MODELS = ("gpt_oss", "olmo3_7b", "gemma3_1b", "llama4_text")


def summed(name: str) -> dict[str, bool]:
    """Of a model cut with tp=2 and sp, its experts with ep=2: the summed parameters, and whether each is shared."""
    import torch

    model = cut(tiny(name))
    from megatron.core.distributed.finalize_model_grads import _allreduce_non_tensor_model_parallel_grads

    for parameter in model.parameters():
        parameter.main_grad = torch.zeros_like(parameter)
    torch.distributed.all_reduce = lambda gradients, **_: gradients.add_(1)
    group = SimpleNamespace(size=lambda: TP)
    _allreduce_non_tensor_model_parallel_grads([model], model.config, group)
    return {
        name: not getattr(parameter, "tensor_model_parallel", False) and getattr(parameter, "allreduce", True)
        for name, parameter in model.named_parameters()
        if parameter.main_grad.any()
    }


def cut(model: Model) -> Any:
    """The first rank's part of GPTModel, on torch's fake process group."""
    import torch

    os.environ.update(TORCHDYNAMO_DISABLE="1")
    import_module("megatron.training")
    from meshwright.train import cpu

    torch.compiler.set_stance("force_eager")
    import_module("torch._dynamo.trace_rules").get_torch_obj_rule_map()
    cpu.install()
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from meshwright.train.layers import amend, install

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=TP,
        expert_model_parallel_size=2 if model.moe else 1,
        expert_tensor_parallel_size=1 if model.moe else None,
        create_gloo_process_groups=False,
    )
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    settings = TransformerConfig(**{**emitted(model), **ON_CPU, "moe_token_dispatcher_type": "alltoall"})
    stretch(settings, model)
    block = get_gpt_decoder_block_spec(
        settings, False, normalization=settings.normalization, qk_l2_norm=settings.qk_l2_norm
    )
    install(parts(model))
    amend(block, parts(model))
    made = GPTModel(
        settings,
        block,
        vocab_size=model.vocab,
        max_sequence_length=model.position_rows,
        share_embeddings_and_output_weights=model.tied_embeddings,
        position_embedding_type=positions(model),
    )
    made.ddp_config = SimpleNamespace(use_megatron_fsdp=False)
    return made


def emitted(model: Model) -> dict[str, Any]:
    layout = [f"cluster.gpus={RANKS}", f"parallelism.tp={TP}", "parallelism.sp=true"]
    experts = ["parallelism.ep=2", "backend.megatron.moe_grouped_gemm=false"] if model.moe else []
    (spec,) = load([*layout, *experts, "training.precision=fp32", "training.sequence=64"]).stages
    found: dict[str, Any] = objects(kwargs(resolve(replace(spec, model=model)))["TransformerConfig"])
    return found


def test_only_what_all_ranks_hold_is_summed() -> None:
    """An expert's bias is not, nor is a norm over all heads, of which each rank has its own heads' part."""
    pytest.importorskip("megatron.core")
    pytest.importorskip("transformers")
    for name, found in zip(MODELS, fork_map(summed, MODELS), strict=True):
        assert not isinstance(found, Crash), (name, found)
        assert any("layernorm" in parameter for parameter in found), "with sp, norms see a part of the tokens"
        assert [parameter for parameter, shared in found.items() if not shared] == [], name
