"""The layers that stock Megatron-core lacks: same weights, same logits as transformers' models."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from meshwright.compose import load
from meshwright.megatron_parts import SPECS, parts, spec_name
from meshwright.resolver import refusals
from meshwright.spec_model import Model
from meshwright.verify.pool import Crash, fork_map

TINY: dict[str, dict[str, Any]] = {
    "bloom_1b7": {"layers": 2, "hidden": 48, "ffn": 192, "heads": 6, "kv_heads": 6, "head_dim": 8, "vocab": 96},
    "gpt_neox_20b": {"layers": 2, "hidden": 64, "ffn": 256, "heads": 4, "kv_heads": 4, "head_dim": 16, "vocab": 96},
    "falcon_180b": {"layers": 2, "hidden": 64, "ffn": 256, "heads": 4, "kv_heads": 2, "head_dim": 16, "vocab": 96},
}
LENGTH = 24


def tiny(name: str) -> Model:
    (spec,) = load([f"model={name}"]).stages
    return replace(spec.model, **TINY[name], max_positions=64, attention_dropout=0.0, hidden_dropout=0.0)


def largest_difference(name: str) -> tuple[float, float]:
    """Between the logits of transformers' model and of Megatron's with our layers, and the logits' spread."""
    import torch

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1", TORCHDYNAMO_DISABLE="1")
    from meshwright.train import cpu

    cpu.install()
    model = tiny(name)
    torch.manual_seed(0)
    theirs = transformers_model(model)
    ours = megatron_model(model)
    ours.load_state_dict({key: weight for key, weight in renamed(model, theirs.state_dict()).items()}, strict=False)
    tokens = torch.randint(0, model.vocab, (2, LENGTH))
    places = torch.arange(LENGTH).expand(2, -1)
    with torch.no_grad():
        reference, found = theirs(tokens).logits, ours(tokens, places, None)
    return float((reference - found).abs().max()), float(reference.std())


def transformers_model(model: Model) -> Any:
    from meshwright.emit.huggingface import config
    from meshwright.verify.transformers import build

    made = build(config(model), "cpu", "eager").eval()
    for parameter in made.parameters():  # norms and biases start at one and zero: they would hide a swap
        parameter.data.add_(0.3 * parameter.new_empty(parameter.shape).normal_())
    return made


def megatron_model(model: Model) -> Any:
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_config import TransformerConfig

    from meshwright.train.layers import amend, install

    dist.init_process_group("gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    gelu = torch.nn.functional.gelu if model.activation == "gelu" else tanh_gelu
    settings = TransformerConfig(
        num_layers=model.layers,
        hidden_size=model.hidden,
        ffn_hidden_size=model.ffn,
        num_attention_heads=model.heads,
        num_query_groups=model.kv_heads,
        kv_channels=model.head_dim,
        add_bias_linear=model.linear_bias,
        activation_func=gelu,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cpu_initialization=True,
        transformer_impl="local",
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
    )
    layer = get_gpt_layer_local_spec(normalization="LayerNorm")
    install(parts(model))
    amend(layer, parts(model))
    return GPTModel(
        settings,
        layer,
        vocab_size=model.vocab,
        max_sequence_length=model.max_positions,
        share_embeddings_and_output_weights=model.tied_embeddings,
        position_embedding_type="rope" if model.positions == "rope" else "none",
        rotary_percent=model.rope.fraction,
        parallel_output=False,
    ).eval()


def tanh_gelu(x: Any) -> Any:
    import torch

    return torch.nn.functional.gelu(x, approximate="tanh")


NAMES = {
    "word_embeddings.": "embedding.word_embeddings.",
    "embed_in.": "embedding.word_embeddings.",
    "word_embeddings_layernorm.": "embedding.embedding_norm.",
    "h.": "decoder.layers.",
    "layers.": "decoder.layers.",
    "ln_f.": "decoder.final_layernorm.",
    "final_layer_norm.": "decoder.final_layernorm.",
}
IN_LAYER = {
    "ln_attn.": "input_layernorm.",
    "ln_mlp.": "pre_mlp_layernorm.",
    "post_attention_layernorm.": "pre_mlp_layernorm.",
    "attention.query_key_value.": "self_attention.linear_qkv.",
    "self_attention.query_key_value.": "self_attention.linear_qkv.",
    "attention.dense.": "self_attention.linear_proj.",
    "self_attention.dense.": "self_attention.linear_proj.",
    "mlp.dense_h_to_4h.": "mlp.linear_fc1.",
    "mlp.dense_4h_to_h.": "mlp.linear_fc2.",
}


def renamed(model: Model, weights: dict[str, Any]) -> dict[str, Any]:
    """Megatron's names for transformers' weights; both keep queries, keys and values of a group together."""
    named = {}
    for name, weight in weights.items():
        if name in ("lm_head.weight", "embed_out.weight"):
            named["output_layer.weight"] = weight
            continue
        name = name.removeprefix("transformer.").removeprefix("gpt_neox.")
        for theirs, ours in NAMES.items():
            name = ours + name.removeprefix(theirs) if name.startswith(theirs) else name
        for theirs, ours in IN_LAYER.items():
            name = name.replace(f".{theirs}", f".{ours}")
        named[name] = weight
    return named


@pytest.mark.parametrize("name", TINY)
def test_same_weights_same_logits(name: str) -> None:
    pytest.importorskip("megatron.core")
    pytest.importorskip("transformers")
    (result,) = fork_map(largest_difference, [name])
    assert not isinstance(result, Crash), result
    difference, spread = result
    assert spread > 0.1
    assert difference < 1e-4 * spread


def test_alibi_slopes_are_bloom_s() -> None:
    pytest.importorskip("megatron.core")
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    torch = pytest.importorskip("torch")
    from meshwright.train.layers import alibi_slopes

    for heads in (8, 16, 112):
        theirs = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
        assert torch.allclose(alibi_slopes(heads), theirs)


def test_every_named_specification_exists() -> None:
    pytest.importorskip("megatron.core")
    from meshwright.train import layers

    assert set(SPECS.values()) <= set(vars(layers))


@pytest.mark.parametrize(
    ("recipe", "name"), [("bloom_176b", "alibi_embedding_norm"), ("gpt_neox_20b", "parallel_residual")]
)
def test_a_flags_only_file_that_would_drop_a_part_is_refused(recipe: str, name: str) -> None:
    specs = load([f"recipe={recipe}"]).stages
    assert spec_name(specs[0].model) == name
    assert not refusals(specs[0], "megatron")
    (without,) = load([f"recipe={recipe}", "backend.megatron.spec=false"]).stages[:1]
    assert [problem.rule for problem in refusals(without, "megatron")] == ["megatron.parts"]
