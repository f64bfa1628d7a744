"""Weights of transformers' models under the names and in the order of Megatron's GPTModel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from meshwright.spec.model import Model

__all__ = ["megatron_weights"]

TOP = {
    r"(word_embeddings|embed_in|embed_tokens|wte|tokens_embed|w)\.": "embedding.word_embeddings.",
    r"(embed_positions|wpe|positions_embed)\.": "embedding.position_embeddings.",
    r"(word_embeddings_layernorm|layernorm_embedding)\.": "embedding.embedding_norm.",
    r"(ln_f|norm_f|(embedding_)?norm|final_layer_?norm|layer_norm|layernorm)\.": "decoder.final_layernorm.",
    r"(lm_head|embed_out|output_projection)\.": "output_layer.",
    r"(h|layers|blocks)\.(\d+)\.": r"decoder.layers.\2.",
}
PREFIX = r"^(transformer|gpt_neox|biogpt|model)\.(decoder\.)?"
IN_LAYER = {
    r"\bencoder_attn\.out_proj\.": "idle_attention.linear_proj.",
    r"\bencoder_attn\.": "idle_attention.",
    r"\bencoder_attn_layer_norm\.": "idle_norm.",
    r"\bmulti_head_attention\.": "self_attention.",
    r"\bffn\.0\.": "mlp.linear_fc1.",
    r"\bffn\.2\.": "mlp.linear_fc2.",
    r"\b(block_sparse_moe|feed_forward|ffn|mlp)\.": "mlp.",
    r"\b(self_attn|attn\.attention|attn|attention|self_attention)\.": "self_attention.",
    r"attention\.(o_proj|out_proj|dense|c_proj)\.": "attention.linear_proj.",
    r"\.(query_key_value|qkv_proj)\.": ".linear_qkv.",
    r"self_attention\.q_norm\.|self_attention\.q_layernorm\.": "self_attention.q_layernorm.",
    r"self_attention\.k_norm\.|self_attention\.k_layernorm\.": "self_attention.k_layernorm.",
    r"mlp\.shared_experts?\.": "mlp.shared_experts.",
    r"\bshared_mlp\.": "mlp.shared_experts.",
    r"\.(input_linear)\.": ".linear_fc1.",
    r"\.(output_linear)\.": ".linear_fc2.",
    r"mlp\.(gate\.)?(moe_statics\.)?e_score_correction_bias|mlp\.expert_bias": "mlp.router.expert_bias",
    r"self_attention\.sinks": "self_attention.core_attention.softmax_offset",
    r"mlp\.(router\.gate|gate|router)\.": "mlp.router.",
    r"\.(gate_up_proj|dense_h_to_4h|up_proj|fc1|fc_in|c_fc)\.": ".linear_fc1.",
    r"\.(down_proj|dense_4h_to_h|fc2|fc_out|c_proj)\.": ".linear_fc2.",
    r"\.act_fn\.": ".activation_func.",
    r"\bfc1\.": "mlp.linear_fc1.",
    r"\bfc2\.": "mlp.linear_fc2.",
    r"\bmamba\.conv1d\.": "mamba.conv1d_",
    r"\bmamba\.": "self_attention.mamba.",
    r"\bconv\.(in_proj|out_proj)\.": r"self_attention.\1.",
    r"\bconv\.conv\.weight": "self_attention.conv_weight",
    r"\b(ln_1|ln_attn|operator_norm|self_attn_layer_norm|attention_layernorm|norm_1|layernorm1)\.": "input_layernorm.",
    r"\b(ffn_norm|pre_ff_layernorm)\.": "pre_mlp_layernorm.",
    r"\b(ln_2|ln_mlp|final_layer_norm|feedforward_layernorm|norm_2|layernorm2)\.": "pre_mlp_layernorm.",
}
BEHIND = {
    "pre": {r"\bpost_attention_layernorm\.": "pre_mlp_layernorm."},
    "carried": {r"\bpost_attention_layernorm\.": "pre_mlp_layernorm."},
    "sandwich": {
        r"\b(post_attention_layernorm|post_self_attn_layernorm|post_norm1)\.(?=\w+$)": "self_attention_output_norm.",
        r"\b(pre_feedforward_layernorm|pre_mlp_layernorm)\.": "pre_mlp_layernorm.",
        r"\b(post_feedforward_layernorm|post_mlp_layernorm|post_norm2)\.": "mlp_output_norm.",
    },
    "output": {
        r"\bpost_attention_layernorm\.": "self_attention_output_norm.",
        r"\bpost_feedforward_layernorm\.": "mlp_output_norm.",
    },
    "post": {
        r"\b(ln_1|self_attn_layer_norm)\.": "self_attention_output_norm.",
        r"\b(ln_2|final_layer_norm)\.": "mlp_output_norm.",
    },
}
PRE_MLP = {
    r"\b(post_self_attn_layernorm|post_norm1)\.": "self_attention_output_norm.",
    r"\bpost_attention_layernorm\.": "pre_mlp_layernorm.",
    r"\b(post_mlp_layernorm|post_norm2)\.": "mlp_output_norm.",
}
"""Of GLM-4 and HyperCLOVA X, whose norm "after attention" is the one before the MLP."""
INTERLEAVED = {
    "glm",
    "glm4",
    "ernie4_5",
    "ernie4_5_moe",
    "helium",
    "cohere",
    "cohere2",
    "cohere2_moe",
    "gptj",
    "llama4_text",
}
"""Architectures that rotate neighbours; Megatron rotates halves, which is the same once rows change places."""


def megatron_weights(model: Model, state: Mapping[str, Any]) -> dict[str, Any]:
    """By Megatron's name. Both keep queries, keys and values of a group together."""
    plain = _separate({re.sub(PREFIX, "", name): weight for name, weight in state.items()})
    if not model.embedding_norm:  # BigBird-Pegasus calls its last norm so
        plain = {name.replace("layernorm_embedding", "layer_norm"): weight for name, weight in plain.items()}
    joined = _joined(model, plain)
    behind = PRE_MLP if model.transformers in ("glm4", "hyperclovax", "kolibri1") else BEHIND[model.norm_placement]
    named = {_renamed(name, behind): weight for name, weight in _experts(model, joined).items()}
    if model.transformers != "falcon_h1":
        return named
    beside = ("self_attention.linear_", "self_attention.attention.linear_")  # attention stands beside Mamba
    return {name.replace(*beside): weight for name, weight in named.items()}


