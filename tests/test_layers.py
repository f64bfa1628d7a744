"""The layers that stock Megatron-core lacks: same weights, same logits as transformers' models."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from meshwright.emit.megatron_kwargs import kwargs
from meshwright.loading import load
from meshwright.model.megatron_parts import SPECS, parts, spec_name
from meshwright.resolver import refusals, resolve
from meshwright.spec.model import Model
from meshwright.verify.megatron_objects import objects
from meshwright.verify.pool import Crash, fork_map

TINY: dict[str, dict[str, Any]] = {
    "bloom_1b7": {"layers": 2, "hidden": 48, "ffn": 192, "heads": 6, "kv_heads": 6, "head_dim": 8, "vocab": 96},
    "gpt_neox_20b": {"layers": 2, "hidden": 64, "ffn": 256, "heads": 4, "kv_heads": 4, "head_dim": 16, "vocab": 96},
    "falcon_180b": {"layers": 2, "hidden": 64, "ffn": 256, "heads": 4, "kv_heads": 2, "head_dim": 16, "vocab": 96},
    "gemma2_27b": {
        **{"layers": 2, "hidden": 64, "ffn": 96, "heads": 4, "kv_heads": 2, "head_dim": 16, "vocab": 96},
        **{"sliding_window": 8, "embedding_scale": 8.0, "attention_scale": 0.5},
    },
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
    """GPTModel as the keyword arguments we emit describe it, but for kernels that only GPUs have."""
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
    settings = TransformerConfig(**{**emitted(model), **ON_CPU})
    layer = get_gpt_layer_local_spec(normalization=settings.normalization)
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


ON_CPU: dict[str, Any] = {
    "transformer_impl": "local",
    "use_cpu_initialization": True,
    "bias_activation_fusion": False,
    "bias_dropout_fusion": False,
    "masked_softmax_fusion": False,
    "apply_rope_fusion": False,
    "persist_layer_norm": False,
    "gradient_accumulation_fusion": False,
}


def emitted(model: Model) -> dict[str, Any]:
    """Of one GPU's plan in fp32; the fused bias-GELU kernel is what makes Megatron's GELU the tanh approximation."""
    (spec,) = load(["cluster.gpus=1", "training.precision=fp32", "training.sequence=64"]).stages
    made = objects(kwargs(resolve(replace(spec, model=model)))["TransformerConfig"])
    return {**made, "activation_func": tanh_gelu} if model.activation == "gelu_tanh" else made


def tanh_gelu(x: Any) -> Any:
    import torch

    return torch.nn.functional.gelu(x, approximate="tanh")


NAMES = {
    "word_embeddings.": "embedding.word_embeddings.",
    "embed_in.": "embedding.word_embeddings.",
    "embed_tokens.": "embedding.word_embeddings.",
    "word_embeddings_layernorm.": "embedding.embedding_norm.",
    "h.": "decoder.layers.",
    "layers.": "decoder.layers.",
    "ln_f.": "decoder.final_layernorm.",
    "norm.": "decoder.final_layernorm.",
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
IN_SANDWICH = {
    "post_attention_layernorm.": "self_attention_output_norm.",
    "pre_feedforward_layernorm.": "pre_mlp_layernorm.",
    "post_feedforward_layernorm.": "mlp_output_norm.",
    "self_attn.o_proj.": "self_attention.linear_proj.",
    "self_attn.linear_qkv.": "self_attention.linear_qkv.",
    "mlp.down_proj.": "mlp.linear_fc2.",
}


def renamed(model: Model, weights: dict[str, Any]) -> dict[str, Any]:
    """Megatron's names for transformers' weights; both keep queries, keys and values of a group together."""
    named = {}
    in_layer = IN_SANDWICH if model.norm_placement == "sandwich" else IN_LAYER
    for name, weight in joined(model, weights).items():
        if name in ("lm_head.weight", "embed_out.weight"):
            named["output_layer.weight"] = weight
            continue
        name = name.removeprefix("transformer.").removeprefix("gpt_neox.").removeprefix("model.")
        for theirs, ours in NAMES.items():
            name = ours + name.removeprefix(theirs) if name.startswith(theirs) else name
        for theirs, ours in in_layer.items():
            name = name.replace(f".{theirs}", f".{ours}")
        named[name] = weight
    return named


def joined(model: Model, weights: dict[str, Any]) -> dict[str, Any]:
    """``weights`` with the projections in one that Megatron has in one: queries, keys and values; gate and up."""
    import torch

    made = dict(weights)
    for name in weights:
        if name.endswith("self_attn.q_proj.weight"):
            q, k, v = (made.pop(name.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj"))
            groups = [x.view(model.kv_heads, -1, model.hidden) for x in (q, k, v)]
            made[name.replace("q_proj", "linear_qkv")] = torch.cat(groups, 1).view(-1, model.hidden)
        if name.endswith("mlp.gate_proj.weight"):
            both = [made.pop(name.replace("gate_proj", part)) for part in ("gate_proj", "up_proj")]
            made[name.replace("gate_proj", "linear_fc1")] = torch.cat(both)
    return made


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
    from meshwright.train.attention import alibi_slopes

    for heads in (8, 16, 112):
        theirs = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
        assert torch.allclose(alibi_slopes(heads), theirs)


@pytest.mark.parametrize("back", [None, 7])
def test_attention_with_a_soft_cap_is_the_same_on_a_gpu(back: int | None) -> None:
    """Flex attention, which a GPU runs, against what is written out for a CPU."""
    pytest.importorskip("megatron.core")
    torch = pytest.importorskip("torch")
    from meshwright.train.attention import flexible, written_out

    query, key, value = (torch.randn(2, heads, 128, 16) * 8 for heads in (4, 2, 2))
    with torch.no_grad():
        assert torch.allclose(
            flexible(query, key, value, 0.5, back), written_out(query, key, value, 0.5, back), atol=1e-4
        )


def test_every_named_specification_exists() -> None:
    pytest.importorskip("megatron.core")
    from meshwright.train import layers

    assert set(SPECS.values()) <= set(vars(layers))


@pytest.mark.parametrize(
    ("recipe", "name"),
    [("bloom_176b", "alibi_embedding_norm"), ("gemma2_9b", "gemma2"), ("gpt_neox_20b", "parallel_residual")],
)
def test_a_flags_only_file_that_would_drop_a_part_is_refused(recipe: str, name: str) -> None:
    specs = load([f"recipe={recipe}"]).stages
    assert spec_name(specs[0].model) == name
    assert not refusals(specs[0], "megatron")
    (without,) = load([f"recipe={recipe}", "backend.megatron.spec=false"]).stages[:1]
    assert [problem.rule for problem in refusals(without, "megatron")] == ["megatron.parts"]
