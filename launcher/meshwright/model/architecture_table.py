"""The architectures of transformers that a Model can be written to and read from; see ``architectures``."""

from __future__ import annotations

from collections.abc import Mapping

from meshwright.model.architecture_parts import (
    ALIASES,
    GATED,
    LATENT,
    PLAIN,
    biases,
    gemma3_rope,
    layer_kinds,
    rope,
    routed,
    shared_experts,
    without_rope,
)
from meshwright.model.architectures import Architecture, Flat, Part, key

__all__ = ["ARCHITECTURES"]


def _activation(name: str, table: Mapping[str, str], default: str) -> Part:
    ours = {theirs: our for our, theirs in table.items()}
    ours |= {alias: ours[theirs] for alias, theirs in ALIASES.items() if alias not in ours and theirs in ours}
    return key("activation", name, default, table, ours)


def _sizes(kv: bool = True) -> tuple[Part, ...]:
    parts = (
        key("vocab", "vocab_size"),
        key("hidden", "hidden_size"),
        key("layers", "num_hidden_layers"),
        key("heads", "num_attention_heads"),
        key("max_positions", "max_position_embeddings", 2048),
        key("init_std", "initializer_range", 0.02),
        key("attention_dropout", "attention_dropout", 0.0),
    )
    groups = key("kv_heads", "num_key_value_heads", lambda config: config["num_attention_heads"])
    return (*parts, groups) if kv else parts


def _tied(default: bool) -> Part:
    return key("tied_embeddings", "tie_word_embeddings", default)


def _head_dim(flat: Flat) -> int:
    return _per_head(flat["hidden"], flat["heads"])