def _renamed(name: str, behind: Mapping[str, str]) -> str:
    for theirs, ours in TOP.items():
        name, found = re.subn(f"^{theirs}", ours, name)
        if found:
            break
    if not name.startswith("decoder.layers."):
        return name
    layer = ".".join(name.split(".")[:3])
    rest = name.removeprefix(f"{layer}.")
    for theirs, ours in {**behind, **IN_LAYER}.items():
        rest = re.sub(theirs, ours, rest)
    return f"{layer}.{rest}"


def _separate(weights: dict[str, Any]) -> dict[str, Any]:
    """Under the names of most: CTRL's own, and GPT's one convolution over a token, which is a linear layer."""
    made, convolved = dict(weights), any(".c_attn." in name for name in weights)
    for name, weight in weights.items():
        if re.search(r"\.W[qkv]\.", name):
            made[re.sub(r"\.W([qkv])\.", r".\1_proj.", name)] = made.pop(name)
        elif convolved and re.search(r"\.(c_attn|c_fc|c_proj)\.weight$", name):
            made[name] = weight.t()
        if found := re.search(r"\.feed_forward\.(w[123])\.weight$", name):  # LFM2's
            plain = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}[found[1]]
            made[name.replace(found[1], plain)] = made.pop(name)
        if name.endswith(".conv.conv.weight"):
            made[name] = weight.squeeze(1)
        if name.endswith("moe_statics.e_score_correction_bias"):
            made[name] = weight.flatten()
        if re.search(r"\.c_attn\.(weight|bias)$", name):
            for part, rows in zip("qkv", made.pop(name).chunk(3), strict=True):
                made[name.replace("c_attn", f"{part}_proj")] = rows
    return made


