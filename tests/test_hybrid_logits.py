"""HybridModel with the weights of transformers' Nemotron-H gives its logits."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Any

import pytest

from builders import small_model
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.loading import load
from meshwright.resolver import resolve
from meshwright.spec import Model
from meshwright.spec.model import Mamba
from meshwright.verify.megatron_objects import objects
from meshwright.verify.pool import Crash, fork_map
from test_layers import ON_CPU, transformers_model

LENGTH = 24
NEMOTRON = small_model(
    **{"layers": 5, "pattern": "M-*M-", "hidden": 64, "ffn": 96, "heads": 4, "kv_heads": 2, "vocab": 96},
    **{"activation": "squared_relu", "positions": "none", "max_positions": 64, "transformers": "nemotron_h"},
    mamba=Mamba(heads=8, head_dim=16, groups=2, state=16),
)
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
    from meshwright.train.local_layers import hybrid_stack

    dist.init_process_group("gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    (spec,) = load(["cluster.gpus=1", "training.precision=fp32", "training.sequence=64"]).stages
    emitted = kwargs(resolve(replace(spec, model=model)))
    return HybridModel(
        TransformerConfig(**{**objects(emitted["TransformerConfig"]), **ON_CPU}),
        hybrid_stack(CpuNorm, CpuAttention),
        vocab_size=model.vocab,
        max_sequence_length=model.max_positions,
        position_embedding_type="none",
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
    found = ours.load_state_dict(renamed(model, theirs.state_dict()), strict=False)
    assert [key for key in (*found.missing_keys, *found.unexpected_keys) if "_extra_state" not in key] == []
    tokens = torch.randint(0, model.vocab, (2, LENGTH))
    with torch.no_grad():
        reference, logits = theirs(tokens).logits, ours(tokens, torch.arange(LENGTH).expand(2, -1), None)
    return float((reference - logits).abs().max()), float(reference.std())


def test_the_logits_are_those_of_transformers() -> None:
    pytest.importorskip("megatron.core", reason="megatron-core is not installed")
    (result,) = fork_map(largest_difference, [NEMOTRON])
    assert not isinstance(result, Crash), result
    difference, spread = result
    assert spread > 0.1
    assert difference < 1e-4 * max(1.0, spread)