def _per_head(hidden: int, heads: int) -> int:
    if not heads:
        raise ValueError(f"there are {heads} attention heads")
    return int(hidden // heads)


_HEAD_DIM = key("head_dim", "head_dim", lambda config: _per_head(config["hidden_size"], config["num_attention_heads"]))
_FFN = key("ffn", "intermediate_size")
_SILU = _activation("hidden_act", GATED, "silu")


def _eps(name: str = "rms_norm_eps", default: float = 1e-6) -> Part:
    return key("norm_eps", name, default)


_RMS = {"norm": "rmsnorm", "positions": "rope"}
_LAYER = {"norm": "layernorm"}
_OWN_HEADS = {"head_dim": _head_dim}
_LLAMA = (*_sizes(), _FFN, _SILU, _eps(), _tied(False), _HEAD_DIM, rope())
_DENSE_EXPERTS = {"ffn": lambda flat: flat["moe.ffn"]}
_TOPK_FIRST = {"moe.score_before_topk": lambda flat: not flat["moe.normalize_topk"]}
_NORMALIZED = key("moe.normalize_topk", "norm_topk_prob", False)
_NO_WINDOW = {"use_sliding_window": False}
_UNUSED_WINDOW = ("sliding_window", "max_window_layers", "layer_types")
_GEMMA = {
    **_RMS,
    "norm_zero_centered": True,
    "embedding_scale": lambda flat: flat["hidden"] ** 0.5,
}
_SQUARE = key(
    "attention_scale", "query_pre_attn_scalar", 256, lambda scale: _whole(scale**-2), lambda scalar: scalar**-0.5
)


def _whole(number: float) -> float:
    """``1/scale²`` was an integer before the root was taken."""
    return round(number) if abs(number - round(number)) < 1e-6 * number else number


_GEMMA2 = (
    *_sizes(),
    _FFN,
    _activation("hidden_activation", GATED, "gelu_pytorch_tanh"),
    _eps(),
    _tied(True),
    key("head_dim", "head_dim", 256),
    _SQUARE,
    key("attention_softcap", "attn_logit_softcapping", None),
    key("final_softcap", "final_logit_softcapping", None),
)
_GPT2 = (
    key("vocab", "vocab_size"),
    key("hidden", "n_embd"),
    key("layers", "n_layer"),
    key("heads", "n_head"),
    key("ffn", "n_inner", lambda config: 4 * config["n_embd"]),
    key("max_positions", "n_positions", 1024),
    key("init_std", "initializer_range", 0.02),
    key("norm_eps", "layer_norm_epsilon", 1e-5),
    key("attention_dropout", "attn_pdrop", 0.1),
    key("hidden_dropout", "resid_pdrop", 0.1),
    key("hidden_dropout", "embd_pdrop", 0.1),
    _activation("activation_function", PLAIN, "gelu_new"),
    _tied(True),
)
_GPT2_IMPLIED = {**_LAYER, **_OWN_HEADS, "positions": "learned", "linear_bias": True}
_GPT2_IGNORED = (
    *("n_ctx", "summary_type", "summary_use_proj", "summary_activation", "summary_first_dropout"),
    *("summary_proj_to_labels", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"),
)
_DEEPSEEK = (
    *_sizes(),
    _FFN,
    _SILU,
    _eps(),
    _tied(False),
    rope(),
    *LATENT,
    key("moe.experts", "n_routed_experts"),
    key("moe.topk", "num_experts_per_tok"),
    key("moe.ffn", "moe_intermediate_size"),
    shared_experts(),
    key("moe.first_dense", "first_k_dense_replace", 0),
    key("moe.groups", "n_group", 1),
    key("moe.group_topk", "topk_group", 1),
    key("moe.scaling", "routed_scaling_factor", 1.0),
)
_DEEPSEEK_IMPLIED = {**_RMS, "head_dim": lambda flat: flat["mla.qk_nope_dim"] + flat["mla.qk_rope_dim"]}
_DEEPSEEK_IGNORED = (
    "ep_size",
    "seq_aux",
    "aux_loss_alpha",
    "output_router_logits",
    "head_dim",
    "qk_head_dim",
    "mlp_bias",
)

_TABLE = (
    Architecture("llama", "LlamaForCausalLM", (*_LLAMA, *biases("attention_bias", "mlp_bias")), _RMS),
    Architecture("mistral", "MistralForCausalLM", (*_LLAMA, key("sliding_window", "sliding_window", None)), _RMS),
    Architecture(
        "mixtral",
        "MixtralForCausalLM",
        (
            *(part for part in _LLAMA if part is not _FFN),
            key("sliding_window", "sliding_window", None),
            *routed("num_local_experts", "intermediate_size"),
        ),
        {**_RMS, **_DENSE_EXPERTS},
        {"router_jitter_noise": 0.0},
        expert_preset="mixtral",
        autotp=False,
    ),
    Architecture(
        "qwen2",
        "Qwen2ForCausalLM",
        tuple(part for part in _LLAMA if part is not _HEAD_DIM),
        {**_RMS, **_OWN_HEADS, "qkv_bias": True},
        _NO_WINDOW,
        _UNUSED_WINDOW,
    ),
    Architecture(
        "qwen3",
        "Qwen3ForCausalLM",
        (*_LLAMA, *biases("attention_bias")),
        {**_RMS, "qk_norm": "head"},
        {**_NO_WINDOW, "attention_bias": False},
        _UNUSED_WINDOW,
    ),
    Architecture(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        (
            *(part for part in _LLAMA if part is not _HEAD_DIM),
            key("qkv_bias", "qkv_bias", True),
            key("moe.every", "decoder_sparse_step", 1),
            key("moe.shared_ffn", "shared_expert_intermediate_size"),
            _NORMALIZED,
            *routed("num_experts", "moe_intermediate_size"),
        ),
        {**_RMS, **_OWN_HEADS, **_TOPK_FIRST, "moe.shared_gate": True},
        {**_NO_WINDOW, "mlp_only_layers": []},
        _UNUSED_WINDOW,
        autotp=False,
    ),
    Architecture(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        (
            *_LLAMA,
            key("moe.every", "decoder_sparse_step", 1),
            _NORMALIZED,
            *routed("num_experts", "moe_intermediate_size"),
        ),
        {**_RMS, **_TOPK_FIRST, "qk_norm": "head"},
        {**_NO_WINDOW, "mlp_only_layers": [], "attention_bias": False},
        (*_UNUSED_WINDOW, "num_local_experts"),
        expert_preset="qwen3_moe",
        autotp=False,
    ),
    Architecture(
        "deepseek_v2",
        "DeepseekV2ForCausalLM",
        (
            *_DEEPSEEK,
            Part(
                ("topk_method",),
                (),
                lambda flat: {"topk_method": "greedy" if flat["moe.groups"] == 1 else "group_limited_greedy"},
                lambda _: {},
            ),
        ),
        {**_DEEPSEEK_IMPLIED, "moe.score_before_topk": True, "moe.normalize_topk": False},
        {"norm_topk_prob": False, "attention_bias": False, "scoring_func": "softmax", "moe_layer_freq": 1},
        _DEEPSEEK_IGNORED,
        expert_preset="deepseek_v2",
        ulysses=False,
        autotp=False,
    ),
    Architecture(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        (*_DEEPSEEK, key("moe.normalize_topk", "norm_topk_prob", True), key("mtp", "num_nextn_predict_layers", 0)),
        {**_DEEPSEEK_IMPLIED, "moe.score": "sigmoid", "moe.router_bias": True},
        {
            **{"attention_bias": False, "scoring_func": "sigmoid", "moe_layer_freq": 1},
            **{"topk_method": "noaux_tc", "rope_interleave": True},
        },
        _DEEPSEEK_IGNORED,
        expert_preset="deepseek_v3",
        ulysses=False,
        autotp=False,
    ),
    Architecture(
        "olmo",
        "OlmoForCausalLM",
        (*_sizes(), _FFN, _SILU, _tied(False), rope(), key("qkv_clip", "clip_qkv", None)),
        {"norm": "layernorm_nonparametric", "positions": "rope", **_OWN_HEADS},
        {"attention_bias": False},
    ),
    Architecture(
        "olmo2",
        "Olmo2ForCausalLM",
        (*_sizes(), _FFN, _SILU, _eps(default=1e-5), _tied(False), rope()),
        {**_RMS, **_OWN_HEADS, "norm_placement": "output", "qk_norm": "full"},
        {"attention_bias": False},
        autotp=False,
    ),
    Architecture(
        "olmoe",
        "OlmoeForCausalLM",
        (
            *(*_sizes(), _SILU, _eps(default=1e-5), _tied(False), rope(), key("qkv_clip", "clip_qkv", None)),
            _NORMALIZED,
            *routed("num_experts", "intermediate_size", 0.01),
        ),
        {**_RMS, **_OWN_HEADS, **_DENSE_EXPERTS, **_TOPK_FIRST, "qk_norm": "full"},
        {"attention_bias": False},
        autotp=False,
    ),
    Architecture(
        "gemma",
        "GemmaForCausalLM",
        (
            *(*_sizes(), _FFN, _eps(), _tied(True), key("head_dim", "head_dim", 256), rope()),
            _activation("hidden_act", GATED, "gelu_pytorch_tanh"),
        ),
        _GEMMA,
        {"attention_bias": False},
        ("hidden_activation", "use_bidirectional_attention"),
    ),
    Architecture(
        "gemma2",
        "Gemma2ForCausalLM",
        (*_GEMMA2, rope(), layer_kinds(2)),
        {**_GEMMA, "norm_placement": "sandwich"},
        {"attention_bias": False},
        ("hidden_act", "cache_implementation", "use_bidirectional_attention"),
        sdpa=False,
    ),
    Architecture(
        "gemma3_text",
        "Gemma3ForCausalLM",
        (*_GEMMA2, gemma3_rope(), layer_kinds(6)),
        {**_GEMMA, "norm_placement": "sandwich", "qk_norm": "head"},
        {"attention_bias": False},
        ("hidden_act", "cache_implementation", "use_bidirectional_attention"),
    ),
    Architecture(
        "apertus",
        "ApertusForCausalLM",
        (
            *(*_sizes(), _FFN, _eps(default=1e-5), _tied(False), _HEAD_DIM, rope(12e6)),
            _activation("hidden_act", {"xielu": "xielu"}, "xielu"),
        ),
        {**_RMS, "qk_norm": "head"},
        {"attention_bias": False},
        ("mlp_bias", "post_norm", "qk_norm"),
        autotp=False,  # accepted, but the gradients of xIELU's scalars stay partial sums
    ),
    Architecture(
        "smollm3",
        "SmolLM3ForCausalLM",
        (
            *(*_sizes(), _FFN, _SILU, _eps(), _tied(True), rope(2e6), without_rope()),
            *biases("attention_bias", "mlp_bias"),
        ),
        {**_RMS, **_OWN_HEADS},
        _NO_WINDOW,
        _UNUSED_WINDOW,
    ),
    Architecture(
        "nemotron",
        "NemotronForCausalLM",
        (
            *(*_sizes(), _FFN, _eps("norm_eps", 1e-5), _tied(False), _HEAD_DIM, rope(fraction=0.5)),
            *biases("attention_bias", "mlp_bias"),
            _activation("hidden_act", PLAIN, "relu2"),
        ),
        {**_LAYER, "positions": "rope", "norm_zero_centered": True},
    ),
    Architecture(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        (
            *(*_sizes(kv=False), _FFN, _eps("layer_norm_eps", 1e-5), _tied(False), rope(fraction=0.25)),
            key("parallel_residual", "use_parallel_residual", True),
            key("hidden_dropout", "hidden_dropout", 0.0),
            _activation("hidden_act", PLAIN, "gelu"),
        ),
        {**_LAYER, **_OWN_HEADS, "positions": "rope", "kv_heads": lambda flat: flat["heads"], "linear_bias": True},
        {"attention_bias": True},
        ("classifier_dropout",),
        {"attention_probs_dropout_prob": 0, "hidden_dropout_prob": 0},
        ulysses=False,
    ),
    Architecture(
        "bloom",
        "BloomForCausalLM",
        (
            key("vocab", "vocab_size"),
            key("hidden", "hidden_size", former=("n_embed",)),
            key("layers", "n_layer", former=("num_hidden_layers",)),
            key("heads", "n_head", former=("num_attention_heads",)),
            key("max_positions", "seq_length", 2048),  # alibi: read by nobody, but a model is made for a length
            key("init_std", "initializer_range", 0.02),
            key("norm_eps", "layer_norm_epsilon", 1e-5),
            key("attention_dropout", "attention_dropout", 0.0),
            key("hidden_dropout", "hidden_dropout", 0.0),
            _tied(True),
        ),
        {
            **{**_LAYER, **_OWN_HEADS, "positions": "alibi", "activation": "gelu_tanh", "linear_bias": True},
            **{"embedding_norm": True, "kv_heads": lambda flat: flat["heads"], "ffn": lambda flat: 4 * flat["hidden"]},
        },
        {"apply_residual_connection_post_layernorm": False},
        (
            *("slow_but_exact", "skip_bias_add", "skip_bias_add_qkv", "masked_softmax_fusion", "n_inner"),
            *("attention_softmax_in_fp32", "bias_dropout_fusion"),
        ),
        sdpa=False,
        flash=False,
        autotp=False,
        ulysses=False,
    ),
    Architecture(
        "opt",
        "OPTForCausalLM",
        (
            *(part for part in _sizes(kv=False) if part.keys != ("initializer_range",)),
            key("init_std", "init_std", 0.02),
            key("ffn", "ffn_dim"),
            key("hidden_dropout", "dropout", 0.1),
            Part(("word_embed_proj_dim",), (), lambda flat: {"word_embed_proj_dim": flat["hidden"]}, lambda _: {}),
            _activation("activation_function", PLAIN, "relu"),
            _tied(True),
        ),
        {**_LAYER, **_OWN_HEADS, "positions": "learned", "linear_bias": True, "kv_heads": lambda flat: flat["heads"]},
        {
            **{"do_layer_norm_before": True, "_remove_final_layer_norm": False, "layerdrop": 0.0},
            **{"enable_bias": True, "layer_norm_elementwise_affine": True},
        },
        ("prefix", "activation_dropout"),
        ulysses=False,
    ),
    Architecture(
        "falcon",
        "FalconForCausalLM",
        (
            *(part for part in _sizes(kv=False)),
            key("kv_heads", "num_kv_heads", lambda config: config["num_attention_heads"]),
            key("ffn", "ffn_hidden_size", lambda config: 4 * config["hidden_size"]),
            key("norm_eps", "layer_norm_epsilon", 1e-5),
            key("hidden_dropout", "hidden_dropout", 0.0),
            key("shared_parallel_norm", "num_ln_in_parallel_attn", 2, {True: 1, False: 2}, {1: True, 2: False}),
            key("positions", "alibi", False, {"alibi": True, "rope": False}, {True: "alibi", False: "rope"}),
            _activation("activation", PLAIN, "gelu"),
            *biases("bias"),
            _tied(True),
            rope(),
        ),
        {**_LAYER, **_OWN_HEADS, "parallel_residual": True},
        {"new_decoder_architecture": True, "parallel_attn": True},
        ("multi_query",),
        autotp=False,
        ulysses=False,
    ),
    Architecture(
        "gpt2",
        "GPT2LMHeadModel",
        _GPT2,
        {**_GPT2_IMPLIED, "kv_heads": lambda flat: flat["heads"]},
        {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False},
        _GPT2_IGNORED,
        autotp=False,
        ulysses=False,
    ),
    Architecture(
        "gpt_bigcode",
        "GPTBigCodeForCausalLM",
        (
            *_GPT2,
            Part(
                ("multi_query", "num_key_value_heads"),
                ("kv_heads",),
                lambda flat: {"multi_query": flat["kv_heads"] == 1},
                lambda config: {"kv_heads": 1 if config.get("multi_query", True) else config["n_head"]},
            ),
        ),
        _GPT2_IMPLIED,
        {"scale_attn_weights": True},
        (
            *_GPT2_IGNORED,
            "inference_runner",
            "max_batch_size",
            "max_sequence_length",
            "pad_key_length",
            "pre_allocate_kv_cache",
            "validate_runner_input",
        ),
        autotp=False,
        ulysses=False,
    ),
)

ARCHITECTURES: Mapping[str, Architecture] = {architecture.model_type: architecture for architecture in _TABLE}