def _joined(model: Model, weights: dict[str, Any]) -> dict[str, Any]:
    """With the projections in one that Megatron has in one: queries, keys and values; gate and up."""
    import torch

    made = dict(weights)
    for name in weights:
        gated = name.replace("qkv_proj", "output_gate")
        if gated != name and gated in made:  # lightning attention: a head's queries, keys, values and gates
            both = [made.pop(part).view(model.heads, -1, model.hidden) for part in (name, gated)]
            made[name] = torch.cat(both, 1).flatten(0, 1)
            continue
        if re.search(r"\.q_proj\.(weight|bias)$", name):
            q, k, v = (made.pop(name.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj"))
            gate = made.pop(name.replace("q_proj", "gate_proj"), None) if "attn" in name else None
            made[name.replace("q_proj", "linear_qkv")] = _grouped(model, _turned(model, q), _turned(model, k), v, gate)
        elif name.endswith(("self_attn.qkv_proj.weight", "attn.Wqkv.weight")):
            heads = (model.heads, model.kv_heads, model.kv_heads)
            q, k, v = made[name].split([n * model.head_dim for n in heads])
            made[name.replace("Wqkv", "qkv_proj")] = _grouped(model, q, k, v, None)
        elif re.search(r"\.gate_proj\.(weight|bias)$", name) and name in made and "self_attn" not in name:
            both = [made.pop(name.replace("gate_proj", part)) for part in ("gate_proj", "up_proj")]
            made[name.replace("gate_proj", "linear_fc1")] = torch.cat(both)
        elif re.search(r"embed_positions", name):
            made[name] = torch.roll(made[name], -model.position_offset, 0)  # Megatron's first position is the first
    return made


def _grouped(model: Model, q: Any, k: Any, v: Any, gate: Any) -> Any:
    """A group's queries (and their gates), its key and its value, one after the other."""
    import torch

    parts = (q, k, v) if gate is None else (q, gate, k, v)
    groups = [x.reshape(model.kv_heads, -1, *x.shape[1:]) for x in parts]
    return torch.cat(groups, 1).reshape(-1, *q.shape[1:])


def _turned(model: Model, rows: Any) -> Any:
    """Rows of neighbours that rotate together, put half a head apart."""
    turned = int(model.head_dim * model.rope.fraction)
    if model.transformers == "nanochat":  # turns the other way round
        order = [*range(turned // 2, turned), *range(turned // 2)]
        return rows.reshape(-1, model.head_dim, *rows.shape[1:])[:, order].reshape(rows.shape)
    if model.transformers not in INTERLEAVED:
        return rows
    order = [*range(0, turned, 2), *range(1, turned, 2), *range(turned, model.head_dim)]
    return rows.reshape(-1, model.head_dim, *rows.shape[1:])[:, order].reshape(rows.shape)


def _stacked(model: Model, name: str, stack: Any) -> Any:
    """``[experts, outputs, inputs]``, first the gates, then what they multiply."""
    import torch

    if ".experts." not in name or model.transformers not in ("gpt_oss", "llama4_text"):
        return stack
    stack = stack if name.endswith("_bias") else stack.transpose(1, 2)
    if model.transformers == "gpt_oss" and "gate_up" in name:
        return torch.cat([stack[:, ::2], stack[:, 1::2]], 1)
    return stack


def _experts(model: Model, weights: dict[str, Any]) -> dict[str, Any]:
    """Each expert of a stack by itself."""
    made = {}
    for name, stack in weights.items():
        stack = _stacked(model, name, stack)
        found = re.match(r"(.*\.experts)\.(gate_up_proj|down_proj)(_bias)?$", name)
        if not found:
            made[name] = stack
            continue
        linear = {"gate_up_proj": "linear_fc1", "down_proj": "linear_fc2"}[found[2]]
        for i, one in enumerate(stack):
            made[f"{found[1]}.local_experts.{i}.{linear}.{'bias' if found[3] else 'weight'}"] = one
    return made
