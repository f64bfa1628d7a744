"""config.json as published on the hub, whole: older forms of the keys, and files that are broken."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

import meshwright
from builders import small_model
from meshwright.cli import main
from meshwright.emit.huggingface import config
from meshwright.errors import ConfigError
from meshwright.loading import load
from meshwright.model.count import total_parameters
from meshwright.model.huggingface import read
from meshwright.resolver import resolve
from meshwright.spec.decode import decode
from meshwright.spec.model import Model

BLOOM: dict[str, Any] = {  # bigscience/bloom
    **{"apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0, "hidden_dropout": 0.0},
    **{"architectures": ["BloomForCausalLM"], "attention_softmax_in_fp32": True, "bias_dropout_fusion": True},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "unk_token_id": 0, "use_cache": True},
    **{"initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "masked_softmax_fusion": True, "model_type": "bloom"},
    **{"n_embed": 14336, "n_layer": 70, "num_attention_heads": 112, "vocab_size": 250880, "pretraining_tp": 4},
    **{"slow_but_exact": False, "transformers_version": "4.21.0", "torch_dtype": "bfloat16"},
}
GPT_NEOX: dict[str, Any] = {  # EleutherAI/gpt-neox-20b
    **{"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "hidden_act": "gelu_fast"},
    **{"attention_probs_dropout_prob": 0, "hidden_dropout_prob": 0, "bos_token_id": 0, "eos_token_id": 0},
    **{"hidden_size": 6144, "initializer_range": 0.02, "intermediate_size": 24576, "layer_norm_eps": 1e-05},
    **{"max_position_embeddings": 2048, "num_attention_heads": 64, "num_hidden_layers": 44, "rotary_emb_base": 10000},
    **{"rotary_pct": 0.25, "tie_word_embeddings": False, "torch_dtype": "float16", "vocab_size": 50432},
    **{"transformers_version": "4.19.0.dev0", "use_cache": True},
}
GEMMA2: dict[str, Any] = {  # google/gemma-2-9b
    **{"architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 2},
    **{"attn_logit_softcapping": 50.0, "cache_implementation": "hybrid", "eos_token_id": 1, "pad_token_id": 0},
    **{"final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 3584},
    **{"hidden_activation": "gelu_pytorch_tanh", "initializer_range": 0.02, "intermediate_size": 14336},
    **{"max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 16, "num_hidden_layers": 42},
    **{"num_key_value_heads": 8, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0},
    **{"sliding_window": 4096, "sliding_window_size": 4096, "torch_dtype": "float32", "vocab_size": 256000},
    **{"transformers_version": "4.42.0.dev0", "use_cache": True},
}

GEMMA3_4B: dict[str, Any] = {  # the text_config of google/gemma-3-4b-pt; the rest is as in Gemma3TextConfig
    **{"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34},
    **{"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
}

NEMOTRON_H: dict[str, Any] = {  # nvidia/Nemotron-H-56B-Base-8K
    **{"architectures": ["NemotronHForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "chunk_size": 128},
    **{"attention_head_dim": 128, "bos_token_id": 1, "conv_kernel": 4, "eos_token_id": 2, "expand": 2, "n_groups": 8},
    **{"hidden_dropout": 0.0, "hidden_size": 8192, "initializer_range": 0.02, "intermediate_size": 32768},
    **{"hybrid_override_pattern": f"M-M-M-M*-{'M-M-M-M-M*-' * 9}M-M-M-M-M-", "layer_norm_epsilon": 1e-05},
    **{"mamba_head_dim": 64, "mamba_hidden_act": "silu", "mamba_num_heads": 256, "mamba_proj_bias": False},
    **{"max_position_embeddings": 8192, "mlp_bias": False, "mlp_hidden_act": "relu2", "model_type": "nemotron_h"},
    **{"num_attention_heads": 64, "num_hidden_layers": 118, "num_key_value_heads": 8, "num_logits_to_keep": 1},
    **{"pad_token_id": 0, "rescale_prenorm_residual": True, "residual_in_fp32": False, "rms_norm_eps": 1e-05},
    **{"sliding_window": None, "ssm_state_size": 256, "tie_word_embeddings": False, "time_step_floor": 0.0001},
    **{"time_step_limit": [0.0, float("inf")], "time_step_max": 0.1, "time_step_min": 0.001, "time_step_rank": 512},
    **{"torch_dtype": "bfloat16", "transformers_version": "4.48.0.dev0", "use_bias": False, "use_cache": True},
    **{"use_conv_bias": True, "use_mamba_kernels": True, "vocab_size": 131072},
}

HUNYUAN: dict[str, Any] = {  # tencent/Hunyuan-A13B, less what is of pictures; head_dim is transformers' name
    **{"architectures": ["HunYuanMoEV1ForCausalLM"], "attention_bias": False, "attention_dropout": 0.1},
    **{"attention_head_dim": 128, "head_dim": 128, "bos_token_id": 1, "cla_share_factor": 2, "hidden_act": "silu"},
    **{"hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 32768},
    **{"mlp_bias": False, "model_type": "hunyuan_v1_moe", "moe_intermediate_size": [3072] * 32, "moe_topk": [8] * 32},
    **{"norm_topk_prob": True, "norm_type": "rms", "num_attention_heads": 32, "num_experts": 64},
    **{"num_hidden_layers": 32, "num_key_value_heads": 8, "num_shared_expert": [1] * 32, "rms_norm_eps": 1e-05},
    **{"rope_scaling": {"alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "type": "dynamic"}},
    **{"rope_theta": 10000.0, "routed_scaling_factor": 1.0, "tie_word_embeddings": True, "use_cla": False},
    **{"use_mixed_mlp_moe": True, "use_mla": False, "use_qk_norm": True, "vocab_size": 128167, "vit_patch": 1},
}


def written(folder: Path, settings: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "ours"),
    [
        (BLOOM, "bloom_176b"),
        (GPT_NEOX, "gpt_neox_20b"),
        (GEMMA2, "gemma2_9b"),
        (NEMOTRON_H, "nemotron_h_56b"),
        (HUNYUAN, "hunyuan_a13b"),
        (
            {**config(load(["model=gpt2_medium"]).stages[0].model), "n_special": 0, "predict_special_tokens": True},
            "gpt2_medium",
        ),
        ({**config(load(["model=qwen3_30b_a3b"]).stages[0].model), "use_qk_norm": True}, "qwen3_30b_a3b"),
    ],
)
def test_the_published_file_is_the_model_of_the_library(settings: dict[str, Any], ours: str, tmp_path: Path) -> None:
    theirs = decode(Model, read(written(tmp_path, settings)))
    (spec,) = load([f"model={ours}", "cluster.gpus=8"]).stages
    assert total_parameters(theirs) == total_parameters(spec.model)
    assert (theirs.layers, theirs.heads, theirs.positions) == (
        spec.model.layers,
        spec.model.heads,
        spec.model.positions,
    )


def test_hunyuans_stretched_base_is_the_librarys(tmp_path: Path) -> None:
    theirs = decode(Model, read(written(tmp_path, HUNYUAN)))
    ours = load(["model=hunyuan_a13b"]).stages[0].model
    assert (theirs.rope, theirs.qk_norm, theirs.moe) == (ours.rope, "rotated", ours.moe)


def test_norms_behind_the_positions_are_not_megatrons() -> None:
    words = ["model=hunyuan_a13b", "cluster.gpus=64", "parallelism.zero=3", "training.global_batch=64"]
    (refused,), (taken,) = (load([*words, f"backend={name}"]).stages for name in ("megatron", "deepspeed"))
    with pytest.raises(ConfigError, match=r"model\.qk_norm: Megatron has no norms .*; set backend\.name=deepspeed"):
        resolve(refused)
    assert resolve(taken).total_parameters == 80_393_183_232


DEEPSEEK_V3: dict[str, Any] = {**config(load(["model=deepseek_v3"]).stages[0].model), "num_nextn_predict_layers": 1}


@pytest.mark.parametrize(
    ("settings", "alike"),
    [
        ({"model_type": "gemma3", "text_config": GEMMA3_4B, "mm_tokens_per_image": 256}, "gemma3_4b"),
        ({**DEEPSEEK_V3, "model_type": "kimi_k2", "auto_map": {}}, "deepseek_v3"),
        ({"model_type": "kimi_k25", "text_config": {**DEEPSEEK_V3, "model_type": "kimi_k2"}}, "deepseek_v3"),
    ],
)
def test_a_text_within_or_under_another_name_is_read(settings: dict[str, Any], alike: str, tmp_path: Path) -> None:
    theirs = decode(Model, read(written(tmp_path, settings)))
    (spec,) = load([f"model={alike}", "cluster.gpus=8"]).stages
    assert theirs.transformers == spec.model.transformers
    assert total_parameters(theirs) == total_parameters(spec.model)
    for said in ("vocab", "heads", "kv_heads", "head_dim", "sliding_window", "full_attention_every", "rope", "mla"):
        assert getattr(theirs, said) == getattr(spec.model, said), said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({**BLOOM, "hidden_size": 1024}, "hidden_size: contradicts one of its other names"),
        ({**GPT_NEOX, "hidden_dropout_prob": 0.1}, "hidden_dropout_prob: 0.1 has no counterpart here, only 0"),
        ({**GEMMA2, "sliding_window_size": 1024}, "sliding_window_size: 1024 has no counterpart here"),
        ({**config(small_model()), "head_dim": None, "num_attention_heads": 0}, "there are 0 attention heads"),
        ({**GPT_NEOX, "num_attention_heads": 0}, "there are 0 attention heads"),
        ({**HUNYUAN, "moe_topk": [1] + [8] * 31}, "moe_topk: layers with 1, 8 has no counterpart here"),
        ({**HUNYUAN, "num_shared_expert": 2}, "num_shared_expert: 2 has no counterpart here"),
        ({**HUNYUAN, "moe_intermediate_size": 1024}, "1024 beside an intermediate_size of 3072 has no counterpart"),
        ({**HUNYUAN, "use_qk_norm": False}, "use_qk_norm: False has no counterpart here, only True"),
        ({**HUNYUAN, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type: dynamic has no counterpart"),
        ({**GPT_NEOX, "hidden_size": "wide"}, "what follows from its sizes does not"),
        ({**config(small_model()), "rms_norm_eps": float("nan")}, "rms_norm_eps: nan is no number"),
    ],
)
def test_a_broken_file_is_one_line(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(written(tmp_path, settings))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


FALCON: dict[str, Any] = {  # tiiuae/falcon-7b
    **{"alibi": False, "architectures": ["FalconForCausalLM"], "attention_dropout": 0.0, "bias": False},
    **{"bos_token_id": 11, "eos_token_id": 11, "hidden_dropout": 0.0, "hidden_size": 4544, "model_type": "falcon"},
    **{"initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "multi_query": True, "num_attention_heads": 71},
    **{"new_decoder_architecture": False, "num_hidden_layers": 32, "parallel_attn": True, "vocab_size": 65024},
    **{"torch_dtype": "bfloat16", "transformers_version": "4.27.4", "use_cache": True},
}


@pytest.mark.parametrize(
    ("change", "kv_heads", "parallel", "shared"),
    [
        ({}, 1, True, True),  # 7B
        ({"multi_query": False, "parallel_attn": False, "alibi": True, "bias": True}, 71, False, False),  # RW 1B
        (
            {"new_decoder_architecture": True, "num_kv_heads": 8, "num_attention_heads": 64, "hidden_size": 8192},
            8,
            True,
            False,
        ),  # 40B
        ({"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1}, 71, True, True),  # 11B
    ],
)
def test_each_form_of_falcon(
    change: dict[str, Any], kv_heads: int, parallel: bool, shared: bool, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    from meshwright.verify.transformers import count

    model = decode(Model, read(written(tmp_path, {**FALCON, **change})))
    assert (model.kv_heads, model.parallel_residual, model.shared_parallel_norm) == (kv_heads, parallel, shared)
    assert total_parameters(model) == count(config(model)) == count({**FALCON, **change})


def test_synonyms_are_the_keys_they_stand_for(tmp_path: Path) -> None:
    """Transformers writes ``num_local_experts`` where the published Qwen3 says ``num_experts``."""
    (spec,) = load(["model=qwen3_30b_a3b", "cluster.gpus=8"]).stages
    settings = config(spec.model)
    assert settings["num_local_experts"] == 128
    published = {key: value for key, value in settings.items() if key != "num_local_experts"} | {"num_experts": 128}
    assert read(written(tmp_path, published))["moe"] == read(written(tmp_path, settings))["moe"]
    both = {**settings, "num_experts": 64}
    with pytest.raises(ConfigError, match="num_local_experts: contradicts one of its other names"):
        read(written(tmp_path, both))


def test_what_is_off_is_no_part(tmp_path: Path) -> None:
    """GPT-2 as transformers writes it says ``add_cross_attention: false``; what is on by itself must stay on."""
    settings = {**config(small_model()), "add_cross_attention": False, "expert_count": 0, "layer_types": []}
    assert read(written(tmp_path, settings))["layers"] == small_model().layers
    (spec,) = load(["model=gpt_neox_20b", "cluster.gpus=8"]).stages
    with pytest.raises(ConfigError, match="attention_bias: False has no counterpart"):
        read(written(tmp_path, {**config(spec.model), "attention_bias": False}))


def test_infinity_is_read(tmp_path: Path) -> None:
    """As Python's json writes it, and transformers with it (Mamba's time steps); where we need a number it is none."""
    file = written(tmp_path, {**config(small_model()), "time_step_limit": [0.0, float("inf")]}) / "config.json"
    assert "Infinity" in file.read_text()
    with pytest.raises(ConfigError, match="time_step_limit"):
        read(file)
    with pytest.raises(ConfigError, match="rms_norm_eps: inf is no number"):
        read(written(tmp_path, {**config(small_model()), "rms_norm_eps": float("inf")}))


def test_a_refusal_names_the_backend_that_runs_it(tmp_path: Path) -> None:
    folder = written(tmp_path, config(load(["model=starcoder2_3b", "cluster.gpus=8"]).stages[0].model))
    with pytest.raises(ConfigError, match=r"set backend\.name=deepspeed parallelism\.zero=1"):
        resolve(
            load(
                ["model=hf", f"model.path={folder}", "cluster.gpus=8", "backend=megatron", "training.sequence=2048"]
            ).stages[0]
        )


def test_names_are_transformers_own() -> None:
    pytest.importorskip("transformers")
    path = Path(__file__).parents[1] / "benchmarks" / "transformers_configs.py"
    module = importlib.util.spec_from_file_location("transformers_configs", path)
    assert module is not None
    assert module.loader is not None
    written = importlib.util.module_from_spec(module)
    module.loader.exec_module(written)
    shipped = Path(meshwright.__file__).parent / "data" / "transformers.json"
    assert written.table() == json.loads(shipped.read_text("utf-8"))


def test_a_file_nested_too_deeply_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        read(tmp_path)


def test_a_folder_whose_name_has_spaces_compiles(tmp_path: Path) -> None:
    folder = written(tmp_path / "my own (small) model", config(small_model()))
    words = ["model=hf", f"model.path='{folder}'", "cluster.gpus=8", f"runs={tmp_path / 'runs'}", "verify=false"]
    assert main(["compile", *words]) == 0
    (made,) = (tmp_path / "runs").iterdir()
    assert made.name.startswith("my-own-small-model-")
