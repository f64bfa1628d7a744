"""HybridModel with the weights of transformers' Nemotron-H and Granite 4 gives their logits."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Any

import pytest

from builders import small_model
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.loading import load
from meshwright.model.megatron_parts import parts
from meshwright.model.pattern import read_pattern
from meshwright.resolver import resolve
from meshwright.spec import Model
from meshwright.spec.model import Mamba, Moe
from meshwright.verify.megatron_objects import objects
from meshwright.verify.pool import Crash, fork_map
from test_layers import ON_CPU, transformers_model
from weights import megatron_weights

LENGTH = 24
NEMOTRON = small_model(
    **{"layers": 5, "pattern": "M-*M-", "hidden": 64, "ffn": 96, "heads": 4, "kv_heads": 2, "vocab": 96},
    **{"activation": "squared_relu", "positions": "none", "max_positions": 64, "transformers": "nemotron_h"},
    mamba=Mamba(heads=8, head_dim=16, groups=2, state=16),
)
GRANITE = replace(
    NEMOTRON,
    layers=3,
    pattern="ME ME *E",
    activation="swiglu",
    ffn=32,
    residual_scale=0.22,
    embedding_scale=12.0,
    attention_scale=0.25,
    logit_scale=0.125,
    transformers="granitemoehybrid",
    mamba=Mamba(heads=8, head_dim=16, groups=1, state=16),
    moe=Moe(experts=4, topk=2, ffn=32, shared_ffn=48),
)
MODELS = {
    "nemotron_h": NEMOTRON,
    "granite": GRANITE,
    "granite, dense": replace(GRANITE, pattern="M- M- *-", ffn=96, moe=None),
}
NAMES = {
    r"model\.embeddings\.": "embedding.word_embeddings.",
    r"model\.norm_f\.": "decoder.final_norm.",
    r"model\.layers\.": "decoder.layers.",
    r"lm_head\.": "output_layer.",
    r"mixer\.conv1d\.": "mixer.conv1d_",
    r"mixer\.up_proj\.": "mlp.linear_fc1.",
    r"mixer\.down_proj\.": "mlp.linear_fc2.",
    r"mixer\.o_proj\.": "self_attention.linear_proj.",
    r"mixer\.linear_qkv\.": "self_attention.linear_qkv.",
}
NORMS = {"M": "norm.", "*": "input_layernorm.", "-": "pre_mlp_layernorm."}


def named(model: Model, weights: dict[str, Any]) -> dict[str, Any]:
    """Megatron's names."""
    return renamed(model, weights) if model.transformers == "nemotron_h" else in_halves(model, weights)


def in_halves(model: Model, weights: dict[str, Any]) -> dict[str, Any]:
    """Of a model whose layers are two of HybridModel's each, a mixer and a feed-forward part."""
    found: dict[str, Any] = {}
    kinds = read_pattern(model.pattern or "")
    for name, weight in megatron_weights(model, weights).items():
        match = re.match(r"decoder\.layers\.(\d+)\.(.*)", name)
        if match is None:
            found[name.replace("final_layernorm", "final_norm")] = weight
            continue
        layer, rest = int(match[1]), match[2].replace("self_attention.mamba.", "mixer.")
        if kinds[layer].ffn == "mlp":
            rest = rest.replace("mlp.shared_experts.", "mlp.")
        if kinds[layer].mixer == "mamba":
            rest = rest.replace("input_layernorm.", "norm.")
        found[f"decoder.layers.{2 * layer + ('mlp' in rest)}.{rest}"] = weight
    return found


def renamed(model: Model, weights: dict[str, Any]) -> dict[str, Any]:
    """Megatron's names; queries, keys and values of each group of heads together."""
    import torch

    found = dict(weights)
    for layer, symbol in enumerate(model.pattern or ""):
        prefix = f"model.layers.{layer}"
        found[f"{prefix}.{NORMS[symbol]}weight"] = found.pop(f"{prefix}.norm.weight")
        if symbol == "*":
            parts = [found.pop(f"{prefix}.mixer.{name}_proj.weight") for name in "qkv"]
            grouped = [part.view(model.kv_heads, -1, model.hidden) for part in parts]
            found[f"{prefix}.mixer.linear_qkv.weight"] = torch.cat(grouped, 1).flatten(0, 1)
    for theirs, ours in NAMES.items():
        found = {re.sub(theirs, ours, name): weight for name, weight in found.items()}
    return found


def megatron_model(model: Model) -> Any:
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.models.hybrid.hybrid_model import HybridModel
    from megatron.core.transformer.transformer_config import TransformerConfig

    from meshwright.train.cpu_layers import CpuAttention, CpuNorm
    from meshwright.train.hybrid_layers import amended
    from meshwright.train.local_layers import hybrid_stack

    dist.init_process_group("gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    (spec,) = load(["cluster.gpus=1", "training.precision=fp32", "training.sequence=64"]).stages
    emitted = kwargs(resolve(replace(spec, model=model)))
    return HybridModel(
        TransformerConfig(**{**objects(emitted["TransformerConfig"]), **ON_CPU}),
        amended(hybrid_stack(CpuNorm, CpuAttention), parts(model)),
        vocab_size=model.vocab,
        max_sequence_length=model.max_positions,
        position_embedding_type="none",
        share_embeddings_and_output_weights=model.tied_embeddings,
        parallel_output=False,
        **emitted["HybridModel"],
    ).eval()


def largest_difference(model: Model) -> tuple[float, float]:
    """Between both models' logits, and the logits' spread."""
    import torch

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1", TORCHDYNAMO_DISABLE="1")
    from meshwright.train import cpu

    torch._dynamo.config.disable = True  # the variable is read at import, and a fork of the tests may have it behind it
    cpu.install()
    torch.manual_seed(0)
    theirs, ours = transformers_model(model), megatron_model(model)
    for module in theirs.modules():
        if hasattr(
            module, "time_step_limit"
        ):  # steps below it are lifted there, and not in mamba_ssm as Megatron calls it
            module.time_step_limit = (0.0, float("inf"))
    found = ours.load_state_dict(named(model, theirs.state_dict()), strict=False)
    assert [key for key in (*found.missing_keys, *found.unexpected_keys) if "_extra_state" not in key] == []
    tokens = torch.randint(0, model.vocab, (2, LENGTH))
    with torch.no_grad():
        reference, logits = theirs(tokens).logits, ours(tokens, torch.arange(LENGTH).expand(2, -1), None)
    return float((reference - logits).abs().max()), float(reference.std())


def test_the_logits_are_those_of_transformers() -> None:
    pytest.importorskip("megatron.core", reason="megatron-core is not installed")
    for name, result in zip(MODELS, fork_map(largest_difference, list(MODELS.values())), strict=True):
        assert not isinstance(result, Crash), f"{name}: {result}"
        difference, spread = result
        assert spread > 0.1, name
        assert difference < 1e-4 * max(1.0, spread), name
